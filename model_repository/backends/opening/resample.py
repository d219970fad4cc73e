"""Another sampling rate for a sound.

In: samples and two rates. Out: samples at the second rate. This module must never let through what the second rate cannot hold:
it would come back as another, lower tone.

Band-limited interpolation: every new sample is a sum of the old ones around its moment, weighted by a sinc under a Kaiser window.
Source: J. O. Smith, Digital Audio Resampling Home Page, "Theory of Ideal Bandlimited Interpolation". Chosen over a library, since
the only one that both environments could have (`soxr`) is another piece of native code that strangers' files reach.
"""

from __future__ import annotations

from math import gcd

import numpy as np

_CROSSINGS = 32
"""Zero crossings of the sinc on each side: with the window below, what is cut off is 80 dB down within 5 % of the highest tone."""
_KAISER = 8.0
_ROLLOFF = 0.95
_CHUNK = 1 << 15
"""New samples computed at once: bounds the memory to chunk * taps."""
_ROWS = 1 << 10
"""Rows of weights computed at once, in float64: two odd rates have as many rows as the second has samples a second."""


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """float32 [samples] at `rate` -> float32 [samples * wanted / rate, rounded up] at `wanted`, of the same length in seconds.

    Beyond both ends there is silence.
    """
    if rate == wanted or not len(samples):
        return samples.astype(np.float32)
    step = gcd(rate, wanted)
    old, new = rate // step, wanted // step
    cut = _ROLLOFF * min(1.0, new / old)
    reach = int(np.ceil(_CROSSINGS / cut))
    count = -(-len(samples) * new // old)
    # Moments of new samples come back to the same place between two old ones after `new` of them: that many rows of weights.
    rows = min(new, count)
    weights: np.ndarray = np.empty((rows, 2 * reach + 1), np.float32)
    for start in range(0, rows, _ROWS):
        numbers = np.arange(start, min(start + _ROWS, rows))
        weights[numbers] = _weights(numbers * old % new / new, reach, cut)
    padded = np.concatenate([np.zeros(reach, np.float32), samples.astype(np.float32), np.zeros(reach + 1, np.float32)])
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    found: np.ndarray = np.empty(count, np.float32)
    for start in range(0, count, _CHUNK):
        numbers = np.arange(start, min(start + _CHUNK, count))
        found[numbers] = np.einsum("nt,nt->n", around[numbers * old // new], weights[numbers % new])
    return found


def _weights(phases: np.ndarray, reach: int, cut: float) -> np.ndarray:
    """float64 [phases, 2 * reach + 1]: of the old samples around moments that lie `phases` of a step behind one of them."""
    places = np.arange(-reach, reach + 1)
    away = (places[np.newaxis, :] - phases[:, np.newaxis]) * cut
    window = np.i0(_KAISER * np.sqrt(np.clip(1.0 - (away / _CROSSINGS) ** 2, 0.0, None))) / np.i0(_KAISER)
    found: np.ndarray = cut * np.sinc(away) * window * (np.abs(away) <= _CROSSINGS)
    return found
