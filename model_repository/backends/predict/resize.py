"""Maps of numbers brought to an image's size.

In: float32 maps. Out: float32 maps of another size. This module must never smooth before it shrinks: PyTorch's `interpolate`, which
this equals (`align_corners=False`, `antialias=False`), does not either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Kind = Literal["bilinear", "bicubic"]
_A = -0.75
"""The cubic's free parameter, as PyTorch has it (Keys, 1981, has -0.5)."""


def resized(maps: np.ndarray, rows: int, columns: int, kind: Kind = "bilinear") -> np.ndarray:
    """maps: float32 [..., rows, columns]."""
    return along(along(maps, rows, -2, kind), columns, -1, kind)


def along(maps: np.ndarray, length: int, axis: int, kind: Kind, begin: int = 0, end: int | None = None) -> np.ndarray:
    """One axis brought to `length`; of the result only places `begin` to `end`."""
    taps, weights = _taps(maps.shape[axis], length, kind)
    taps, weights = taps[:, begin:end], weights[:, begin:end]
    shape = [1] * maps.ndim
    shape[axis] = -1
    parts = (np.take(maps, tap, axis=axis) * weight.reshape(shape) for tap, weight in zip(taps, weights, strict=True))
    total = next(parts)
    for part in parts:
        total += part
    return total


def _taps(found: int, wanted: int, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Which old places each new place is made of, and how much of each: both [taps, wanted]."""
    centres = (np.arange(wanted) + 0.5) * (found / wanted) - 0.5
    if kind == "bilinear":
        centres = np.maximum(centres, 0.0)
    first: np.ndarray = np.floor(centres).astype(np.int64)
    share = centres - first
    offsets: tuple[int, ...]
    if kind == "bilinear":
        offsets, weights = (0, 1), np.stack([1.0 - share, share])
    else:
        offsets = (-1, 0, 1, 2)
        weights = np.stack([_far(share + 1.0), _near(share), _near(1.0 - share), _far(2.0 - share)])
    taps = np.stack([np.clip(first + offset, 0, found - 1) for offset in offsets])
    return taps, weights.astype(np.float32)


def _near(distance: np.ndarray) -> np.ndarray:
    return ((_A + 2.0) * distance - (_A + 3.0)) * distance**2 + 1.0


def _far(distance: np.ndarray) -> np.ndarray:
    return ((_A * distance - 5.0 * _A) * distance + 8.0 * _A) * distance - 4.0 * _A
