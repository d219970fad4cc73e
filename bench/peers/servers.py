"""The servers that ours is compared with, started with the settings that their own documentation recommends.

In: an environment, a folder for files and logs. Out: an address that answers, while the context lasts. This module must never bind
anywhere but 127.0.0.1, or leave a process behind.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.peers.environments import Environment, NotMeasured
from deploy.local import processes
from deploy.local.ports import HOST, free_port

HERE = Path(__file__).resolve().parent
MASTER_KEY = "sk-posthuman-bench"
_START_S = 300.0
"""LiteLLM's workers import for ten seconds each, and much longer on a busy machine."""


@contextmanager
def upstream(work: Path, width: int) -> Iterator[str]:
    """A server that speaks OpenAI's API and answers at once, embeddings of `width` numbers."""
    port = free_port()
    with running(
        [sys.executable, str(HERE / "upstream.py"), str(port), str(width)], {}, work / "upstream", port, "/v1/models", 404
    ):
        yield f"http://{HOST}:{port}"


@contextmanager
def litellm(made: Environment, work: Path, upstream_url: str) -> Iterator[str]:
    """LiteLLM's proxy before an upstream, as its page "Production Best Practices" has it: no debugging, logs of errors only, a
    master key, a worker for each core. Without a database its one key is compared in memory: the least it can do for a call.
    """
    folder = work / "litellm"
    folder.mkdir()
    port = free_port()
    shared = {"api_base": f"{upstream_url}/v1", "api_key": "sk-none"}
    settings = {
        "model_list": [
            {"model_name": "completion", "litellm_params": {"model": "text-completion-openai/bench", **shared}},
            {"model_name": "embedding", "litellm_params": {"model": "openai/bench", **shared}},
        ],
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
    }
    (folder / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    command = [str(made.bin / "litellm"), "--config", str(folder / "config.yaml"), "--host", HOST, "--port", str(port)]
    command += ["--num_workers", str(len(os.sched_getaffinity(0)))]
    quiet = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it asks for a list of prices over the network
    }
    with running(command, quiet, folder, port, "/health/liveliness", 200):
        yield f"http://{HOST}:{port}"


@contextmanager
def mlserver(made: Environment, work: Path, graphs: Mapping[str, Path]) -> Iterator[str]:
    """MLServer with its defaults, one worker process, and a runtime of ours for each graph."""
    folder = work / "mlserver"
    port = free_port()
    grpc_port = free_port((port,))
    ports = {"http_port": port, "grpc_port": grpc_port, "metrics_port": free_port((port, grpc_port))}
    for name, graph in graphs.items():
        (folder / name).mkdir(parents=True)
        model = {"name": name, "implementation": "mlserver_onnx.Onnx", "parameters": {"uri": str(graph)}}
        (folder / name / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps({"host": HOST, **ports}), encoding="utf-8")
    command = [str(made.bin / "mlserver"), "start", str(folder)]
    with running(command, {"PYTHONPATH": str(HERE)}, folder, port, "/v2/health/ready", 200):
        yield f"http://{HOST}:{port}"


@contextmanager
def kserve(made: Environment, work: Path, graphs: Mapping[str, Path]) -> Iterator[str]:
    """KServe's ModelServer with its defaults, one process, and a model of ours for each graph."""
    port = free_port()
    command = [str(made.bin / "python"), str(HERE / "kserve_onnx.py"), str(port)]
    command += [f"{name}={graph}" for name, graph in graphs.items()]
    with running(command, {}, work / "kserve", port, "/v2/health/ready", 200):
        yield f"http://{HOST}:{port}"


@contextmanager
def running(command: Sequence[str], extra: Mapping[str, str], folder: Path, port: int, path: str, status: int) -> Iterator[None]:
    """A server that is ready: GET `path` answers `status`. Raises NotMeasured when it ends or is not ready in time."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("POSTHUMAN_", "PYTHON"))}
    process = processes.start(command, {**outside, "HOME": str(folder), **extra}, folder, log)
    try:
        deadline = time.monotonic() + _START_S
        while _status(port, path) != status:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise NotMeasured(f"did not start: {said[-1][:300] if said else 'it said nothing'}")
            time.sleep(0.2)
        yield
    finally:
        processes.end(process, signal.SIGTERM, 10.0)


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
