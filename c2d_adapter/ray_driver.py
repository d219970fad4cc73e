"""`python -m c2d_adapter.ray_driver`: the one process that speaks to Ray, local or a cluster, and keeps cells warm.

In: JSON lines on stdin. Out: JSON lines on stdout. This module must never see a key, a wallet or a model, nor leave a process
behind: when stdin ends it closes every cell, ends a Ray that it started, and then whatever is still below it.

    in    {"do": "warm", "shape": {...}}                  keep cells of this shape ready, see `Shape`; not on a cluster
          {"do": "begin", "job": "...", "shape": {...}, "order": {...}}
          {"do": "end", "job": "..."}                     end it now; its answer comes all the same
    out   {"up": "127.0.0.1"}                             once; or {"down": "why"}, and the process ends
          {"warm": {...}, "processes": [...], "said": [...]}
          {"job": "...", "begun": [...]}                  the cells' processes
          {"job": "...", "ended": "done" | "failed" | "lost" | "impossible", "said": "..."}

It is a process of its own since Ray ends a process that lost its cluster, and since what Ray starts gets this one's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import queue
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil
import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from c2d_adapter.cell import Order
from c2d_adapter.cell_actor import CellActor

_PR_SET_CHILD_SUBREAPER = 36
_OBJECT_STORE_BYTES = 80 << 20
"""Nearly Ray's least; nothing of ours goes through it."""
_SOCKET_LETTERS = 107 - len("/session_2026-11-28_00-00-00_000000_0000000/sockets/plasma_store")
_LOOK_S = 0.05
_CONNECT_S = 10.0
_ANSWER_S = 60.0
"""Answers take milliseconds; on a machine that is busy with other things, seconds."""
_LEAVE_S = 5.0
_REAP_S = 5.0


@dataclass(frozen=True)
class Shape:
    """What a job asks of the machines. cpus, gpus, memory_bytes: of each of its workers. is_together: all on one machine."""

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int | None = None
    is_together: bool = True

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))

    def bundle(self, workers: int) -> dict[str, float]:
        found = {"CPU": self.cpus * workers, "GPU": self.gpus * workers, "memory": float((self.memory_bytes or 0) * workers)}
        return {name: value for name, value in found.items() if value}


class Crew:
    """The cells for one job: one cell for all its workers when they share a machine, otherwise one for each.

    Nothing here waits: `is_ready`, `ended` ask what has come.
    """

    def __init__(self, shape: Shape, scratch: Path) -> None:
        self.shape, self._scratch = shape, scratch
        self._places: PlacementGroup = placement_group([shape.bundle(one) for one in self._shares()], strategy="PACK")
        self._placed = self._places.ready()
        self._actors: list[Any] = []
        self._waited: list[Any] = []
        self._done: dict[int, dict[str, str]] = {}
        self.processes: list[int] = []
        self.said: list[str] = []

    def _shares(self) -> list[int]:
        return [self.shape.workers] if self.shape.is_together else [1] * self.shape.workers

    def is_ready(self) -> bool:
        """May it begin? Raises a RayError when a cell could not be started."""
        if not self._actors:
            if not ray.wait([self._placed], timeout=0)[0]:
                return False
            ray.get(self._placed)
            self._actors = [self._actor(number, share) for number, share in enumerate(self._shares())]
            self._waited = [actor.ready.remote() for actor in self._actors]
        if len(ray.wait(self._waited, num_returns=len(self._waited), timeout=0)[0]) < len(self._waited):
            return False
        if not self.processes:
            told = ray.get(self._waited)
            self.processes = [int(one["process"]) for one in told]
            self.said = sorted({line for one in told for line in one["said"]})
        return True

    def _actor(self, number: int, share: int) -> Any:
        asked = self.shape.bundle(share)
        options: dict[str, Any] = {"num_cpus": asked.get("CPU", 0), "num_gpus": asked.get("GPU", 0), "max_restarts": 0}
        if "memory" in asked:
            options["memory"] = int(asked["memory"])
        where = PlacementGroupSchedulingStrategy(self._places, placement_group_bundle_index=number)
        made = ray.remote(CellActor).options(scheduling_strategy=where, max_concurrency=4, **options)
        return made.remote(str(self._scratch), not self.shape.is_together, self.shape.threads)

    def begin(self, order: dict[str, Any]) -> None:
        """Give each cell its ranks of the job."""
        meeting = "127.0.0.1:29500"  # a namespace of its own has all ports free
        if not self.shape.is_together or any("no network namespace" in line for line in self.said):
            meeting = str(ray.get(self._actors[0].meeting_point.remote(), timeout=_ANSWER_S))
        ranks = list(range(self.shape.workers))
        for actor, share in zip(self._actors, self._shares(), strict=True):
            mine, ranks = ranks[:share], ranks[share:]
            whole = Order(
                **{**order, "ranks": tuple(mine)}, world=self.shape.workers, rendezvous=meeting, threads=self.shape.threads
            )
            ray.get(actor.begin.remote(whole.line()), timeout=_ANSWER_S)

    def ended(self) -> dict[str, str] | None:
        """How the job ended, None while it runs: failed or lost when one cell says so, done when all do."""
        answers = ray.get([actor.ended.remote() for actor in self._actors], timeout=_ANSWER_S)
        self._done |= {number: told for number, told in enumerate(answers) if told is not None}
        for told in self._done.values():
            if told["ended"] != "done":
                return dict(told)
        return dict(self._done[0]) if len(self._done) == len(self._actors) else None

    def close(self) -> None:
        """End the cells and give their resources back. Again, or when they are gone: nothing more happens."""
        with contextlib.suppress(ray.exceptions.RayError):
            ray.wait([actor.close.remote() for actor in self._actors], num_returns=len(self._actors), timeout=_LEAVE_S)
        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor)
        self._actors = []
        with contextlib.suppress(Exception):  # the cluster may be gone; its reservations are then too
            remove_placement_group(self._places)


