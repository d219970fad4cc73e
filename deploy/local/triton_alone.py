"""`python -m deploy.local.triton_alone --folder DIR`: the real Triton by itself, for whoever measures what it serves.

In: a folder. Out: one JSON line on stdout when it is ready, `{"url", "models", "key"}`; then it runs until SIGTERM or SIGINT,
or until whoever started it is gone.
This module must never serve anything that was not put into `models`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import signal
import sys
import time
from pathlib import Path

from deploy.local import processes
from deploy.local.ports import HOST, free_port
from deploy.local.stopping import StopFlag
from deploy.local.triton_server import REPOSITORY, TritonPorts, remove_leftovers, stage_backends, triton_command

_START_S = 60.0
_STOP_S = 15.0


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 asked to end, 1 Triton ended by itself or was not ready in time (its log says why)."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.triton_alone", description=__doc__)
    parser.add_argument("--folder", required=True, type=Path, metavar="DIR", help="for its models, backends and log")
    parser.add_argument("--environment", type=Path, default=REPOSITORY / ".venv-triton", metavar="DIR", help="Triton's own")
    given = parser.parse_args(arguments)
    stop = StopFlag()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    folder = given.folder.absolute()
    models, backends, log = folder / "models", folder / "backends", folder / "triton.log"
    models.mkdir(parents=True, exist_ok=True)
    stage_backends(given.environment, backends)
    http_port = free_port()
    grpc_port = free_port((http_port,))
    ports = TritonPorts(http_port, grpc_port, free_port((http_port, grpc_port)))
    key = secrets.token_hex(16)
    command, environment = triton_command(given.environment, models, backends, ports, key)
    parent = os.getppid()
    process = processes.start(command, environment, folder, log)
    try:
        deadline = time.monotonic() + _START_S
        while not _is_ready(ports.http):
            if process.poll() is not None or time.monotonic() > deadline:
                print(f"Triton did not start: see {log}", file=sys.stderr)
                return 1
            if stop.wait(0.05):
                return 0
        print(json.dumps({"url": f"http://{HOST}:{ports.http}", "models": str(models), "key": key}), flush=True)
        while not stop.wait(0.2) and os.getppid() == parent:
            if process.poll() is not None:
                print(f"Triton ended by itself: see {log}", file=sys.stderr)
                return 1
        return 0
    finally:
        processes.end(process, signal.SIGTERM, _STOP_S)
        remove_leftovers(ports)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
