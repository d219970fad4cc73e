"""Choose the next token from the model's scores.

In: logits and a call's settings. Out: a token id. This module must never take randomness from anywhere but the seed it was given.

The order, as transformers' `generate` has it: penalties (`penalties.py`), temperature, top-k, top-p, min-p, then one draw.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

_BLOCK = 256
_UINT64 = (1 << 64) - 1


def candidates(
    logits: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may come next, lowest id first, and their probabilities, which add up to 1.

    logits: float [vocabulary]. temperature > 0. First the temperature, then the `top_k` likeliest (0 = all), then the smallest set
    of the likeliest whose probabilities reach `top_p`, then those at least `min_p` times as likely as the likeliest (0 = all;
    arXiv:2407.01082). Never empty. Of equally likely tokens the lower id counts as likelier.
    """
    scores = np.array(logits, np.float64)
    scores /= temperature
    best, size = scores.max(), len(scores)
    tokens: np.ndarray | None = None  # all of them
    if 0 < top_k < size:
        tokens = _from(scores, np.partition(scores, size - top_k)[size - top_k], top_k)
        scores = scores[tokens]
    scores -= best
    probabilities = np.exp(scores, out=scores)  # in place, as all before: memory for 50,000 numbers costs more than what is done
    whole = probabilities.sum()
    if min_p > 0.0:
        # Before top-p in time, after it in meaning: both keep the likeliest, so the smaller of the two sets is left either way, and
        # fewer are sorted. The likeliest has exp(0) = 1 here.
        likely = np.flatnonzero(probabilities >= min_p)
        tokens, probabilities = likely if tokens is None else tokens[likely], probabilities[likely]
    probabilities /= whole
    if top_p < 1.0:
        # Numbers alone are sorted: sorting the ids of 50,000 tokens by them takes 25 times as long. All that are less likely than
        # this come to less than 1 - top_p together, so the others reach top_p without them.
        ordered = np.sort(probabilities[probabilities >= (1.0 - top_p) / size])[::-1]
        kept = min(_reach(ordered, top_p, "left") + 1, len(ordered))
        chosen = _from(probabilities, ordered[kept - 1], kept)
        tokens, probabilities = chosen if tokens is None else tokens[chosen], probabilities[chosen]
    if tokens is None:
        return np.arange(size), probabilities
    return tokens, probabilities / probabilities.sum()


def log_probability(logits: np.ndarray, token: int) -> float:
    """Natural logarithm of the token's probability under the softmax of these scores. Their highest must be finite."""
    scores = np.asarray(logits, np.float32)
    best = scores.max()
    return float(scores[token] - best) - float(np.log(np.exp(scores - best).sum(dtype=np.float64)))


def _from(values: np.ndarray, least: float, count: int) -> np.ndarray:
    """Places of the `count` largest, in order of place. least: the smallest of them; of those that equal it the first are taken."""
    places = np.flatnonzero(values >= least)
    if len(places) > count:
        equal = np.flatnonzero(values[places] == least)
        places = np.delete(places, equal[len(equal) - (len(places) - count) :])
    return places


def _reach(values: np.ndarray, wanted: float, side: Literal["left", "right"]) -> int:
    """How many of the first values do not add up to `wanted` (left), or not to more (right): as `searchsorted` in their sums.

    By sums of blocks: the sum up to each of 50,000 takes longer than all the rest of a choice.
    """
    starts = np.arange(0, len(values), _BLOCK)
    sums = np.cumsum(np.add.reduceat(values, starts))
    block = min(int(np.searchsorted(sums, wanted, side)), len(starts) - 1)
    before = float(sums[block - 1]) if block else 0.0
    start = block * _BLOCK
    return start + int(np.searchsorted(np.cumsum(values[start : start + _BLOCK]), wanted - before, side))


class Sampler:
    """Chooses a call's tokens one after the other: the same seed and the same logits give the same tokens.

    seed: any 64-bit integer. temperature 0 takes the likeliest token (the lowest id among equals) and draws nothing.
    """

    def __init__(self, *, temperature: float, top_p: float, top_k: int, seed: int, min_p: float = 0.0) -> None:
        self._temperature, self._top_p, self._top_k, self._min_p = temperature, top_p, top_k, min_p
        # Philox by its key, and one double a token: numpy promises both streams to stay the same across versions.
        self._random = np.random.Generator(np.random.Philox(key=seed & _UINT64))

    def pick(self, logits: np.ndarray) -> int:
        """logits: float [vocabulary]. Raises ValueError when they are not numbers: the model is broken, not the call."""
        if not np.isfinite(np.max(logits)):
            raise ValueError(f"the model's highest logit is {np.max(logits)}")
        if self._temperature == 0.0:
            return int(np.argmax(logits))
        tokens, probabilities = candidates(logits, self._temperature, self._top_p, self._top_k, self._min_p)
        drawn = _reach(probabilities, self._random.random(), "right")
        return int(tokens[min(drawn, len(tokens) - 1)])
