"""A virtual environment for each server that ours is compared with.

In: a folder. Out: a Python with the peer's pinned packages, or the reason why there is none. This module must never change the
project's own environments.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

RUNTIME = f"onnxruntime=={version('onnxruntime')}"
"""The same as ours, so that the servers are compared and not the runtimes."""
PACKAGES = {
    "LiteLLM": ("litellm[proxy]==1.106.2",),
    "MLServer": (
        "mlserver==1.7.1",
        "uvloop==0.21.0",
        RUNTIME,
    ),  # its workers die with uvloop 0.23: no event loop before they ask for one
    "sentence-transformers": ("sentence-transformers==6.2.0", "torch==2.13.0"),  # this exact torch has a build for CPUs alone
    "KServe": ("kserve==0.21.0", RUNTIME),
}


class NotMeasured(Exception):
    """A peer cannot be measured; the message is its reason, for the report."""


@dataclass(frozen=True)
class Environment:
    """bin: the folder of its programs."""

    peer: str
    bin: Path

    @property
    def says(self) -> str:
        """Name and version, for the report."""
        return PACKAGES[self.peer][0].replace("==", " ")


def environment(peer: str, peers: Path) -> Environment:
    """`peer`'s environment below `peers`, made when it is missing or holds other packages. Again: finds it.

    Raises NotMeasured with what pip said last.
    """
    folder = peers.absolute() / peer.lower()
    made, wanted = Environment(peer, folder / "bin"), "\n".join(PACKAGES[peer])
    finished = folder / "posthuman-installed.txt"
    if finished.is_file() and finished.read_text(encoding="utf-8") == wanted:
        return made
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(made.bin / "python"), "-m", "pip", "install", "--quiet", *PACKAGES[peer]],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise NotMeasured(f"did not install: {said[-1] if said else f'exit {done.returncode}'}")
    finished.write_text(wanted, encoding="utf-8")
    return made
