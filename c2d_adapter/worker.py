"""The process that runs jobs: `python -m c2d_adapter.worker [--alive FILE]`.

In: `POSTHUMAN_*` settings. Out: jobs that are over; one JSON line on standard output for each of their moves. This module must
never print a key, a text or a result, and must load neither PyTorch nor Ray: its start is a part of the stack's.

Several may run on one state folder. A worker that dies is seen dead by the others, and by the one that is started in its place, and
its jobs are taken over a few seconds later: by then its programs have ended, which watch for their parent's death.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from c2d_adapter.carry import Carrier, Patience, Report
from c2d_adapter.faults import told
from c2d_adapter.steps import Parts, clear
from control_plane.errors import NotFound, PosthumanError, Unavailable
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind, State
from control_plane.jobs.store import JobStore
from control_plane.receipts.workers import Worker, is_alive

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 4
LEAVE_S = 12.0
"""How long jobs have to be given up when the process is told to end; what is derived then is left as by a crash."""
_LOOK_S = 0.5
_RECLAIM_EVERY_S = 2.0
_SWEEP_EVERY_S = 3600.0
_GRACE_S = 3.0
"""Between a worker's death and the taking of its jobs."""


class Flag:
    """Set from a signal handler, so it takes no lock: see `deploy/local/stopping.py`."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *_signal: object) -> None:
        self.is_set = True


class Hands:
    """One worker: claims jobs, and carries each in a thread of its own.

    workers: the folder of the workers' signs. jobs: the jobs' folders. alive: a file that is touched while this works, and by no
    other worker. at_once: most jobs at a time. warm: makes ready what the first training waits for, in a thread; called once, when
    `warm_after_s` have passed and nothing is done, and never once a training has begun, which leaves it ready.
    """

    def __init__(
        self,
        store: JobStore,
        parts: Callable[[], Parts],
        *,
        workers: Path,
        jobs: Path,
        alive: Path | None,
        at_once: int,
        report: Report,
        observe: Callable[[Kind, State, float, str], None] = lambda _kind, _state, _seconds, _outcome: None,
        patience: Patience | None = None,
        grace_s: float = _GRACE_S,
        warm: Callable[[], None] | None = None,
        warm_after_s: float = 0.0,
    ) -> None:
        self._store, self._parts, self._report, self._observe = store, parts, report, observe
        self._folder, self._jobs, self._alive, self._at_once = workers, jobs, alive, at_once
        self._patience, self._grace_s = patience, grace_s
        self._sign = Worker(workers)
        self._doing: dict[str, threading.Thread] = {}
        self._dead_since: dict[str, float] = {}
        self._due: dict[str, float] = {}
        self._warm, self._warm_at = warm, time.monotonic() + warm_after_s
        self.leaving = Flag()

    @property
    def name(self) -> str:
        return self._sign.name

    def work(self) -> None:
        """Until `leaving` is set. Every job that is not being derived then is given up for others."""
        if self._alive is not None:
            self._alive.parent.mkdir(parents=True, exist_ok=True)
        while not self.leaving.is_set:
            self.tick()
            time.sleep(_LOOK_S / 5 if self._doing else _LOOK_S)
        until = time.monotonic() + LEAVE_S
        for thread in self._doing.values():
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._doing.values()):
            self._sign.leave()

    def tick(self) -> None:
        """Look once: what is done, whose worker died, what there is to do."""
        if self._alive is not None:
            with suppress(OSError):  # a full disk: the file grows old, which is what is looked at
                self._alive.touch()
        self._doing = {job_id: thread for job_id, thread in self._doing.items() if thread.is_alive()}
        self._when_due("reclaim", _RECLAIM_EVERY_S, self._reclaim)
        self._when_due("sweep", _SWEEP_EVERY_S, self._sweep)
        if len(self._doing) < self._at_once:
            self._guarded("claim", self._claim)
        if self._warm is not None and not self._doing and time.monotonic() >= self._warm_at:
            warm, self._warm = self._warm, None
            threading.Thread(target=self._guarded, args=("warm", warm), name="warm", daemon=True).start()

    def _claim(self) -> None:
        job = self._store.claim(self.name, list(self._doing))
        if job is None:
            return
        if job.kind is Kind.TRAIN:
            self._warm = None
        thread = threading.Thread(target=self._carry, args=(job,), name=f"job {job.job_id}", daemon=True)
        self._doing[job.job_id] = thread
        thread.start()

    def _carry(self, job: Job) -> None:
        carrier = Carrier(
            self._store,
            self._parts,
            self.name,
            is_leaving=lambda: self.leaving.is_set,
            report=self._report,
            observe=self._observe,
            patience=self._patience,
        )
        try:
            carrier.carry(job)
        except Exception as error:  # a fault of the carrying itself: the job is claimed once more, as forgotten
            self._report({"job": job.job_id, **told(error)})
            time.sleep(self._grace_s)

    def _reclaim(self) -> None:
        found = self._store.reclaim(self._is_alive)
        for word in ("queued", "going_on", "stopped", "failed"):
            for job_id in getattr(found, word):
                self._report({"job": job_id, "reclaimed": word})

    def _is_alive(self, name: str) -> bool:
        if name == self.name or is_alive(self._folder, name):
            return True
        return time.monotonic() - self._dead_since.setdefault(name, time.monotonic()) < self._grace_s

    def _sweep(self) -> None:
        """Remove folders of jobs that are over: their worker died before it did."""
        for folder in self._jobs.iterdir() if self._jobs.is_dir() else ():
            with suppress(NotFound):
                if self._store.get(folder.name).is_over:
                    clear(self._parts(), folder.name)

    def _when_due(self, what: str, every_s: float, act: Callable[[], None]) -> None:
        if time.monotonic() >= self._due.get(what, 0.0):
            self._due[what] = time.monotonic() + every_s
            self._guarded(what, act)

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # no fault of one look may end the others
            self._report({"step": what, **told(error)})


def report(record: Mapping[str, object]) -> None:
    print(json.dumps({"at": round(time.time(), 3), **record}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m c2d_adapter.worker", description="Run the market's jobs.")
    parser.add_argument("--alive", type=Path, metavar="FILE", help="touched while this worker looks for jobs; of it alone")
    given = parser.parse_args(arguments)
    from c2d_adapter.wiring import open_hands  # not for who only imports `Hands`
    from control_plane.settings import read_settings

    try:
        opened = open_hands(read_settings(), report, given.alive)
    except PosthumanError as error:
        report({"step": "start", "error": error.code, "message": error.message})
        return EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_FAILED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, opened.hands.leaving.set)
    report({"step": "start", "worker": opened.hands.name})
    opened.hands.work()
    opened.close()
    report({"step": "end"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
