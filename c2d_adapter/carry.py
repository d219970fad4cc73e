"""Carries one job from the state it was claimed in to its end, whatever fails on the way.

In: a claimed job. Out: a job that is over, or one that was given up for another worker. This module must never know how a step is
done (steps.py), nor what an error means (faults.py).

Every way out of a step is a move in the store, and the store repeats none of them: what was moved while its answer was lost is
found moved. A step whose error may pass is tried again for as long as its state is worth, then the job fails with that reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from c2d_adapter import steps
from c2d_adapter.faults import Again, JobOver, told, verdict
from c2d_adapter.steps import Parts
from control_plane.errors import BadInput, Conflict, NotFound, Unavailable
from control_plane.jobs.job import Job, Progress, Reason
from control_plane.jobs.states import BEGUN_AGAIN, Kind, State
from control_plane.jobs.store import JobStore

_LOOK_S = 0.5
_LONGEST_PAUSE_S = 30.0
_CALM_S = 60.0
"""A program that ran so long was no mere repetition: patience begins anew after it. Other steps are slow when they fail, too."""
_SLICE_S = 0.1

Report = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Patience:
    """How long a state's step is tried. for_s: while its error may pass. tries: while it looks as if it would not.

    first_pause_s: doubled from try to try.
    """

    for_s: Mapping[State, float] = field(
        default_factory=lambda: {
            State.PROVISIONING: 600.0,
            State.RUNNING: 600.0,
            # what was trained is worth a day of waiting for a node or a storage
            State.STORING: 24 * 3600.0,
            State.DERIVING: 24 * 3600.0,
        }
    )
    tries: int = 5
    first_pause_s: float = 1.0


class _Leaving(Exception):
    """The worker is told to end."""


class _Lost(Exception):
    """The job is not this worker's any more."""


@dataclass(frozen=True)
class _Move:
    to_state: State
    facts: Mapping[str, Any] = field(default_factory=dict)


