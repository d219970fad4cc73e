"""The whole embedded stack on free ports, in a state folder of its own: started once a test run, ended with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_plane.settings import Settings, read_settings
from deploy.demo.models import OWN_NAME
from deploy.local.environment import WANTED, triton_ports
from deploy.local.ports import free_port
from deploy.local.processes import supervised
from deploy.local.triton_server import shared_memory_prefix

REPOSITORY = Path(__file__).resolve().parent.parent
CORPUS = REPOSITORY / "deploy" / "demo" / "corpus.txt"
WITHIN_S = 30.0
POSTHUMAN = str(Path(sys.executable).parent / "posthuman")

_CACHES = ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "RCLONE_CACHE_DIR", "RCLONE_CONFIG", "XDG_RUNTIME_DIR")
"""Where libraries would write instead of HOME, were they told so."""


def within(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < until, f"{what}: not within {WITHIN_S:.0f} s"
        time.sleep(0.2)


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class LiveStack:
    home: Path
    environ: dict[str, str]

    @property
    def settings(self) -> Settings:
        return read_settings(self.environ)

    def run(self, *arguments: str, timeout_s: float = 300, **environ: str) -> Ran:
        """`posthuman ARGUMENTS` on this stack."""
        done = subprocess.run(
            [POSTHUMAN, *arguments],
            capture_output=True,
            text=True,
            env={**self.environ, **environ},
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


def new_stack(home: Path) -> LiveStack:
    """A stack that is not started yet, with ports of its own."""
    ports: list[int] = []
    for _ in WANTED:
        ports.append(free_port(ports))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("POSTHUMAN_")}
    chosen = {f"POSTHUMAN_{name}": str(port) for name, port in zip(WANTED, ports, strict=True)}
    outside = outside_of(home)
    outside.mkdir(exist_ok=True)
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"), str(outside))
    elsewhere = {name for name in kept if name in _CACHES}
    kept = {name: value for name, value in kept.items() if name not in elsewhere}
    wikitext = home.with_name(home.name + "-wikitext")
    wikitext.mkdir(exist_ok=True)
    for part in ("train.txt", "test.txt"):
        shutil.copyfile(CORPUS, wikitext / part)
    # not beside tests that measure: what needs a warm engine trains first
    ours = {"POSTHUMAN_HOME": str(home), "POSTHUMAN_WIKITEXT": str(wikitext), "POSTHUMAN_JOB_WARM_AFTER_S": "0"}
    return LiveStack(home, {**kept, **places, **chosen, **ours})


def outside_of(home: Path) -> Path:
    """What the stack's commands take for the user's home, caches and temporary files: they must leave it empty."""
    return home.with_name(home.name + "-outside")


@contextmanager
def running_stack(home: Path, **environ: str) -> Iterator[LiveStack]:
    """Started here, ended here; a process that is left fails whoever used it. environ: settings of its own."""
    one = new_stack(home)
    one.environ.update(environ)
    up = one.run("up", "--json")
    try:
        assert up.code == 0, up.out + up.err
        yield one
    finally:
        one.run("down")
        left = supervised(home)
        assert left == [], left
        prefix = shared_memory_prefix(triton_ports(one.environ))
        assert list(Path("/dev/shm").glob(f"{prefix}*")) == []
        assert sorted(outside_of(home).rglob("*")) == [], "something was written outside the state folder and the checkout"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """Shared by every live test: leave its components running, and its models as they were."""
    home = tmp_path_factory.mktemp("stack") / "home"
    home.mkdir()
    trained = REPOSITORY / ".posthuman" / "demo"
    if trained.is_dir():  # the demo's tiny model, when it was trained in this checkout already
        shutil.copytree(trained, home / "demo")
    with running_stack(home) as one:
        yield one


@pytest.fixture(scope="session")
def told(stack: LiveStack) -> Any:
    """The record of the demo's story, told on this stack: from here on a model is on sale, and Bob has an order."""
    ran = stack.run("demo", "--json", timeout_s=600)
    assert ran.out, ran.err
    return ran.json | {"code": ran.code}


@pytest.fixture(scope="session")
def on_sale(stack: LiveStack, told: Any) -> str:
    """The DID of the demo's model, whatever other tests have published before it."""
    assert told["verified"], told
    models = stack.run("models", "--json").json["models"]
    return str(next(model["id"] for model in models if model["name"] == OWN_NAME))
