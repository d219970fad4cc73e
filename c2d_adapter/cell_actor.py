"""A Ray actor that keeps one cell: started with the resources of a job, and asked how the job goes.

In: orders. Out: how the cell's job goes. This module must never import a library that opens models: it runs in a process of
Ray's, which has the network; the cell is another process (`c2d_adapter/cell.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from converters.child import OFFLINE, child_environment

_GPUS = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
_LEAVE_S, _END_S = 2.0, 10.0


class CellActor:
    """Every method answers at once, but for `ready`. Made by `ray.remote`, with the resources of its share of a job."""

    def __init__(self, scratch: str, is_open: bool, threads: int) -> None:
        Path(scratch).mkdir(parents=True, exist_ok=True)
        self._home = Path(tempfile.mkdtemp(dir=scratch))
        environment = child_environment(os.environ, self._home)
        environment |= {name: os.environ[name] for name in _GPUS if name in os.environ}
        environment |= {**OFFLINE, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
        self._log = (self._home / "cell.log").open("ab")
        self._cell = subprocess.Popen(
            [sys.executable, "-m", "c2d_adapter.cell", f"--owned={scratch}", *(["--open"] if is_open else [])],
            env=environment,
            cwd=self._home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._orders: Any = self._cell.stdin
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        said: Any = self._cell.stdout
        for line in said:
            self._lines.put(line)
        self._lines.put("")

    def ready(self) -> dict[str, Any]:
        """Wait until the cell can take a job: {"said": [...], "process", "address"}; raises RuntimeError when it cannot start."""
        line = self._lines.get()
        if not line:
            raise RuntimeError(f"a cell ended with {self._cell.wait()} before it was ready")
        return {"said": json.loads(line)["ready"], "process": self._cell.pid}

    def meeting_point(self) -> str:
        """An address of this machine at which the job's processes can find each other."""
        import ray

        address = str(ray.util.get_node_ip_address())
        with socket.socket() as one:
            one.bind((address, 0))
            return f"{address}:{one.getsockname()[1]}"

    def begin(self, order: str) -> None:
        """Give the cell its job; `order` is an `Order`'s line."""
        with contextlib.suppress(BrokenPipeError):  # it died: `ended` says so
            self._orders.write(order)
            self._orders.flush()

    def ended(self) -> dict[str, str] | None:
        """How the job ended, None while it runs."""
        try:
            line = self._lines.get_nowait()
        except queue.Empty:
            return None
        return dict(json.loads(line)) if line else {"ended": "lost", "said": f"the cell ended with {self._cell.wait()}"}

    def close(self) -> None:
        """End the cell and all that it started. Again: nothing more happens."""
        with contextlib.suppress(OSError):
            self._orders.close()
        try:
            self._cell.wait(_LEAVE_S)  # it ends the job's processes, and takes note of their end
        except subprocess.TimeoutExpired:
            self._cell.kill()
            self._cell.wait(_END_S)
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)