@dataclass
class _Job:
    crew: Crew
    order: dict[str, Any]
    has_begun: bool = False


@dataclass
class Driver:
    """All jobs of one engine. `warm` is the shape that is kept ready, in one crew at most.

    keeps_idle: no for a cluster that others use too: a crew that waits has its room, and another market's worker, whose job waits
    for that room, would wait until this process ends.
    """

    scratch: Path
    lines: TextIO
    keeps_idle: bool = True
    warm: Shape | None = None
    idle: Crew | None = None
    has_told_idle: bool = False
    jobs: dict[str, _Job] = field(default_factory=dict)

    def take(self, told: dict[str, Any]) -> None:
        """Do what one line asks."""
        if told["do"] == "end":
            if told["job"] in self.jobs:
                self._finish(told["job"], {"ended": "lost", "said": "stopped"})
            return
        shape = Shape(**told["shape"])
        if shape.is_together and not _fits_one_machine(shape):
            shape = Shape(**{**told["shape"], "is_together": False})
        if told["do"] == "warm":
            self.warm, self.has_told_idle = shape, False
            return
        if lacking := _lacking(shape):
            self._tell(job=told["job"], ended="impossible", said=lacking)
            return
        self.warm = shape
        crew, self.idle = self.idle, None
        if crew is not None and crew.shape != shape:
            crew.close()
            crew = None
        self.jobs[told["job"]] = _Job(crew or Crew(shape, self.scratch), told["order"])

    def look(self) -> None:
        """Go on with whatever can go on."""
        for name, job in list(self.jobs.items()):
            try:
                if not job.has_begun and job.crew.is_ready():
                    job.crew.begin(job.order)
                    job.has_begun = True
                    self._tell(job=name, begun=job.crew.processes)
                ended = job.crew.ended() if job.has_begun else None
            except (ray.exceptions.RayError, RuntimeError) as error:
                ended = {"ended": "lost", "said": type(error).__name__}
            if ended is not None:
                self._finish(name, ended)
        self._keep_warm()

    def _keep_warm(self) -> None:
        # Not beside a job: on a small machine the loading of libraries would take time from it.
        if not self.keeps_idle or self.warm is None or self.jobs or _lacking(self.warm):
            return
        try:
            if self.idle is None or self.idle.shape != self.warm:
                if self.idle is not None:
                    self.idle.close()
                self.idle, self.has_told_idle = Crew(self.warm, self.scratch), False
            if self.idle.is_ready() and not self.has_told_idle:
                self.has_told_idle = True
                self._tell(warm=vars(self.idle.shape), processes=self.idle.processes, said=self.idle.said)
        except (ray.exceptions.RayError, RuntimeError):
            if self.idle is not None:
                self.idle.close()
            self.idle = None

    def _finish(self, name: str, ended: dict[str, str]) -> None:
        self.jobs.pop(name).crew.close()
        self._tell(job=name, **ended)

    def _tell(self, **record: Any) -> None:
        print(json.dumps(record), file=self.lines, flush=True)

    def close(self) -> None:
        for crew in [*(job.crew for job in self.jobs.values()), *([self.idle] if self.idle else [])]:
            crew.close()