class Carrier:
    """One job, in one thread.

    parts: made when they are first needed. worker: the name under which the job was claimed. is_leaving: the process is to end.
    observe: told how long a step took: kind, state, seconds, and how it ended (`done`, `failed`, `again`, `left`).
    """

    def __init__(
        self,
        store: JobStore,
        parts: Callable[[], Parts],
        worker: str,
        *,
        is_leaving: Callable[[], bool],
        report: Report,
        observe: Callable[[Kind, State, float, str], None] = lambda _kind, _state, _seconds, _outcome: None,
        patience: Patience | None = None,
    ) -> None:
        self._store, self._parts, self._worker = store, parts, worker
        self._is_leaving, self._report, self._observe = is_leaving, report, observe
        self._patience = patience or Patience()
        self._looked_at = 0.0
        self._is_to_stop = self._is_lost = False

    def carry(self, job: Job) -> None:
        """Again, after any interruption: goes on where the job is."""
        try:
            while not job.is_over:
                job = self._step(job)
            self._say(job, reason=job.reason.code if job.reason else None)
            self._clear(job)
        except _Leaving:
            self._release(job)
        except _Lost:
            self._report({"job": job.job_id, "state": job.state.value, "lost": True})

    def _step(self, job: Job) -> Job:
        self._say(job)
        tries, failing_since, pause_s = 0, None, self._patience.first_pause_s
        while True:
            began = time.monotonic()
            try:
                moved = self._try(job)
                self._observe(job.kind, job.state, time.monotonic() - began, "done" if moved.reason is None else "failed")
                return moved
            except (_Leaving, _Lost):
                self._observe(job.kind, job.state, time.monotonic() - began, "left")
                raise
            except Exception as error:
                found = verdict(job.state, error)
                now = time.monotonic()
                self._report({"job": job.job_id, "state": job.state.value, **told(error)})
                self._observe(job.kind, job.state, now - began, "again" if isinstance(found, Again) else "failed")
                if not isinstance(found, Again):
                    return self._advance(job, found.state, reason=found.reason)
                if failing_since is None or (job.state is State.RUNNING and now - began > _CALM_S):
                    tries, failing_since, pause_s = 0, now, self._patience.first_pause_s
                tries += not found.is_passing
                if tries >= self._patience.tries or now - failing_since >= self._patience.for_s[job.state]:
                    return self._advance(job, found.state, reason=found.reason)
            self._pause(job, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _try(self, job: Job) -> Job:
        self._heed(job)
        if job.state in BEGUN_AGAIN and self._is_to_stop:
            return self._advance(job, State.STOPPED)
        move = self._work(job)
        if move is None:  # ended from outside
            self._look(job)
            self._heed(job)
            if not self._is_to_stop:
                raise Unavailable(f"job {job.job_id}: its program ended before its end, though nobody asked for it")
            return self._advance(job, State.STOPPED)
        return self._advance(job, move.to_state, **move.facts)

    def _work(self, job: Job) -> _Move | None:
        parts = self._parts()
        if job.state is State.PROVISIONING:
            steps.provision(parts, job, lambda: self._is_over(job))
            return None if self._is_over(job) else _Move(State.RUNNING)
        if job.state is State.RUNNING:
            result = steps.compute(
                parts, job, lambda record: self._tell(job, record), lambda: self._is_over(job), lambda: self._begin(job)
            )
            if result is None:
                return None
            if job.kind is Kind.TRAIN:
                return _Move(State.STORING, {"result": result})
            if job.kind is Kind.EVALUATE:
                steps.publish(parts, job, result)
                return _Move(State.FINISHED, {"result": result})
            return _Move(State.FINISHED, {"result": result, "along": parts.leave_receipt})
        if job.state is State.STORING and job.kind is Kind.TRAIN:
            return _Move(State.DERIVING, {"weights_digest": steps.store(parts, job)})
        if job.state is State.STORING:
            return _Move(State.FINISHED)
        return _Move(State.FINISHED, {"derived_did": steps.derive(parts, job)})

    def _advance(self, job: Job, to_state: State, **facts: Any) -> Job:
        """Move the job, however long the database is silent. Raises _Lost; JobOver for a result that the store does not take."""
        pause_s = self._patience.first_pause_s
        while True:
            try:
                return self._store.advance(job.job_id, job.state, to_state, worker=self._worker, **facts)
            except (Conflict, NotFound) as error:
                raise _Lost from error
            except BadInput as error:
                raise JobOver(State.FAILED, Reason(error.code, "the result is not one that a job may have")) from error
            except Unavailable as error:
                self._report({"job": job.job_id, "state": job.state.value, **told(error)})
            if self._is_leaving():
                raise _Leaving
            self._sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _is_over(self, job: Job) -> bool:
        """Asked by whoever computes, a few times a second: is this to end before its end?"""
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._look(job)
        return self._is_leaving() or self._is_lost or (self._is_to_stop and job.state in BEGUN_AGAIN)

    def _look(self, job: Job) -> None:
        self._looked_at = time.monotonic()
        try:
            found = self._store.get(job.job_id)
        except Unavailable:
            return  # as it was known; the next look will tell
        except NotFound:
            self._is_lost = True
            return
        self._is_lost = found.worker != self._worker or found.is_over
        self._is_to_stop = found.stop_requested_at is not None

    def _heed(self, job: Job) -> None:
        if time.monotonic() - self._looked_at > _LOOK_S:
            self._look(job)
        if self._is_lost:
            raise _Lost
        if self._is_leaving():
            raise _Leaving

    def _begin(self, job: Job) -> None:
        """Note that paid time is spent. Raises Unavailable where that is not noted: nothing is computed that would be forgotten."""
        if not self._store.begin(job.job_id, self._worker):
            self._look(job)  # to stop, or another worker's: the program is ended before it did anything

    def _tell(self, job: Job, record: Mapping[str, Any]) -> None:
        try:
            self._is_lost |= not self._store.progress(job.job_id, self._worker, Progress.from_json(record))
        except (BadInput, Unavailable) as error:  # the next one may be written
            self._report({"job": job.job_id, "state": job.state.value, "progress": False, **told(error)})

    def _pause(self, job: Job, seconds: float) -> None:
        self._sleep(seconds, lambda: self._is_over(job))

    def _sleep(self, seconds: float, is_enough: Callable[[], bool] | None = None) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not (is_enough or self._is_leaving)():
            time.sleep(min(left, _SLICE_S))

    def _release(self, job: Job) -> None:
        """Back to where the next worker takes it. When the store does not take it, it finds this worker dead."""
        try:
            self._say(self._store.release(job.job_id, self._worker), released=True)
        except (Conflict, NotFound, Unavailable) as error:
            self._report({"job": job.job_id, "state": job.state.value, **told(error)})

    def _clear(self, job: Job) -> None:
        try:
            steps.clear(self._parts(), job.job_id)
        except Exception as error:  # it is over all the same; the sweep removes what is left
            self._report({"job": job.job_id, "cleared": False, **told(error)})

    def _say(self, job: Job, **more: object) -> None:
        self._report({"job": job.job_id, "kind": job.kind.value, "state": job.state.value, **more})
