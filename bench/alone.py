"""A Triton of a benchmark's own, without a market around it.

In: a folder, entries. Out: an address that answers while the context lasts. This module must never touch another server, or
measure.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.report import REPOSITORY
from control_plane.serving.triton import Triton
from converters.entry import model_digest, read_entry
from converters.pbtxt import config_pbtxt
from deploy.local.ports import free_port
from deploy.local.triton_server import KEY_HEADER, TritonPorts, remove_leftovers, stage_backends, triton_command

_START_S = 60.0
_ENVIRONMENT = REPOSITORY / ".venv-triton"


@dataclass(frozen=True)
class Alone:
    """folder: holds the server's models. headers: what every request needs."""

    folder: Path
    url: str
    key: str

    @property
    def headers(self) -> Mapping[str, str]:
        return {KEY_HEADER: self.key}

    def install(self, entry: Path, name: str, **parameters: str) -> str:
        """Load an entry under a name, with further parameters in its config.pbtxt; where to ask it."""
        target = self.folder / "models" / name
        shutil.copytree(entry, target, dirs_exist_ok=True)
        more = "".join(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items())
        (target / "config.pbtxt").write_text(config_pbtxt(read_entry(entry), name, model_digest(entry)) + more, encoding="utf-8")
        client = Triton(self.url, self.key, timeout_s=_START_S)
        client.load(name)
        client.close()
        return f"{self.url}/v2/models/{name}/infer"


@contextmanager
def triton_alone(folder: Path) -> Iterator[Alone]:
    """Raises RuntimeError with what the server said last, when it does not start."""
    (folder / "models").mkdir(parents=True)
    ports, key = TritonPorts(free_port(), free_port(), free_port()), secrets.token_hex(16)
    stage_backends(_ENVIRONMENT, folder / "backends")
    command, environment = triton_command(_ENVIRONMENT, folder / "models", folder / "backends", ports, key)
    log = folder / "triton.log"
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command, env=dict(environment), stdout=said, stderr=said, cwd=folder)
    alone = Alone(folder, f"http://127.0.0.1:{ports.http}", key)
    client = Triton(alone.url, key, timeout_s=5.0)
    try:
        deadline = time.monotonic() + _START_S
        while not client.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Triton did not start: {log.read_text(encoding='utf-8')[-500:]}")
            time.sleep(0.1)
        client.close()
        yield alone
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()
        remove_leftovers(ports)
