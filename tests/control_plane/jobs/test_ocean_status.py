"""What Ocean's clients read of a job."""

from __future__ import annotations

import pytest

from control_plane.jobs.job import Reason
from control_plane.jobs.ocean_status import STATUSES, ocean_status
from control_plane.jobs.states import FAILURES, Kind, State
from control_plane.jobs.store import JobStore
from tests.control_plane.jobs.asking import ONE_WORKER, OUT_OF_MEMORY, bring

CODES = {
    State.QUEUED: 1,
    State.PROVISIONING: 20,
    State.RUNNING: 40,
    State.STORING: 50,
    State.DERIVING: 60,
    State.FINISHED: 70,
    State.FAILED_DATA: 31,
    State.FAILED_ALGORITHM_PROVISIONING: 32,
    State.FAILED: 41,
    State.STOPPED: 70,
}


@pytest.mark.parametrize("state", State)
def test_every_state_has_oceans_code(store: JobStore, state: State) -> None:
    assert ocean_status(bring(store, Kind.TRAIN, state)).code == CODES[state]
    assert set(STATUSES) == set(State)


def test_codes_of_a_job_that_goes_well_only_grow(store: JobStore) -> None:
    way = (State.QUEUED, State.PROVISIONING, State.RUNNING, State.STORING, State.DERIVING, State.FINISHED)
    codes = [STATUSES[state].code for state in way]
    assert codes == sorted(set(codes))


@pytest.mark.parametrize("state", sorted(FAILURES))
def test_a_failure_tells_its_reason(store: JobStore, state: State) -> None:
    job = bring(store, Kind.INFER, state)
    assert ocean_status(job).text.endswith(f"ailed: {OUT_OF_MEMORY.message}")


def test_a_stopped_job_and_a_waiting_one_say_so(store: JobStore) -> None:
    assert ocean_status(bring(store, Kind.INFER, State.STOPPED)).text == "Job stopped"
    running = bring(store, Kind.INFER, State.RUNNING)
    stopped = store.advance(running.job_id, State.RUNNING, State.STOPPED, worker=ONE_WORKER, reason=Reason("stopped", "by Bob"))
    assert ocean_status(stopped).text == "Job stopped"
    waiting = bring(store, Kind.INFER, State.QUEUED)
    assert ocean_status(waiting).text == "Warming up"
    assert ocean_status(waiting, 3).text == "Warming up: number 3 in the queue"
    assert ocean_status(waiting, 3).code == 1
