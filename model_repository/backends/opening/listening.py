"""What a graph that listens is fed.

In: sound files. Out: the graph's inputs, one sound at a time, as transformers' feature extractor makes them. This module must never
cut a sound, and never know what is heard in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from opening.entry import OpenEntry
from opening.feeds import Feeds, Inputs
from opening.processor import open_feature_extractor
from opening.refusal import Refused
from opening.sound import MAX_SECONDS, MAX_SOUNDS, read_sounds


class Listener:
    """An entry's feature extractor together with its limits."""

    def __init__(self, entry: OpenEntry, inputs: str = "graph_inputs") -> None:
        """inputs: the detail that lists the graph's inputs."""
        self._extract = extractor_of(entry)
        self._rate, self._shortest, self._longest = (int(entry.detail(key)) for key in ("sampling_rate", "shortest", "longest"))
        self._inputs = Inputs(entry.detail(inputs))

    def hear(self, raws: Sequence[bytes], *, most: int = MAX_SOUNDS) -> Iterator[Feeds]:
        """The graph's inputs for each sound of the input `audio`, each with a batch axis of 1.

        Raises Refused, before the first, for none or more than `most`, for one that is no sound, and for one that is shorter or
        longer than the model takes.
        """
        seconds = self._longest / self._rate if self._longest else MAX_SECONDS
        sounds = read_sounds(raws, self._rate, "audio", most=most, seconds=seconds)
        for index, sound in enumerate(sounds):
            if len(sound) < self._shortest:
                expected = f"at least {self._shortest / self._rate:.3f} seconds"
                raise Refused("audio", expected, f"{len(sound) / self._rate:.3f} in item {index}")
        return (self._inputs.of(self._extract(sound)) for sound in sounds)


def extractor_of(entry: OpenEntry) -> Any:
    """A function from one sound to tensors by name; an attention mask is among them, all ones, since nothing is padded."""
    extractor = open_feature_extractor(entry.folder, str(entry.detail("processor")))
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return lambda sound: {"input_values": spectrogram_of(extractor, sound)[np.newaxis]}
    rate = int(entry.detail("sampling_rate"))

    def extract(sound: np.ndarray) -> dict[str, np.ndarray]:
        given = extractor(sound, sampling_rate=rate, return_tensors="np")
        found = {str(name): np.asarray(value) for name, value in given.items()}
        first = next(iter(found.values()))
        # A mask that the extractor leaves out is one that the model was trained without; a graph that has the input gets all ones.
        return {"attention_mask": np.ones(first.shape[:2], np.int64), **found}

    return extract


def spectrogram_of(extractor: Any, sound: np.ndarray) -> np.ndarray:
    """What `ASTFeatureExtractor` of transformers 4.57 makes of one sound; its own code needs PyTorch to fill up with zeros."""
    from transformers.audio_utils import spectrogram

    frames = spectrogram(
        sound,
        extractor.window,
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=extractor.mel_filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    ).T
    filled: np.ndarray = np.zeros((extractor.max_length, frames.shape[1]), frames.dtype)
    filled[: len(frames)] = frames
    found: np.ndarray = (filled - extractor.mean) / (extractor.std * 2) if extractor.do_normalize else filled
    return found.astype(np.float32)
