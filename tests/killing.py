"""What of a running stack can be killed, and when in a job's life: a plan that follows from a seed, and the killing.

In: a seed; a running stack. Out: `Kill`s to come, and `Killed` ones. This module must never end a process that is not below the
stack's supervisor.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from control_plane.chain.rpc import Rpc
from control_plane.errors import Unavailable
from deploy.local.control import read_status

ORDERING, OVER = "ordering", "over"
"""Moments around a job's states: while it is paid for and put into the queue, and when it has ended."""
CONVERTING, PUBLISHING = "converting", "publishing"
"""Deriving is long, and most of it is conversion: what is written outside has a moment of its own, from when the entry is there."""
PLAN: Mapping[str, tuple[str, ...]] = {
    ORDERING: ("worker", "web", "web's worker", "keeper", "chain"),
    "provisioning": ("worker", "raylet", "cell", "web", "keeper", "chain", "objects", "triton"),
    "running": ("worker", "raylet", "gcs_server", "ray driver", "cell", "program", "web", "keeper", "chain", "triton"),
    "storing": ("worker", "worker", "objects", "objects", "web's worker", "chain"),
    CONVERTING: ("worker", "converter", "converter", "raylet", "triton", "keeper"),
    PUBLISHING: ("worker", "worker", "worker", "chain", "chain", "triton", "stub", "objects", "web", "keeper"),
    OVER: ("worker", "triton", "keeper", "objects", "chain"),
}
"""Who is killed at which moment: 50 in all, spread over the lives of ten jobs, one at a moment of a job at most."""
JOBS = 10
LONGEST_S: Mapping[str, float] = {
    ORDERING: 1.0,
    "provisioning": 0.005,
    "running": 2.5,
    "storing": 0.05,
    CONVERTING: 5.0,
    PUBLISHING: 0.8,
    OVER: 1.0,
}
"""How long after a moment's beginning the kill comes, at most: about as long as the moment lasts."""
_APPEARS_WITHIN_S = 30.0
_COMING: Mapping[str, tuple[str, ...]] = {"running": ("queued", "provisioning", "running"), CONVERTING: ("deriving",)}
"""States in which a victim of a moment may still appear: Ray takes its time to start, and so does the converter."""


@dataclass(frozen=True)
class Kill:
    """One that is to come. after_s: from the moment's beginning."""

    moment: str
    victim: str
    after_s: float


@dataclass(frozen=True)
class Killed:
    """One that was done. victim: who it was; planned: who it was to be, but was not there. state: the job's at that instant."""

    moment: str
    planned: str
    victim: str
    after_s: float
    state: str
    signal: str


def plan(seed: int) -> list[list[Kill]]:
    """The kills of each job, in the order of their moments. Again, with the same seed: the same."""
    chances = random.Random(seed)  # noqa: S311  # no secret: the same kills each time
    jobs = list[list[Kill]]([] for _ in range(JOBS))
    for moment, victims in PLAN.items():
        for number, victim in zip(chances.sample(range(JOBS), len(victims)), chances.sample(victims, len(victims)), strict=True):
            jobs[number].append(Kill(moment, victim, chances.uniform(0, LONGEST_S[moment])))
    return jobs


class Stand:
    """One running stack, as whoever kills sees it."""

    def __init__(self, home: Path, rpc_url: str, chain_id: int, seed: int) -> None:
        self._home, self._rpc = home, Rpc(rpc_url, chain_id)
        self._chances = random.Random(seed)  # noqa: S311  # chooses between processes of one kind

    def aim(self, planned: Kill) -> psutil.Process | None:
        """Look for the victim before its moment: some moments last ten milliseconds, and looking takes as long."""
        found = self._alive(planned.victim)
        return self._chances.choice(found) if found else None

    def kill(self, planned: Kill, state: Callable[[], str], aimed: psutil.Process | None = None) -> Killed:
        """Kill one process. One that is not there is waited for while it may come; if it does not, the jobs' worker dies instead.

        state: the job's, asked just before. aimed: who was found before.
        """
        coming = _COMING.get(planned.moment, ())
        aimed = aimed if aimed is not None and _is(aimed, lambda _: True) else None
        while True:
            victim, process = planned.victim, aimed or self._find(planned.victim, lambda: state() in coming)
            aimed = None
            if process is None:
                victim, process = "worker", self._find("worker", lambda: True)
            assert process is not None, "the jobs' worker was not started again"
            how = signal.SIGKILL if victim != "chain" or self._chain_is_kept() else signal.SIGTERM
            seen = state()
            try:
                process.send_signal(how)
            except psutil.NoSuchProcess:  # it ended by itself just now
                continue
            if how is signal.SIGTERM:
                process.wait(_APPEARS_WITHIN_S)
            return Killed(planned.moment, planned.victim, victim, round(planned.after_s, 3), seen, how.name)

    def _chain_is_kept(self) -> bool:
        """Whether anvil's file has the newest block. It is written every five seconds, and when anvil is asked to end; no other
        node has these blocks, as others have a real chain's, so what is not in it would be lost for all."""
        try:
            kept = json.loads((self._home / "chain" / "anvil.json").read_bytes())
            return int(kept["best_block_number"]) == self._rpc.head().number
        except (OSError, ValueError, Unavailable):
            return False

    def _find(self, victim: str, may_come: Callable[[], bool]) -> psutil.Process | None:
        until = time.monotonic() + _APPEARS_WITHIN_S
        while not (found := self._alive(victim)) and may_come() and time.monotonic() < until:
            time.sleep(0.02)
        return self._chances.choice(found) if found else None

    def _alive(self, victim: str) -> Sequence[psutil.Process]:
        if victim in ("worker", "web", "keeper", "chain", "objects", "triton"):
            return self._component(victim)
        below, is_it = _BELOW[victim]
        found = []
        for main in self._component(below):
            with suppress(psutil.Error):
                found += [process for process in main.children(recursive=True) if _is(process, is_it)]
        return found

    def _component(self, name: str) -> Sequence[psutil.Process]:
        listed = (part for part in read_status(self._home)["components"] if part["name"] == name and part["pid"] is not None)
        found = []
        for part in listed:
            with suppress(psutil.Error):
                process = psutil.Process(part["pid"])
                found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
        return found


def _is(process: psutil.Process, is_it: Callable[[psutil.Process], bool]) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and is_it(process)
    except psutil.Error:
        return False


def _runs(module: str) -> Callable[[psutil.Process], bool]:
    return lambda process: module in process.cmdline()


def _is_program(process: psutil.Process) -> bool:
    """A fork of a cell has its command line."""
    parent = process.parent()
    return parent is not None and _runs("c2d_adapter.cell")(process) and _runs("c2d_adapter.cell")(parent)


_BELOW: Mapping[str, tuple[str, Callable[[psutil.Process], bool]]] = {
    "raylet": ("worker", lambda process: process.name() == "raylet"),
    "gcs_server": ("worker", lambda process: process.name() == "gcs_server"),
    "ray driver": ("worker", _runs("c2d_adapter.ray_driver")),
    "cell": ("worker", lambda process: _runs("c2d_adapter.cell")(process) and not _is_program(process)),
    "program": ("worker", _is_program),
    "converter": ("worker", _runs("converters")),
    "stub": ("triton", lambda process: "triton_python_backend_stub" in " ".join(process.cmdline())),
    "web's worker": ("web", lambda process: bool(process.cmdline())),
}
"""Under which component the others are, and how they are known."""
