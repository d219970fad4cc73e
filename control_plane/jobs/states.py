"""The states of a job, and the moves between them.

In: a kind and two states. Out: whether that move is legal. This module must never know a row, a worker or a clock.

    queued -> provisioning -> running -> storing -> deriving -> finished

Only training stores weights and derives an asset; `evaluate` and `infer` may pass `storing`, and end there or after `running`. A
program gets its place and its processes when `running` begins: a job that gets none ends as `failed_algorithm_provisioning`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Kind(StrEnum):
    TRAIN = "train"
    EVALUATE = "evaluate"
    INFER = "infer"


class State(StrEnum):
    QUEUED = "queued"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    STORING = "storing"
    DERIVING = "deriving"
    FINISHED = "finished"
    FAILED_DATA = "failed_data"
    FAILED_ALGORITHM_PROVISIONING = "failed_algorithm_provisioning"
    FAILED = "failed"
    STOPPED = "stopped"


OVER = frozenset({State.FINISHED, State.FAILED_DATA, State.FAILED_ALGORITHM_PROVISIONING, State.FAILED, State.STOPPED})
"""No move leads out of these."""
FAILURES = frozenset({State.FAILED_DATA, State.FAILED_ALGORITHM_PROVISIONING, State.FAILED})
HELD = frozenset({State.PROVISIONING, State.RUNNING, State.STORING, State.DERIVING})
"""A worker has the job, or had it and died."""
BEGUN_AGAIN = frozenset({State.PROVISIONING, State.RUNNING})
"""A job whose worker died here goes back into the queue; its program goes on from its last checkpoint."""
GONE_ON_WITH = frozenset({State.STORING, State.DERIVING})
"""A job whose worker died here keeps its state, and the next worker goes on there: its program has ended, and something may have
been written outside already. For the same reason it can no longer be stopped."""

_AFTER_RUNNING: Mapping[Kind, frozenset[State]] = {
    Kind.TRAIN: frozenset({State.STORING}),
    Kind.EVALUATE: frozenset({State.STORING, State.FINISHED}),
    Kind.INFER: frozenset({State.STORING, State.FINISHED}),
}
_AFTER_STORING: Mapping[Kind, frozenset[State]] = {
    Kind.TRAIN: frozenset({State.DERIVING}),
    Kind.EVALUATE: frozenset({State.FINISHED}),
    Kind.INFER: frozenset({State.FINISHED}),
}


def _moves(kind: Kind) -> Mapping[State, frozenset[State]]:
    some = {
        State.QUEUED: frozenset({State.PROVISIONING, State.STOPPED}),
        State.PROVISIONING: frozenset({State.RUNNING, State.QUEUED, State.STOPPED, State.FAILED_DATA, State.FAILED}),
        State.RUNNING: _AFTER_RUNNING[kind] | {State.QUEUED, State.STOPPED, State.FAILED_ALGORITHM_PROVISIONING, State.FAILED},
        State.STORING: _AFTER_STORING[kind] | {State.FAILED},
    }
    if kind is Kind.TRAIN:
        some[State.DERIVING] = frozenset({State.FINISHED, State.FAILED})
    return {state: some.get(state, frozenset()) for state in State}


MOVES: Mapping[Kind, Mapping[State, frozenset[State]]] = {kind: _moves(kind) for kind in Kind}
"""Where a job of each kind may go from each state."""


def is_legal(kind: Kind, from_state: State, to_state: State) -> bool:
    return to_state in MOVES[kind][from_state]
