"""What was said before comes less often, or more. Equality with transformers' own: `test_as_transformers.py`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.penalties import Penalties

VOCABULARY = 60
SCORES = np.array([2.0, -2.0, 0.0, 1.0, -np.inf], np.float32)

tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)


def penalties(
    repetition: float = 1.0,
    frequency: float = 0.0,
    presence: float = 0.0,
    read: list[int] | None = None,
    said: list[int] | None = None,
) -> Penalties:
    said = said or []
    made = Penalties(repetition=repetition, frequency=frequency, presence=presence, read=read or [], most=len(said) + 1)
    for token in said:
        made.add(token)
    return made


def random_scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 8, VOCABULARY).astype(np.float32)


@given(tokens, tokens, st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 1 << 30))
def test_frequency_and_presence_are_openais_formula_over_the_completion(
    read: list[int], said: list[int], frequency: float, presence: float, seed: int
) -> None:
    """`mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence`, OpenAI's API reference."""
    scores = random_scores(seed)
    counts = np.bincount(said, minlength=VOCABULARY) if said else np.zeros(VOCABULARY)
    expected = scores.astype(np.float64) - counts * frequency - (counts > 0) * presence
    # float32: three roundings of numbers up to 120
    np.testing.assert_allclose(
        penalties(frequency=frequency, presence=presence, read=read, said=said).apply(scores), expected, atol=3e-5, rtol=0
    )


def test_repetition_comes_first_of_all_three() -> None:
    found = penalties(repetition=2.0, frequency=0.25, presence=0.5, read=[3], said=[0, 0, 1]).apply(SCORES)
    np.testing.assert_array_equal(found, np.array([2 / 2 - 0.5 - 0.5, -2 * 2 - 0.25 - 0.5, 0.0, 0.5, -np.inf], np.float32))


def test_a_token_that_the_model_forbids_stays_forbidden() -> None:
    for made in (penalties(repetition=0.5, read=[4]), penalties(frequency=-2.0, presence=-2.0, said=[4])):
        assert made.apply(SCORES)[4] == -np.inf


def test_the_models_own_scores_are_left_as_they_are() -> None:
    scores = SCORES.copy()
    penalties(repetition=3.0, presence=1.0, read=[0, 1], said=[2]).apply(scores)
    np.testing.assert_array_equal(scores, SCORES)


@pytest.mark.parametrize(
    ("read", "is_on"), [({}, False), ({"repetition": 1.1}, True), ({"frequency": 0.1}, True), ({"presence": -1.0}, True)]
)
def test_only_what_differs_from_nothing_is_on(read: dict[str, float], is_on: bool) -> None:
    assert penalties(**read).is_on is is_on


def test_a_long_text_costs_no_more_than_its_different_tokens() -> None:
    """By counting what is looked at, not by a clock: 20,000 tokens, 50 different ones."""
    made = penalties(repetition=1.2, read=[7] * 10_000, said=[token % 50 for token in range(10_000)])
    assert len(made._places) == 50
