"""One process that starts components in order, waits until each is ready, restarts what dies, and ends all.

In: stages of components and tasks. Out: running processes and `<home>/run/status.json`. This module must never know what a
component is for: `stack.py` does.

A stage begins when everything in the stages before it is ready. Components of a stage start together; its tasks run after them.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from deploy.local import processes
from deploy.local.stopping import StopFlag

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_PROBE_EVERY_S = 5.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CALM_S = 60.0
"""A component that lived this long is forgiven: its next restart is at once again."""
_START_TRIES = 3
_TAIL_LINES = 12


@dataclass(frozen=True)
class Launch:
    """A command and its whole environment."""

    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Component:
    """A server or worker. launch: asked anew at each start. is_ready: asked until it says yes, and every five seconds after.

    on_return: what must be done again when it is ready after a restart, before the status says so.
    on_stop: clears up what it leaves behind when it ends.
    """

    name: str
    launch: Callable[[], Launch]
    is_ready: Callable[[], bool]
    port: int | None = None
    ready_within_s: float = 60.0
    stop_within_s: float = 10.0
    stop_signal: signal.Signals = signal.SIGTERM
    on_return: Callable[[], None] | None = None
    on_stop: Callable[[], object] | None = None


@dataclass(frozen=True)
class Task:
    """Something to be done once, safe to repeat, between two stages."""

    name: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Stage:
    components: tuple[Component, ...] = ()
    tasks: tuple[Task, ...] = ()


class StartFailed(Exception):
    """A component or task of the first start did not come up; the message names it, and its log's last lines."""


@dataclass
class _Running:
    component: Component
    stage: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    state: str = "waiting"
    restarts: int = 0
    since: float = 0.0
    began: float = 0.0
    probed: float = 0.0
    pause_s: float = 0.0
    start_at: float = 0.0
    reason: str = ""