def _fits_one_machine(shape: Shape) -> bool:
    asked = shape.bundle(shape.workers)
    return any(
        all(node["Resources"].get(name, 0.0) >= value for name, value in asked.items()) for node in ray.nodes() if node["Alive"]
    )


def _lacking(shape: Shape) -> str:
    """What no waiting would bring; empty when the machines have it, if not now."""
    has = ray.cluster_resources()
    asked = shape.bundle(shape.workers)
    return ", ".join(
        f"{value:g} {name} asked, {has.get(name, 0):g} there" for name, value in asked.items() if has.get(name, 0) < value
    )


def _connect(given: argparse.Namespace) -> str:
    """Start a Ray on this machine, or join one; returns where it is."""
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "namespace": "posthuman"}
    if given.address:
        host, _, port = str(given.address).removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()  # Ray itself would try for minutes
        ray.init(address=given.address, **quiet)
        return str(given.address)
    sessions = given.home / "ray" / "sessions"
    own = sessions / str(os.getpid())
    for old in sessions.glob("*"):  # of processes that are gone; their logs were kept until now
        if old == own or not psutil.pid_exists(int(old.name)):
            shutil.rmtree(old, ignore_errors=True)
    folder, plasma = _short(own), own / "objects"
    plasma.mkdir(parents=True, exist_ok=True)
    ray.init(
        num_cpus=given.cpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        _temp_dir=str(folder),
        _plasma_directory=str(plasma),
        _node_ip_address="127.0.0.1",
        **quiet,
    )
    return "127.0.0.1"


def _short(folder: Path) -> Path:
    """The folder, by a name short enough for the Unix sockets that Ray makes in it (sun_path has 108 bytes, unix(7))."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(os.fsencode(folder)) <= _SOCKET_LETTERS:
        return folder
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # open as long as this process lives, and so is what Ray started
    return Path(f"/proc/{os.getpid()}/fd/{held}")


def _reap(known: set[int]) -> None:
    """Take note of the end of orphans, whose parents were killed. known: children of Ray's own, which it waits for."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if process.pid not in known and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def _end_all_below() -> None:
    """Whatever still runs below this process, orphans included: it is their reaper."""
    until = time.monotonic() + _LEAVE_S
    while (below := psutil.Process().children(recursive=True)) and time.monotonic() < until:
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(below, timeout=1.0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m c2d_adapter.ray_driver", description="Run jobs on Ray.")
    parser.add_argument("--home", required=True, type=Path, help="the folder that everything is written below")
    parser.add_argument("--cpus", type=int, help="processors of a local Ray (default: all)")
    parser.add_argument("--address", help="of a Ray cluster (default: start one here)")
    given = parser.parse_args(arguments)
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            commands.put(line)
        commands.put("")

    threading.Thread(target=read, daemon=True).start()
    driver = Driver(given.home / "cells", lines, keeps_idle=not given.address)
    try:
        try:
            where = _connect(given)
        except Exception as error:
            print(json.dumps({"down": f"{type(error).__name__}: {error}"}), file=lines, flush=True)
            raise
        print(json.dumps({"up": where}), file=lines, flush=True)
        known = psutil.Process().children()
        rays = [one for one in known if one.name() in ("raylet", "gcs_server")]
        reaped_at = time.monotonic()
        while all(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in rays):
            with contextlib.suppress(queue.Empty):
                line = commands.get(timeout=_LOOK_S)
                if not line:
                    return 0
                driver.take(json.loads(line))
            driver.look()
            if time.monotonic() - reaped_at > _REAP_S:
                _reap({one.pid for one in known})
                reaped_at = time.monotonic()
        return 1  # without them nothing of Ray's answers any more, nor says so; whoever started this starts it anew
    finally:
        driver.close()
        ray.shutdown()
        _end_all_below()


if __name__ == "__main__":
    sys.exit(main())
