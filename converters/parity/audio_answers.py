"""Probes of models that listen: WAV files, and what PyTorch and transformers answer.

In: a model, its feature extractor, what makes a text of token ids. Out: probes. This module must never use the backend's
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
import torch

from converters.parity.arrays import numbers
from converters.parity.audio import fitting
from converters.parity.compare import scale_of
from converters.parity.sounds import heard, melody, processed, reference, wav
from converters.probes import Probe, ProbeTensor, texts

_CALLS = (((0.47, 1),), ((0.29, 2), (0.61, 1)), ((0.83, 1),))
"""Seconds and channels of the sounds of each call."""
_TRIES = 20
_CLEAR = 4
"""What is said in words must hang on no rounding: the best score leads the next by as many bounds, twice what both may be off."""


def audio_probes(
    model: Any, extractor: Any, decode: Callable[[Sequence[int]], str] | None, details: Mapping[str, Any], bound: float
) -> tuple[Probe, ...]:
    """One probe a call. decode: token ids to text, for speech recognition; None for classification."""
    rate = int(details["sampling_rate"])
    names = [str(tensor["name"]) for tensor in details["graph_inputs"]]
    probes = []
    for number, call in enumerate(_CALLS):
        for seed in range(_TRIES):
            sounds = [
                melody(fitting(int(seconds * rate), details), rate, 1000 * number + 10 * seed + index, channels)
                for index, (seconds, channels) in enumerate(call)
            ]
            logits = [reference(model, processed(extractor, [heard(sound)], names))[0] for sound in sounds]
            if is_clear := all(_lead(each) > _CLEAR * bound * scale_of(each) for each in logits):
                break
        answers = _recognised(logits, decode) if decode is not None else _classified(logits, details["labels"])
        outputs = tuple(answer for answer in answers if is_clear or answer.dtype != "BYTES")
        probes.append(Probe((texts("audio", [wav(sound, rate) for sound in sounds]),), outputs, bound))
    return tuple(probes)


def _lead(logits: Any) -> float:
    """How far the best of each row is from the next, at worst."""
    best = numpy.sort(logits, axis=-1)
    return float((best[..., -1] - best[..., -2]).min()) if logits.shape[-1] > 1 else numpy.inf


def _classified(logits: Sequence[Any], labels: Sequence[str]) -> tuple[ProbeTensor, ...]:
    scores = torch.from_numpy(numpy.stack(logits)).softmax(dim=-1).numpy()
    return numbers("scores", scores), texts("label", [labels[int(row.argmax())] for row in scores])


def _recognised(logits: Sequence[Any], decode: Callable[[Sequence[int]], str]) -> tuple[ProbeTensor, ...]:
    sure = [torch.from_numpy(each).softmax(dim=-1).max(dim=-1).values.numpy() for each in logits]
    scores: Any = numpy.zeros((len(sure), max(map(len, sure))), numpy.float32)
    for row, each in enumerate(sure):
        scores[row, : len(each)] = each
    return texts("text", [decode(each.argmax(axis=-1).tolist()) for each in logits]), numbers("frame_scores", scores)
