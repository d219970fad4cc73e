"""Runs a job's program on Ray, from a folder to an outcome.

In: a job's folder, how many workers and with what, how long. Out: how it ended; the program's answers are in the folder. This
module must never read weights, decide what a job costs, or hand its own environment on.

Ray is started at the first use below the home folder (127.0.0.1, no dashboard, nothing reported), or is a cluster by its
address; then every machine of it must see the home and the jobs' folders at the same path. A worker, a machine or all of Ray
may die: the job goes on from its newest checkpoint, as long as each few attempts bring it further.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from c2d_adapter.algorithms.checkpoint import newest_step
from c2d_adapter.cell import PROGRAMS, Order
from c2d_adapter.job_io import CODES, FAILURE_LETTERS, RESULT_BYTES
from control_plane.errors import BadInput, Unavailable
from converters.child import child_environment

QUIET_RAY: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray reports home otherwise
    "RAY_enable_metrics_collection": "0",
    "RAY_prestart_worker_first_driver": "0",  # a process for each processor, which nothing of ours uses
    "RAY_memory_monitor_refresh_ms": "0",  # it ends the newest worker when the machine is full; a job has a limit of its own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_START_S = 120.0
_LOOK_S = 0.2
_LEAVE_S = 30.0


@dataclass(frozen=True)
class Resources:
    """What each worker of a job gets. memory_bytes: most that it may write to; None for no limit."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How a job ended. state: finished, failed, stopped, timed_out, or not_begun: its processes could not be started anywhere.

    code, sentence: why it failed or was not begun, for its owner. attempts: how often its processes were to be started; more than
    one when some of them died.
    """

    state: str
    attempts: int
    code: str = ""
    sentence: str = ""


Progress = Mapping[str, int | float]
NO_ENGINE = "no_engine"
"""Code of the Unavailable that says that Ray is not there: nothing can be started."""


class Engine:
    """Runs jobs, several at once from several threads. Every method may be called again after any error."""

    def __init__(
        self,
        home: Path,
        environ: Mapping[str, str],
        *,
        address: str | None = None,
        cpus: int | None = None,
        tries: int = 3,
        checkpoint_s: float = 30.0,
        sharding: str = "ddp",
        wait_s: float = 3600.0,
    ) -> None:
        """home: what Ray and the cells write is below it. environ: this process's; a few plain variables are passed on, no others.

        address: of a Ray cluster; the process that joins it sees the variables that begin with RAY_ as well. cpus: of a local
        Ray, None for all. tries: in a row that may bring a job no further. checkpoint_s: most seconds of work that a crash
        costs. sharding: as in `Place`, for several workers. wait_s: most seconds until a job's processes begin, each time.
        """
        self._home, self._environ = home, environ
        self._address, self._cpus = address, cpus
        self._tries, self._checkpoint_s, self._sharding, self._wait_s = tries, checkpoint_s, sharding, wait_s
        self._lock = threading.Lock()
        self._driver: _Driver | None = None

    def warm(self, workers: int = 1, resources: Resources | None = None, *, timeout_s: float = _START_S) -> None:
        """Have processes ready that have the libraries loaded. It comes by itself after a job, in the job's shape.

        A cluster by its address is only joined: idle processes would keep its room from others' jobs. Raises Unavailable when
        they are not there in time. Again: nothing more happens when they are there.
        """
        driver = self._started()
        if self._address:
            return
        shape = _shape(workers, resources or Resources())
        driver.send({"do": "warm", "shape": shape})
        until = time.monotonic() + timeout_s
        while not driver.is_warm(shape):
            if driver.is_gone or time.monotonic() > until:
                raise Unavailable(f"Ray: expected processes for {workers} workers within {timeout_s:g} s, found none")
            time.sleep(_LOOK_S / 4)

    def run(
        self,
        folder: Path,
        kind: str,
        workers: int,
        resources: Resources,
        timeout_s: float,
        on_progress: Callable[[Progress], None],
        is_stopped: Callable[[], bool],
        on_run: Callable[[bool], None] = lambda _is_running: None,
        *,
        is_together: bool = True,
    ) -> Outcome:
        """Do a job, and return when it ended; on_progress gets each new state of its progress.

        timeout_s: how long its processes may run, over all attempts; waiting until a machine has room and a process is ready does
        not count; after `wait_s` it ends the job as not begun. on_run: told each time that they begin and end.
        Again: a job that has its result is finished at once, and one that was interrupted goes on. is_together: all workers on one
        machine if one is large enough, where they can speak to nobody else; otherwise wherever there is room.
        Raises BadInput for a kind without a program, Unavailable (`NO_ENGINE`) when Ray cannot be started or reached.
        """
        if kind not in PROGRAMS:
            raise BadInput("kind", f"one of {sorted(PROGRAMS)}", kind)
        allowed = _Allowed(timeout_s, on_run)
        shape = {**_shape(workers, resources), "is_together": is_together}
        order = Order(
            kind=kind,
            folder=str(folder.resolve()),
            memory_bytes=resources.memory_bytes,
            checkpoint_s=self._checkpoint_s,
            sharding=self._sharding,
            has_gpu=resources.gpus > 0,
        )
        given = {name: getattr(order, name) for name in ("kind", "folder", "memory_bytes", "checkpoint_s", "sharding", "has_gpu")}
        progress = _Followed(folder, on_progress)
        attempts, left, reached = 0, self._tries, newest_step(folder / "checkpoints")
        while True:
            if (folder / "result.json").exists():
                return Outcome("finished", attempts)
            if left == 0 and not allowed.has_begun:
                return Outcome("not_begun", attempts, "internal", f"Its processes could not be started, {self._tries} times.")
            if left == 0:
                return Outcome("failed", attempts, "internal", f"Its processes died {self._tries} times without a step further.")
            (folder / "failure.json").unlink(missing_ok=True)
            attempts, left = attempts + 1, left - 1
            ended = self._attempt(shape, given, allowed, progress, is_stopped)
            progress.look()
            if ended in ("stopped", "timed_out"):
                return Outcome(ended, attempts)
            if ended == "unplaced":
                return Outcome("not_begun", attempts, "no_machine", f"No machine had room for it within {self._wait_s:g} s.")
            if ended.startswith("impossible"):
                sentence = f"The machines here cannot run this job: {ended.partition(' ')[2]}."
                return Outcome("not_begun", attempts, "internal", sentence)
            if ended == "failed":
                return _failed(folder, attempts)
            if (now := newest_step(folder / "checkpoints")) > reached:
                left, reached = self._tries, now

    def _attempt(
        self, shape: dict[str, Any], order: dict[str, Any], allowed: _Allowed, progress: _Followed, is_stopped: Callable[[], bool]
    ) -> str:
        """done, failed, lost, stopped, timed_out, unplaced, or `impossible` and what is lacking."""
        driver = self._started()
        name = uuid.uuid4().hex
        answers = driver.begin(name, shape, order)
        asked, has_ended, waits_until = "", False, time.monotonic() + self._wait_s
        try:
            while True:
                with contextlib.suppress(queue.Empty):
                    told = answers.get(timeout=_LOOK_S)
                    if "begun" in told:
                        allowed.begin()
                    if has_ended := "ended" in told:
                        return asked or (f"impossible {told['said']}" if told["ended"] == "impossible" else str(told["ended"]))
                progress.look()
                is_late = allowed.is_used_up if allowed.is_running else time.monotonic() > waits_until
                late = ("timed_out" if allowed.is_running else "unplaced") if is_late else ""
                if not asked and (asked := "stopped" if is_stopped() else late):
                    driver.send({"do": "end", "job": name})
        finally:
            allowed.end()
            if not has_ended:  # a callback raised: nobody waits for this job any more
                driver.send({"do": "end", "job": name})

    def processes(self) -> tuple[int, ...]:
        """The processes of the cells that run jobs now, for whoever watches or tests."""
        with self._lock:
            return () if self._driver is None else self._driver.running()

    @property
    def process(self) -> int | None:
        """The process that speaks to Ray, None before the first use."""
        with self._lock:
            return None if self._driver is None or self._driver.is_gone else self._driver.process

    def close(self) -> None:
        """End Ray, when it was started here, and every process that a job may still have. Again: nothing more happens."""
        with self._lock:
            driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    def _started(self) -> _Driver:
        with self._lock:
            if self._driver is None or self._driver.is_gone:
                if self._driver is not None:
                    self._driver.close()
                self._driver = _Driver(self._home, self._environ, self._address, self._cpus)
            driver = self._driver
        driver.wait_until_up()
        return driver


class _Driver:
    """The child process `c2d_adapter.ray_driver`, and what it says."""

    def __init__(self, home: Path, environ: Mapping[str, str], address: str | None, cpus: int | None) -> None:
        scratch = home / "ray" / "home"
        scratch.mkdir(parents=True, exist_ok=True)
        # How a cluster knows us; cells never get these.
        cluster = {name: value for name, value in environ.items() if name.startswith("RAY_")} if address else {}
        options = [*([f"--address={address}"] if address else []), *([f"--cpus={cpus}"] if cpus else [])]
        self._log = (home / "ray" / "driver.log").open("ab")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "c2d_adapter.ray_driver", f"--home={home.resolve()}", *options],
            env={**child_environment(environ, scratch.resolve()), **QUIET_RAY, **cluster},
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )
        self._orders: Any = self._child.stdin
        self._said_lines: Any = self._child.stdout
        self.process = self._child.pid
        self._is_up = threading.Event()
        self._lock = threading.Lock()
        self._said = ""
        self._warm: Any = None
        self._jobs: dict[str, queue.SimpleQueue[dict[str, Any]]] = {}
        self._running: dict[str, tuple[int, ...]] = {}
        self.is_gone = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._said_lines:
            told = json.loads(line)
            with self._lock:
                if "job" in told:
                    self._warm = None
                    if "begun" in told:
                        self._running[told["job"]] = tuple(told["begun"])
                    if "ended" in told:
                        self._running.pop(told["job"], None)
                    answers = self._jobs.pop(told["job"]) if "ended" in told else self._jobs[told["job"]]
                    answers.put(told)
                elif "warm" in told:
                    self._warm = told["warm"]
                else:
                    self._said = told.get("down", "")
                    if "up" in told:
                        self._is_up.set()
        with self._lock:
            self.is_gone = True
            for answers in self._jobs.values():
                answers.put({"ended": "lost", "said": "Ray is gone"})
        self._is_up.set()

    def wait_until_up(self) -> None:
        self._is_up.wait(_START_S)
        if self.is_gone or not self._is_up.is_set():
            raise Unavailable(f"Ray: expected it to start within {_START_S:g} s, found {self._said or 'nothing'}", code=NO_ENGINE)

    def begin(self, name: str, shape: dict[str, Any], order: dict[str, Any]) -> queue.SimpleQueue[dict[str, Any]]:
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            self._jobs[name] = answers
            self._warm = None
            if self.is_gone:
                answers.put({"ended": "lost", "said": "Ray is gone"})
        self.send({"do": "begin", "job": name, "shape": shape, "order": order})
        return answers

    def send(self, record: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError), self._lock:  # gone, or closed: whoever waits is told by the reader
            self._orders.write(json.dumps(record) + "\n")
            self._orders.flush()

    def is_warm(self, shape: dict[str, Any]) -> bool:
        with self._lock:
            return self._warm is not None and all(self._warm[name] == value for name, value in shape.items())

    def running(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(process for processes in self._running.values() for process in processes)

    def _end_session(self) -> None:
        """Ray's main processes end with the driver, cells with theirs; some helpers stay for a while when it was killed."""
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == self.process:
                    process.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._orders.close()
        try:
            self._child.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._end_session()
        self._reader.join(_LEAVE_S)
        self._said_lines.close()
        self._log.close()


