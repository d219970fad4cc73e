"""Sounds as they arrive in BYTES tensors, decoded safely.

In: bytes from outside, and the rate a model listens at. Out: mono float32 samples in [-1, 1] at that rate. This module must never
decode a sound before its length is known, cut one, write a file, or show what is in a sound. libsndfile is loaded when the first
sound comes: most entries never hear one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from opening.files import read_files
from opening.refusal import Refused
from opening.resample import resample

MAX_SOUNDS = 32
"""Sounds in one call."""
MAX_SECONDS = 60.0
"""Of one sound. Attention over 60 s takes 0.4 GB a layer in a model of wav2vec2's shape, and four times that over 120 s."""
MAX_CHANNELS = 8
RATES = (1_000, 192_000)
"""Lowest and highest of a file, in samples a second."""
FORMATS = ("WAV", "FLAC", "OGG", "MP3")
"""Of what libsndfile reads, the formats that buyers send; each further one is code that strangers can reach."""

_BLOCK = 1 << 16
_HEADS = (b"RIFF", b"fLaC", b"OggS", b"ID3", *(bytes([0xFF, second]) for second in range(0xE0, 0x100)))
"""First bytes of files of these formats, so that no other format's parser ever sees a stranger's file."""


def read_sounds(
    raws: Sequence[bytes], rate: int, field: str = "audio", *, most: int = MAX_SOUNDS, seconds: float = MAX_SECONDS
) -> list[np.ndarray]:
    """Every item: its channels' mean at `rate` samples a second.

    seconds: longest sound, at most MAX_SECONDS. Raises Refused for none or more than `most` items, another format, a broken file,
    more seconds or channels than are taken, or samples that are no numbers.
    """
    files = read_files(raws, field, most=most)
    seconds = min(seconds, MAX_SECONDS)
    return [_decoded(file, rate, field, f" in item {index}", seconds) for index, file in enumerate(files)]


def _decoded(file: bytes, rate: int, field: str, where: str, seconds: float) -> np.ndarray:
    import soundfile

    try:
        if not file.startswith(_HEADS):
            raise ValueError("another format")
        opened = soundfile.SoundFile(io.BytesIO(file))
    # A broken header gives any of the library's errors; none of them is ours to act on.
    except Exception:
        raise Refused(field, f"a sound file: {', '.join(FORMATS)}", f"{len(file)} bytes of something else{where}") from None
    with opened:
        if opened.format not in (*FORMATS, "WAVEX", "MPEG"):
            raise Refused(field, f"a sound file: {', '.join(FORMATS)}", f"{opened.format}{where}")
        if not 1 <= opened.channels <= MAX_CHANNELS:
            raise Refused(field, f"1 to {MAX_CHANNELS} channels", f"{opened.channels}{where}")
        if not RATES[0] <= opened.samplerate <= RATES[1]:
            raise Refused(field, f"{RATES[0]} to {RATES[1]} samples a second", f"{opened.samplerate}{where}")
        mono = _read(opened, int(seconds * opened.samplerate), field, where, seconds)
        found = resample(mono, opened.samplerate, rate)
    if not len(found):
        raise Refused(field, "a sound with samples", f"0 samples{where}")
    return found


def _read(opened: Any, most: int, field: str, where: str, seconds: float) -> np.ndarray:
    """In blocks: what a header says of a file's length need not be so."""
    blocks: list[np.ndarray] = []
    length = 0
    while True:
        try:
            block = opened.read(_BLOCK, dtype="float32", always_2d=True)
        # As above: a damaged body.
        except Exception:
            raise Refused(field, "a whole sound file", f"one that ends early or is damaged{where}") from None
        if not len(block):
            break
        length += len(block)
        if length > most:
            raise Refused(field, f"at most {seconds:g} seconds", f"more{where}")
        if not np.isfinite(block).all():
            raise Refused(field, "samples that are numbers", f"others{where}")
        blocks.append(block.mean(axis=1, dtype=np.float32))
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
