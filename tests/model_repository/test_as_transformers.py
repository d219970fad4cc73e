"""Choosing a token as transformers' `generate` does: the same scores, and whole answers of converted models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.penalties import Penalties
from generate.sampling import candidates

pytestmark = pytest.mark.slow

VOCABULARY = 300
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=60)
random_seeds = st.integers(0, 1 << 30)


def random_scores(seed: int) -> np.ndarray:
    """All different: of equal ones transformers takes what its sort happens to put first, or all."""
    scores = np.unique(np.random.default_rng(seed).normal(0, 6, VOCABULARY).astype(np.float32))
    return np.random.default_rng(seed).permutation(scores)


def warped(scores: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float) -> np.ndarray:
    """Each token's probability, float64 [vocabulary], by transformers' warpers in the order in which its `generate` has them."""
    import torch
    from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    left: Any = torch.from_numpy(scores.astype(np.float64))[None]
    chosen: list[Any] = [TemperatureLogitsWarper(temperature)]
    chosen += [TopKLogitsWarper(top_k)] if top_k else []
    chosen += [TopPLogitsWarper(top_p)] if top_p < 1.0 else []
    chosen += [MinPLogitsWarper(min_p)] if min_p > 0.0 else []
    for warper in chosen:
        left = warper(None, left)
    probabilities: np.ndarray = torch.softmax(left, dim=-1)[0].numpy()
    return probabilities


@given(
    random_seeds,
    st.floats(0.05, 50),
    st.one_of(st.just(1.0), st.floats(0.01, 1.0)),
    st.integers(0, 400),
    st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
)
def test_the_candidates_and_their_probabilities_are_the_same(
    seed: int, temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    scores = random_scores(seed)
    chosen, probabilities = candidates(scores, temperature, top_p, top_k, min_p)
    found = np.zeros(len(scores))
    found[chosen] = probabilities
    np.testing.assert_allclose(found, warped(scores, temperature, top_p, top_k, min_p), atol=1e-12, rtol=1e-9)


@given(tokens, tokens, st.floats(0.0625, 16), random_seeds)
def test_a_repetition_penalty_gives_the_same_scores_to_the_last_bit(
    read: list[int], said: list[int], penalty: float, seed: int
) -> None:
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    scores = np.random.default_rng(seed).normal(0, 8, VOCABULARY).astype(np.float32)
    ours = Penalties(repetition=penalty, frequency=0.0, presence=0.0, read=read, most=len(said))
    for token in said:
        ours.add(token)
    expected = scores
    if read or said:
        given_before = torch.tensor([[*read, *said]])
        expected = RepetitionPenaltyLogitsProcessor(penalty)(given_before, torch.from_numpy(scores)[None].clone())[0].numpy()
    np.testing.assert_array_equal(ours.apply(scores), expected)
