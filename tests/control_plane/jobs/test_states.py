"""Every move there is, for every kind: those of the list are legal, and no other."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.jobs.states import BEGUN_AGAIN, FAILURES, GONE_ON_WITH, HELD, MOVES, OVER, Kind, State, is_legal

EVERY_KIND = """
queued provisioning
queued stopped
provisioning running
provisioning queued
provisioning stopped
provisioning failed_data
provisioning failed
running storing
running queued
running stopped
running failed_algorithm_provisioning
running failed
storing failed
"""
ONLY_TRAINING = """
storing deriving
deriving finished
deriving failed
"""
ONLY_OTHERS = """
running finished
storing finished
"""


def moves(text: str) -> set[tuple[State, State]]:
    return {(State(line.split()[0]), State(line.split()[1])) for line in text.split("\n") if line}


@pytest.mark.parametrize("kind", Kind)
def test_a_move_is_legal_exactly_when_the_list_has_it(kind: Kind) -> None:
    listed = moves(EVERY_KIND) | moves(ONLY_TRAINING if kind is Kind.TRAIN else ONLY_OTHERS)
    every = set(itertools.product(State, State))
    assert len(every) == 100
    assert {move for move in every if is_legal(kind, *move)} == listed


def test_each_state_is_either_the_queue_or_a_workers_or_over() -> None:
    assert {State.QUEUED} | HELD | OVER == set(State)
    assert set() == HELD & OVER
    assert BEGUN_AGAIN | GONE_ON_WITH == HELD
    assert set() == BEGUN_AGAIN & GONE_ON_WITH
    assert FAILURES < OVER


def test_what_may_be_begun_again_or_stopped_is_what_has_written_nothing_outside() -> None:
    for kind in Kind:
        assert {state for state in HELD if is_legal(kind, state, State.QUEUED)} == BEGUN_AGAIN
        assert {state for state in HELD if is_legal(kind, state, State.STOPPED)} == BEGUN_AGAIN


@given(st.sampled_from(Kind), st.lists(st.integers(0, 99), max_size=60))
def test_whatever_moves_are_made_a_job_ends_once_and_can_always_end(kind: Kind, choices: list[int]) -> None:
    state, ended = State.QUEUED, 0
    for choice in choices:
        open_moves = sorted(MOVES[kind][state])
        if not open_moves:
            break
        state = open_moves[choice % len(open_moves)]
        ended += state in OVER
    assert ended <= 1
    assert (state in OVER) == (not MOVES[kind][state])
    reached, waiting = {state}, [state]
    while waiting:
        fresh = MOVES[kind][waiting.pop()] - reached
        reached |= fresh
        waiting += fresh
    assert reached & OVER
    assert state in OVER or State.FAILED in reached
