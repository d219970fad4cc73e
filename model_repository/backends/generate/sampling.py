"""Choose the next token from the model's scores.

In: logits and a call's settings. Out: a token id. This module must never take randomness from anywhere but the seed it was given.

The order, as transformers' `generate` has it: penalties (`penalties.py`), temperature, top-k, top-p, min-p, then one draw.
"""

from __future__ import annotations

import numpy as np

_UINT64 = (1 << 64) - 1


def candidates(
    logits: np.ndarray, temperature: float, top_p: float, top_k: int, min_p: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may come next and their probabilities, which add up to 1.

    logits: float [vocabulary]. temperature > 0. First the temperature, then the `top_k` likeliest (0 = all), then the smallest set
    of the likeliest whose probabilities reach `top_p`, then those at least `min_p` times as likely as the likeliest (0 = all;
    arXiv:2407.01082). Never empty. Of equally likely tokens the lower id counts as likelier.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    best = scaled.max()
    tokens = _largest(scaled, top_k) if top_k else np.arange(len(scaled))
    probabilities = np.exp(scaled[tokens] - best)
    if min_p > 0.0:
        # Before top-p in time, after it in meaning: both keep the likeliest, so the smaller of the two sets is left either way, and
        # fewer are sorted. The likeliest has exp(0) = 1 here.
        whole = probabilities.sum()
        likely = np.flatnonzero(probabilities >= min_p)
        tokens, probabilities = tokens[likely], probabilities[likely] / whole
    else:
        probabilities /= probabilities.sum()
    if top_p < 1.0:
        # Numbers alone are sorted first: of 50,000 tokens, sorting ids by them takes longer than a small model's step.
        kept = int(np.searchsorted(np.cumsum(-np.sort(-probabilities)), top_p)) + 1
        chosen = _largest(probabilities, kept)
        tokens, probabilities = tokens[chosen], probabilities[chosen]
    if min_p > 0.0 or top_p < 1.0:
        probabilities /= probabilities.sum()
    return tokens, probabilities


def log_probability(logits: np.ndarray, token: int) -> float:
    """Natural logarithm of the token's probability under the softmax of these scores. Their highest must be finite."""
    scores = np.asarray(logits, np.float32)
    best = scores.max()
    return float(scores[token] - best) - float(np.log(np.exp(scores - best).sum(dtype=np.float64)))


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest, the largest first; of equal ones the lower place is first."""
    if count < len(values):
        edge = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > edge)
        places = np.concatenate([above, np.flatnonzero(values == edge)[: count - len(above)]])
    else:
        places = np.arange(len(values))
    ordered: np.ndarray = places[np.argsort(-values[places], kind="stable")]
    return ordered


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
        edges = np.cumsum(probabilities)
        drawn = int(np.searchsorted(edges, self._random.random() * edges[-1], side="right"))
        return int(tokens[min(drawn, len(tokens) - 1)])
