"""A market of jobs with workers in threads: jobs are ordered, a worker is there, they come to their end."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.worker import Hands
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind
from tests.control_plane.jobs.asking import a_job, anyone
from tests.simulators.jobs import STEPS, JobMarket

REPOSITORY = Path(__file__).parents[1]
WITHIN_S = 20.0
TRAINING = {"dataset": "wikitext-2", "steps": STEPS, "batch_size": 8}
EVALUATION = {"dataset": "wikitext-2", "samples": 5, "seed": 1, "max_tokens": 16}
BATCH = {"prompts": ["the market", "a buyer"], "max_tokens": 5, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}


@pytest.fixture
def market(tmp_path: Path) -> Iterator[JobMarket]:
    made = JobMarket(tmp_path)
    yield made
    made.engine.dispose()


def ordered(market: JobMarket, parameters: dict[str, Any] | None = None, kind: Kind = Kind.TRAIN, **changes: Any) -> Job:
    digest = market.models.listing.model_digest
    text = json.dumps(TRAINING if parameters is None else parameters)
    return market.store.add(a_job(kind, model_digest=digest, parameters=text, **changes), anyone)


@contextmanager
def working(market: JobMarket, **more: Any) -> Iterator[tuple[Hands, list[dict[str, Any]]]]:
    lines: list[dict[str, Any]] = []
    hands = market.hands(say=lines.append, **more)
    thread = threading.Thread(target=hands.work)
    thread.start()
    try:
        yield hands, lines
    finally:
        hands.leaving.set()
        thread.join(WITHIN_S)
        assert not thread.is_alive()


@contextmanager
def worker_process(home: Path, point: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, which waits at a point to be killed there; see `tests/simulators/jobs.py`."""
    with (home / "lines").open("ab") as out:
        command = [sys.executable, "-m", "tests.simulators.jobs", str(home), point]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def wait(is_so: Callable[[], bool], about: Callable[[], object] = lambda: None) -> None:
    until = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < until, about()
        time.sleep(0.02)


def done(market: JobMarket, job: Job, **more: Any) -> Job:
    """The job when a worker was there until it was over."""
    with working(market, **more) as (_, lines):
        wait(lambda: market.store.get(job.job_id).is_over, lambda: lines)
        wait(lambda: not market.parts.folder(job.job_id).path.exists(), lambda: lines)
    return market.store.get(job.job_id)
