"""Sound files that tests send, written by the standard library and not by what reads them."""

from __future__ import annotations

import io
import wave

import numpy as np


def wave_file(samples: np.ndarray, rate: int) -> bytes:
    """samples: int16 of one channel, little-endian."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return written.getvalue()
