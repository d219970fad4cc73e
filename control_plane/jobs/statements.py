"""What the store asks its table again and again.

In: states, a worker. Out: conditions and statements. This module must never run one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, case, select

from control_plane.database import jobs as table
from control_plane.jobs.environments import FREE
from control_plane.jobs.states import GONE_ON_WITH, HELD, State


def state_in(states: Collection[State]) -> ColumnElement[bool]:
    return table.c.state.in_(sorted(state.value for state in states))


def waits() -> ColumnElement[bool]:
    """For a worker: in the queue, or to be gone on with."""
    in_queue = (table.c.state == State.QUEUED.value) & table.c.stop_requested_at.is_(None)
    return in_queue | (state_in(GONE_ON_WITH) & table.c.worker.is_(None))


def runs_with(job_id: str, worker: str) -> ColumnElement[bool]:
    """The job, while its program may run in the hands of this worker."""
    return (table.c.job_id == job_id) & (table.c.worker == worker) & (table.c.state == State.RUNNING.value)


def not_behind(environment: str, position: int) -> ColumnElement[bool]:
    """Jobs that are taken before one in the queue, and it itself: those to be gone on with, then those that are paid for."""
    is_older, is_free = table.c.position <= position, table.c.environment == FREE
    return state_in(GONE_ON_WITH) | ((is_older | ~is_free) if environment == FREE else (is_older & ~is_free))


def next_for(worker: str, doing: Collection[str]) -> Select[Any]:
    """The row that `JobStore.claim` is about. It is locked where rows can be; one that another worker is taking is passed over."""
    is_forgotten = (table.c.worker == worker) & state_in(HELD) & table.c.job_id.not_in(sorted(doing))
    first = case((table.c.worker == worker, 0), (table.c.state == State.QUEUED.value, 2), else_=1)
    paid = case((table.c.environment == FREE, 1), else_=0)
    chosen = select(table).where(is_forgotten | waits()).order_by(first, paid, table.c.position)
    return chosen.limit(1).with_for_update(skip_locked=True)
