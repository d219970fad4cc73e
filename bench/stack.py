"""A market of a benchmark's own: started in a temporary state folder, ended with it.

In: nothing but the checkout. Out: the command's answers, models on sale, buyers' sessions. This module must never touch another
market, or measure.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.report import REPOSITORY
from control_plane.did import Did, parse_did
from control_plane.settings import Settings, read_settings
from converters.entry import ModelDigest, triton_name
from deploy.buyer import BuyerFiles, KeptSession
from deploy.local.chain import local_accounts
from deploy.local.environment import WANTED
from deploy.local.ports import free_port
from deploy.market import Market
from deploy.trading import session_for


def posthuman(home: Path, *arguments: str, **more: str) -> dict[str, Any]:
    """Run the command as a person would; its answer as JSON. more: environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments, "--json"],
        cwd=REPOSITORY, env={**environment(home), **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"posthuman {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment(home: Path) -> dict[str, str]:
    """What the command is told. Settings of another market that the caller's environment holds are left out."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("POSTHUMAN_")}, "POSTHUMAN_HOME": str(home)}


@dataclass(frozen=True)
class OnSale:
    """A model on sale. entry: its name in Triton."""

    did: Did
    entry: str


@dataclass(frozen=True)
class Stack:
    """A running market, and its state folder."""

    home: Path

    @property
    def settings(self) -> Settings:
        return read_settings(environment(self.home))

    def publish(self, folder: Path, name: str, *options: str) -> OnSale:
        published = posthuman(self.home, "publish", str(folder), "--as", "alice", "--price", "1", "--name", name, *options)
        return OnSale(parse_did(published["did"], "did"), triton_name(ModelDigest(published["model_digest"])))

    def buy(self, model: OnSale, buyer: str) -> KeptSession:
        """A session of one more order by `buyer`, one of the local chain's accounts."""
        posthuman(self.home, "buy", model.did, "--as", buyer)
        settings, wallet = self.settings, local_accounts()[buyer]
        files = BuyerFiles(self.home, wallet.address)
        order = files.latest_order(model.did)
        return session_for(Market(settings.public_url), wallet, files, model.did, settings.chain_id, order)


@contextmanager
def running_stack(**settings: str) -> Iterator[Stack]:
    """A market that is up. Afterwards no process and no file of it is left. settings: `NAME=value` for `POSTHUMAN_NAME`."""
    before = signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM")
    )  # by default it would skip what follows the `yield`
    home = Path(tempfile.mkdtemp(prefix="posthuman-bench-"))
    try:
        ports: list[int] = []  # others may start a market in this moment too, and the usual ports are the first that all try
        for _ in WANTED:
            ports.append(free_port(ports))
        quiet = {"JOB_WARM_AFTER_S": "0"}  # it would begin beside what is measured
        chosen = {**dict(zip(WANTED, map(str, ports), strict=True)), **quiet, **settings}
        posthuman(home, "up", **{f"POSTHUMAN_{name}": value for name, value in chosen.items()})
        yield Stack(home)
    finally:
        posthuman(home, "down")
        shutil.rmtree(home)
        signal.signal(signal.SIGTERM, before)
