"""A Triton of a benchmark's own, without a market around it.

In: a folder, entries. Out: an address that answers while the context lasts. This module must never touch another server, or
measure.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.report import REPOSITORY
from control_plane.serving.triton import Triton
from converters.entry import model_digest, read_entry
from converters.pbtxt import config_pbtxt
from deploy.local.triton_server import KEY_HEADER

_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Alone:
    """models: the folder that the server reads. headers: what every request needs."""

    url: str
    models: Path
    key: str

    @property
    def headers(self) -> Mapping[str, str]:
        return {KEY_HEADER: self.key}

    def install(self, entry: Path, name: str, **parameters: str) -> str:
        """Load an entry under a name, with further parameters in its config.pbtxt; where to ask it."""
        target = self.models / name
        shutil.copytree(entry, target, dirs_exist_ok=True)
        more = "".join(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in parameters.items())
        (target / "config.pbtxt").write_text(config_pbtxt(read_entry(entry), name, model_digest(entry)) + more, encoding="utf-8")
        client = Triton(self.url, self.key, timeout_s=_TIMEOUT_S)
        client.load(name)
        client.close()
        return f"{self.url}/v2/models/{name}/infer"


@contextmanager
def triton_alone(folder: Path) -> Iterator[Alone]:
    """Raises RuntimeError when the server does not start; it says why on standard error."""
    command = [sys.executable, "-m", "deploy.local.triton_alone", "--folder", str(folder)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("Triton did not start")
        said = json.loads(line)
        yield Alone(said["url"], Path(said["models"]), said["key"])
    finally:
        process.terminate()  # it ends its server, and removes what that leaves
        process.wait()
