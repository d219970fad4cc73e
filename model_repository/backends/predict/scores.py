"""From a graph's numbers to probabilities and vectors.

In: float32 arrays. Out: float32 arrays. This module must never run a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

TINY = 1e-12


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in float32 as the models compute it."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """Without overflow: exp is only taken of numbers at or below 0."""
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, np.float32(1.0), small) / (np.float32(1.0) + small)


def unchanged(scores: np.ndarray) -> np.ndarray:
    return scores


ACTIVATIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"softmax": softmax, "sigmoid": sigmoid, "none": unchanged}
)


def pool(hidden: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    """One vector a row. hidden: float32 [rows, sequence, dimensions]; mask: 1 for tokens, 0 for padding [rows, sequence]."""
    if pooling == "mean":
        weights: np.ndarray = mask[:, :, np.newaxis].astype(np.float32)
        return (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    rows = np.arange(len(hidden))
    if pooling == "cls":
        return hidden[rows, mask.argmax(axis=1)]
    return hidden[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Each row divided by its Euclidean length; a row of zeros stays one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), TINY)


def best(scores: np.ndarray, count: int) -> list[int]:
    """Places of the `count` largest numbers of one row, the largest first; equal ones in their order."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:count]]


def ranked(scores: np.ndarray, labels: list[str], count: int) -> list[dict[str, Any]]:
    """One row's labels as the Hugging Face inference API answers them: the likeliest first, at most `count`."""
    return [{"label": labels[place], "score": float(scores[place])} for place in best(scores, count)]