@dataclass
class Supervisor:
    """`run` does everything. Times are seconds since 1970 in the status and monotonic inside.

    plan: makes the stages, asked once nothing of an earlier run is left, so that it may choose ports.
    """

    home: Path
    plan: Callable[[], Sequence[Stage]]
    clock: Callable[[], float] = time.time
    state: str = "starting"
    error: str = ""
    _doing: str = ""
    _running: list[_Running] = field(default_factory=list)
    _steps: list[dict[str, Any]] = field(default_factory=list)
    _stopping: StopFlag = field(default_factory=StopFlag)
    _last_status: str = ""
    _since: float = 0.0

    def run(self) -> int:
        """Start, watch, and end everything on SIGTERM or SIGINT. Returns 0, or 1 when the start failed.

        One supervisor per state folder: returns 0 at once when another one holds the lock.
        """
        lock = hold(self.home)
        if lock is None:
            _log.warning("another supervisor holds %s", self.home)
            return 0
        for caught in (signal.SIGTERM, signal.SIGINT):
            signal.signal(caught, lambda *_: self._stopping.set())
        try:
            processes.end_supervised(self.home)  # what a killed supervisor left
            self._since = self.clock()
            for number, stage in enumerate(self.plan()):
                self._start(number, stage)
                if self._stopping.is_set():
                    break
            else:
                self.state = "ready"
                self._write_status()
            while not self._stopping.wait(_LOOK_EVERY_S):
                self._watch()
        except StartFailed as failure:
            self.state, self.error = "failed", str(failure)
            _log.error("%s", failure)
        finally:
            failed = self.state == "failed"
            if not failed:
                self.state = "stopping"
                self._write_status()
            self._stop()
            self.state = "failed" if failed else "stopped"
            self._write_status()
            lock.close()
        return 1 if failed else 0

    def _start(self, number: int, stage: Stage) -> None:
        began = time.monotonic()
        fresh = [_Running(component, number, self.home / "logs" / f"{component.name}.log") for component in stage.components]
        for running in fresh:
            processes.rotate(running.log)
            self._running.append(running)
            self._launch(running)
        waiting = list(fresh)
        while waiting and not self._stopping.wait(_LOOK_EVERY_S / 4):
            self._doing = ", ".join(running.component.name for running in waiting)
            self._watch(is_first_start=True)
            for running in [one for one in waiting if one.state == "ready"]:
                waiting.remove(running)
                self._step(running.component.name, time.monotonic() - began)
        for task in stage.tasks:
            if self._stopping.is_set():
                return
            began = time.monotonic()
            self._doing = task.name
            self._write_status()
            try:
                task.run()
            except Exception as error:  # whatever a task raises, the start has failed and all must be ended
                _log.exception("%s", task.name)
                raise StartFailed(f"{task.name}: {type(error).__name__}: {error}") from error
            self._step(task.name, time.monotonic() - began)

    def _step(self, name: str, seconds: float) -> None:
        self._doing = ""
        self._steps.append({"name": name, "seconds": round(seconds, 2)})
        _log.info("%s: %.1f s", name, seconds)
        self._write_status()

    def _launch(self, running: _Running) -> None:
        now = time.monotonic()
        running.began, running.probed = now, now
        running.since = self.clock()
        running.state = "starting"
        try:
            launch = running.component.launch()
            running.process = processes.start(launch.command, launch.environment, self.home, running.log)
        except Exception as error:  # a program that is gone, a folder that cannot be staged: try again later, and say so
            _log.exception("%s cannot be started", running.component.name)
            running.process = None
            self._died(running, f"{type(error).__name__}: {error}")
        self._write_status()

    def _watch(self, is_first_start: bool = False) -> None:
        now = time.monotonic()
        for running in self._running:
            if running.state == "restarting":
                if now >= running.start_at:
                    self._launch(running)
                continue
            process = running.process
            if process is not None and process.poll() is not None:
                self._died(running, f"ended with {_ending(process.returncode)}")
            elif running.state == "starting":
                self._await(running, now)
            elif now - running.probed >= _PROBE_EVERY_S:
                self._probe(running, now)
            if is_first_start and running.restarts >= _START_TRIES:
                raise StartFailed(f"{running.component.name} does not start: {running.reason}\n{tail(running.log)}")
        self._write_status()

    def _await(self, running: _Running, now: float) -> None:
        if not _asked(running.component.is_ready):
            if now - running.began > running.component.ready_within_s:
                self._died(running, f"not ready within {running.component.ready_within_s:.0f} s")
            return
        if running.restarts and running.component.on_return is not None:
            try:
                running.component.on_return()
            except Exception as error:  # the component is there, what it held may not be
                _log.exception("%s: after its return", running.component.name)
                self._died(running, f"after its return: {type(error).__name__}: {error}")
                return
        running.state, running.since, running.probed = "ready", self.clock(), now
        processes.trim(running.log)

    def _probe(self, running: _Running, now: float) -> None:
        running.probed = now
        processes.trim(running.log)
        state = "ready" if _asked(running.component.is_ready) else "unready"
        if state != running.state:
            running.state, running.since = state, self.clock()

    def _died(self, running: _Running, reason: str) -> None:
        lived = time.monotonic() - running.began
        running.pause_s = _FIRST_PAUSE_S if lived > _CALM_S or not running.pause_s else min(running.pause_s * 2, _LONGEST_PAUSE_S)
        running.start_at = time.monotonic() + running.pause_s
        running.restarts += 1
        running.reason, running.state, running.since = reason, "restarting", self.clock()
        _log.warning("%s %s; restart %d in %.1f s", running.component.name, reason, running.restarts, running.pause_s)
        if running.process is not None:
            processes.end(running.process, running.component.stop_signal, running.component.stop_within_s)

    def _stop(self) -> None:
        """End the stages in reverse order; the components of one stage are asked together, then waited for."""
        for stage in range(len(self._running) and self._running[-1].stage, -1, -1):
            members = [running for running in self._running if running.stage == stage]
            for running in members:
                if running.process is not None:
                    processes.ask_to_end(running.process, running.component.stop_signal)
            for running in members:
                if running.process is not None:
                    began = time.monotonic()
                    processes.end(running.process, running.component.stop_signal, running.component.stop_within_s)
                    _log.info("%s ended after %.1f s", running.component.name, time.monotonic() - began)
                if running.component.on_stop is not None:
                    running.component.on_stop()
                running.state, running.since = "stopped", self.clock()
                self._write_status()
        processes.end_supervised(self.home)

    def _write_status(self) -> None:
        record = {
            "state": self.state,
            "error": self.error,
            "pid": os.getpid(),
            "created": processes.identity(os.getpid()),
            "since": self._since,
            "steps": self._steps,
            "doing": self._doing,
            "components": [
                {
                    "name": running.component.name,
                    "state": running.state,
                    "pid": running.process.pid if running.process is not None and running.state != "stopped" else None,
                    "restarts": running.restarts,
                    "since": running.since,
                    "port": running.component.port,
                    "log": str(running.log),
                    "reason": running.reason,
                }
                for running in self._running
            ],
        }
        text = json.dumps(record, indent=1)
        if text == self._last_status:
            return
        self._last_status = text
        path = status_file(self.home)
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".part")
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)


def status_file(home: Path) -> Path:
    return home / "run" / "status.json"


def hold(home: Path) -> IO[str] | None:
    """Take this state folder's lock, which the system gives back when the process ends. None when another process has it."""
    (home / "run").mkdir(parents=True, exist_ok=True)
    lock = (home / "run" / "supervisor.lock").open("w", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def tail(log: Path, count: int = _TAIL_LINES) -> str:
    """The last lines of a log, indented; empty when there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in lines[-count:])


def _asked(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except Exception:  # a probe that cannot be answered is a no
        _log.debug("probe", exc_info=True)
        return False


def _ending(code: int) -> str:
    if code < 0:
        try:
            return f"signal {signal.Signals(-code).name}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
