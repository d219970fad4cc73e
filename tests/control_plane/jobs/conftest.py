"""An empty store of jobs on each kind of database, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from control_plane.jobs.store import JobStore
from tests.fixtures_market import Clock


@pytest.fixture
def engine(open_engine: Callable[[], Engine]) -> Engine:
    return open_engine()


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def store(engine: Engine, clock: Clock) -> JobStore:
    return JobStore(engine, clock)
