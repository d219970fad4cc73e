"""What an error means for a job: to be tried again, or the job's end; and what its owner is told of it.

In: the state a job is in, an error. Out: a verdict. This module must never do I/O, nor show its owner more of an error than a code
and a sentence of ours: messages name paths, servers and buckets.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from c2d_adapter.engine import NO_ENGINE
from control_plane.errors import ChangedByOwner, IntegrityBroken, PosthumanError
from control_plane.jobs.job import Reason
from control_plane.jobs.states import GONE_ON_WITH, State
from control_plane.provider.fetch import FILE_BROKE_OFF

GOOD_FOR_ANOTHER = "the payment is good for another job"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_DOING: Mapping[State, str] = {
    State.PROVISIONING: "prepare the job",
    State.RUNNING: "run the job",
    State.STORING: "store what was trained",
    State.DERIVING: "make an asset of what was trained",
}


class JobOver(Exception):
    """A step has found that the job ends here. reason: for its owner."""

    def __init__(self, state: State, reason: Reason) -> None:
        super().__init__(reason.message)
        self.state, self.reason = state, reason


@dataclass(frozen=True)
class Over:
    """The job ends."""

    state: State
    reason: Reason


@dataclass(frozen=True)
class Again:
    """The step is tried again after a pause. state, reason: how the job ends when that does not help.

    is_passing: it may well pass by itself or when the operator acts, so it is waited for; otherwise only a few tries are worth it.
    """

    state: State
    reason: Reason
    is_passing: bool


def verdict(state: State, error: Exception) -> Again | Over:
    """state: one in which a worker has the job."""
    doing = f"the market could not {_DOING[state]}"
    if isinstance(error, JobOver):
        is_so = state is State.PROVISIONING or error.state is State.FAILED_ALGORITHM_PROVISIONING
        return Over(error.state if is_so else State.FAILED, error.reason)
    fails = State.FAILED_DATA if state is State.PROVISIONING else State.FAILED  # what is prepared is its data
    if isinstance(error, OSError):
        if error.errno in _NO_ROOM:
            return Again(fails, Reason("no_room", f"{doing}: its machine has no room left; {GOOD_FOR_ANOTHER}"), is_passing=True)
        return Again(fails, Reason("internal", f"{doing}: a fault of its machine; {GOOD_FOR_ANOTHER}"), is_passing=True)
    if not isinstance(error, PosthumanError):
        return Again(fails, Reason("internal", f"{doing}: a fault of the market; {GOOD_FOR_ANOTHER}"), is_passing=False)
    if isinstance(error, ChangedByOwner):
        why = f"{doing}: its owner changed the asset on chain meanwhile, or takes none; what was paid for is spent"
        return Over(fails, Reason(error.code, why))
    if isinstance(error, IntegrityBroken):
        why = f"{doing}: what it keeps is not what it should be; {GOOD_FOR_ANOTHER}"
        return Again(fails, Reason(error.code, why), is_passing=True)
    if error.retry_after_s is not None:
        if error.code == FILE_BROKE_OFF:  # a stranger's server: whose fault it is, and how often it lasts, is his to choose
            why = f"{doing}: the data set's files broke off on their way; {GOOD_FOR_ANOTHER}"
            return Again(fails, Reason(error.code, why), is_passing=False)
        if error.code == NO_ENGINE:
            fails = State.FAILED_ALGORITHM_PROVISIONING
        return Again(fails, Reason(error.code, f"{doing}: a part of it did not answer; {GOOD_FOR_ANOTHER}"), is_passing=True)
    refused = Reason(error.code, f"{doing}: it was refused ({error.code}); {GOOD_FOR_ANOTHER}")
    if state in GONE_ON_WITH:  # the training is done, and something may be written outside: not given up at the first no
        return Again(fails, refused, is_passing=False)
    return Over(fails, refused)


def told(error: Exception) -> dict[str, str]:
    """An error for the operator's log: of an unexpected one its kind and place, without its text, which may hold anything."""
    if isinstance(error, JobOver):
        return {"error": error.reason.code, "message": error.reason.message}
    if isinstance(error, PosthumanError):
        return {"error": error.code, "message": error.message}
    frames = traceback.extract_tb(error.__traceback__)
    place = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(frames[-6:]))
    return {"error": "internal_error", "message": f"{type(error).__name__} at {place}"}