class _Allowed:
    """How long a job's processes may run, over all attempts; `tell` is told when they begin and when they end."""

    def __init__(self, seconds: float, tell: Callable[[bool], None]) -> None:
        self._left_s, self._tell = seconds, tell
        self._since: float | None = None
        self.has_begun = False

    def begin(self) -> None:
        self._since, self.has_begun = time.monotonic(), True
        self._tell(True)

    def end(self) -> None:
        """Again: nothing more happens."""
        if self._since is not None:
            self._left_s -= time.monotonic() - self._since
            self._since = None
            self._tell(False)

    @property
    def is_running(self) -> bool:
        return self._since is not None

    @property
    def is_used_up(self) -> bool:
        return self._since is not None and time.monotonic() - self._since > self._left_s


class _Followed:
    """Tells each new state of `progress.json` once."""

    def __init__(self, folder: Path, tell: Callable[[Progress], None]) -> None:
        self._file, self._tell = folder / "progress.json", tell
        self._last: Progress | None = None

    def look(self) -> None:
        try:
            found = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return
        if found != self._last:
            self._last = found
            self._tell(found)


def _shape(workers: int, resources: Resources) -> dict[str, Any]:
    return {"workers": workers, **asdict(resources)}


def _failed(folder: Path, attempts: int) -> Outcome:
    """What the program says; it is a process of its own, so its words are checked."""
    try:
        with os.fdopen(os.open(folder / "failure.json", os.O_RDONLY | os.O_NOFOLLOW), "rb") as stream:
            told = json.loads(stream.read(RESULT_BYTES))
        code, sentence = told["code"], told["sentence"]
        is_said = code in CODES and len(sentence) <= FAILURE_LETTERS and sentence.isprintable()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        is_said = False
    if not is_said:
        return Outcome("failed", attempts, "internal", "The program failed and left no reason.")
    return Outcome("failed", attempts, code, sentence)
