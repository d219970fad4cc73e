"""An empty database of each kind, and a clock that stands still, for whoever tests what both say together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from tests.fixtures_market import Clock


@pytest.fixture
def engine(open_engine: Callable[[], Engine]) -> Engine:
    return open_engine()


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)
