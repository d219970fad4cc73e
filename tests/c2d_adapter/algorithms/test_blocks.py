"""Which blocks a step trains on."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2d_adapter.algorithms.blocks import blocks_of
from c2d_adapter.job_io import JobFailed


@given(count=st.integers(4, 40), batch=st.integers(1, 4), seed=st.integers(0, 2**63), turns=st.integers(1, 3))
def test_each_round_over_the_texts_meets_every_block_once(count: int, batch: int, seed: int, turns: int) -> None:
    blocks = blocks_of(numpy.arange(count * 8 + 3), 8, seed, batch)
    seen = [int(row[0]) // 8 for step in range(-(-count * turns // batch)) for row in blocks.batch(step, batch)]
    for turn in range(turns):
        assert sorted(seen[turn * count : (turn + 1) * count]) == list(range(count))


@given(st.integers(0, 1000), st.integers(0, 2**63))
def test_a_step_s_blocks_do_not_hang_on_what_was_asked_before(step: int, seed: int) -> None:
    tokens = numpy.arange(50 * 8)
    one, other = blocks_of(tokens, 8, seed, 4), blocks_of(tokens, 8, seed, 4)
    other.batch(step + 7, 4)
    assert (one.batch(step, 4) == other.batch(step, 4)).all()


def test_too_few_tokens_for_a_batch_are_refused_with_both_numbers() -> None:
    with pytest.raises(JobFailed, match=r"31 tokens; a batch of 4 sequences of 8 takes 32"):
        blocks_of(numpy.arange(31), 8, 0, 4)
