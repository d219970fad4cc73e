"""Sounds to compare a model with that listens, of lengths it was not traced with, and what PyTorch makes of them.

In: seeds, an extractor and a model. Out: samples, WAV files, feeds and PyTorch's outputs. This module must never look at what ONNX
gives.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch

from converters.errors import ParityFailed


def melody(samples: int, rate: int, seed: int, channels: int = 1) -> Any:
    """int16 [samples, channels]: gliding tones under noise, so that neither a frame nor its spectrum is empty."""
    chances = numpy.random.default_rng(seed)
    moments = numpy.arange(samples)[:, None] / rate
    found = numpy.zeros((samples, channels))
    for _ in range(4):
        tone, glide = chances.uniform(80, rate / 5), chances.uniform(-200, 200)
        found += numpy.sin(2 * numpy.pi * (tone + glide * moments) * moments + chances.uniform(0, 6, channels)) / 5
    found += chances.normal(0, 0.03, size=found.shape)
    return numpy.clip(found * 20_000, -32_768, 32_767).astype(numpy.int16)


def heard(sound: Any) -> Any:
    """What a decoder makes of the sound: float32 [samples], the mean of its channels."""
    return (sound.astype(numpy.float32) / 32_768).mean(axis=1, dtype=numpy.float32)


def wav(sound: Any, rate: int) -> bytes:
    """The sound as a WAV file of 16 bits."""
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.astype("<i2").tobytes())
    return written.getvalue()


def processed(extractor: Any, sounds: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """The graph's inputs for sounds of one length: nothing is padded, so a mask that the extractor leaves out is all ones."""
    given = extractor(list(sounds), sampling_rate=extractor.sampling_rate, return_tensors="np")
    found = {name: numpy.asarray(value) for name, value in given.items()}
    first = next(iter(found.values()))
    found = {"attention_mask": numpy.ones(first.shape[:2], numpy.int64), **found}
    kinds = {"attention_mask": numpy.int64}
    return {name: numpy.ascontiguousarray(found[name], kinds.get(name, numpy.float32)) for name in names}


def reference(model: Any, feeds: Mapping[str, Any]) -> Any:
    """PyTorch's logits, given just what the graph is given."""
    try:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(value) for name, value in feeds.items()}, return_dict=True)["logits"].numpy()
    # A length that the model cannot hear shows here.
    except RuntimeError as error:
        sizes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
        raise ParityFailed(f"PyTorch cannot run the model with {sizes}: {error}") from error
