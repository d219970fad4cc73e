"""Real processes over one database: what they claim at once, and what becomes of a job whose worker is killed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from control_plane.jobs.job import Progress
from control_plane.jobs.states import Kind, State
from control_plane.jobs.store import JobStore
from control_plane.receipts.workers import is_alive
from tests.control_plane.jobs.asking import OTHER_WORKER, RESULT, a_job, anyone, ask, held_by
from tests.fixtures_database import shown_whole

REPOSITORY = Path(__file__).parents[3]
JOBS = 200

WORKER = """
import sys
import time
from pathlib import Path
from control_plane.database import open_database
from control_plane.jobs.states import State
from control_plane.jobs.store import JobStore
from control_plane.receipts.workers import Worker

url, folder = sys.argv[1:]
store, worker = JobStore(open_database(url)), Worker(Path(folder))
print(worker.name, flush=True)
"""
CLAIM_ALL = (
    WORKER
    + """
sys.stdin.readline()
doing = []
while (job := store.claim(worker.name, doing)) is not None:
    doing.append(job.job_id)
    time.sleep(0.002)  # a worker works between two claims; without a pause SQLite lets the same process in again and again
print(*doing, flush=True)
"""
)
HOLD_ONE = (
    WORKER
    + """
job = store.claim(worker.name)
store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=worker.name)
print(job.job_id, flush=True)
sys.stdin.read()
"""
)


@contextmanager
def working(script: str, engine: Engine, folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", script, shown_whole(engine), str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_claim_each_of_200_jobs_exactly_once(store: JobStore, engine: Engine, tmp_path: Path) -> None:
    asked = {ask(store).job_id for _ in range(JOBS)}
    with working(CLAIM_ALL, engine, tmp_path / "workers") as one, working(CLAIM_ALL, engine, tmp_path / "workers") as other:
        names = [line_of(one), line_of(other)]
        start(one), start(other)
        claimed = [line_of(one).split(), line_of(other).split()]
    assert Counter(claimed[0] + claimed[1]) == Counter(asked)
    assert all(claimed)
    for name, jobs in zip(names, claimed, strict=True):
        assert [job.job_id for job in held_by(store, name)] == jobs
        assert {store.get(job).attempts for job in jobs} == {1}
    assert store.claim(OTHER_WORKER) is None


def test_a_job_whose_worker_was_killed_is_claimed_and_finished_by_another(store: JobStore, engine: Engine, tmp_path: Path) -> None:
    folder, asked = tmp_path / "workers", a_job(Kind.INFER)
    job = store.add(asked, anyone)
    with working(HOLD_ONE, engine, folder) as process:
        name = line_of(process)
        assert line_of(process) == job.job_id
        assert store.reclaim(lambda worker: is_alive(folder, worker)).queued == ()
        assert store.get(job.job_id).worker == name
        process.kill()
        process.wait(10)
    assert store.reclaim(lambda worker: is_alive(folder, worker)).queued == (job.job_id,)
    assert store.claim(OTHER_WORKER) is not None
    store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=OTHER_WORKER)
    assert not store.progress(job.job_id, name, Progress(1, 1))
    done = store.advance(job.job_id, State.RUNNING, State.FINISHED, worker=OTHER_WORKER, result=RESULT)
    assert (done.state, done.attempts) == (State.FINISHED, 2)
    assert store.of_payment(asked.payment) == (done,)
