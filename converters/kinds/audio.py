"""Models that listen and answer in one forward pass.

In: a staged source, then its PyTorch model and graph. Out: details, parity lines and probes of the tasks in `tasks/audio.py`.
This module must never write a value that no backend reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.errors import ModelRefused, ParityFailed
from converters.export.graphs import Exported
from converters.kinds.ctc import load_letters, write_letters
from converters.kinds.facts import graph_facts, labels_of, output_of, refuse_inputs_beyond
from converters.kinds.processors import PROCESSOR, load_feature_extractor, write_processor
from converters.parity.audio import check_audio
from converters.parity.audio_answers import audio_probes
from converters.parity.sounds import heard, melody, processed, reference
from converters.probes import Probe
from converters.source import Source
from converters.tasks.task import Task

_FED = {"input_values", "input_features", "attention_mask"}
_EXTRACTORS = ("Wav2Vec2FeatureExtractor", "SeamlessM4TFeatureExtractor", "ASTFeatureExtractor", "WhisperFeatureExtractor")
"""Whose limits are known here; another one could cut a sound and not say so."""
_FRAME, _HOP = 400, 160
"""Samples of one frame of a spectrogram, and from one to the next, at 16 kHz: what `ASTFeatureExtractor` has built in."""


class Audio:
    """See `kinds/kind.py`."""

    def __init__(self, source: Source, task: Task, folder: Path) -> None:
        self._task, self._extractor = task, load_feature_extractor(source)
        name = type(self._extractor).__name__
        if name not in _EXTRACTORS:
            raise ModelRefused(f"preprocessor_config.json: expected one of {', '.join(_EXTRACTORS)}, found {name}")
        write_processor(self._extractor, folder)
        self._letters = None
        if task.name == "automatic-speech-recognition":
            self._letters = load_letters(source)
            write_letters(self._letters, folder / "1" / "tokenizer.json")

    def adjust(self, model: Any) -> None:
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        graph = exported.graphs["model"]
        refuse_inputs_beyond(graph, _FED)
        facts = {
            **graph_facts(graph),
            "processor": PROCESSOR,
            "sampling_rate": int(self._extractor.sampling_rate),
            "shortest": self._shortest(model, [str(tensor["name"]) for tensor in graph.inputs]),
            "longest": longest(self._extractor),
        }
        if self._letters is not None:
            output_of(graph, "logits", 3)
            return {**facts, "output": "logits", "tokenizer": "1/tokenizer.json", **self._letters.facts()}
        output_of(graph, "logits", 2)
        return {**facts, "output": "logits", "labels": labels_of(model.config.id2label), "activation": "softmax"}

    def _shortest(self, model: Any, names: list[str]) -> int:
        """What the model says of itself, or more where it cannot compute that after all."""
        rate = int(self._extractor.sampling_rate)
        samples = shortest(model, self._extractor)
        while samples < rate:
            try:
                reference(model, processed(self._extractor, [heard(melody(samples, rate, 0))], names))
            except ParityFailed:
                samples = min(2 * samples, rate)
            else:
                break
        return samples

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        return check_audio(model, exported.graphs["model"].path, self._extractor, details, bound)

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        decode = None if self._letters is None else self._letters.decode
        return audio_probes(model, self._extractor, decode, details, bound)


def longest(extractor: Any) -> int:
    """Samples that the extractor takes before it cuts; 0 when it never cuts."""
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return _FRAME + _HOP * int(extractor.max_length) - 1
    return int(getattr(extractor, "n_samples", 0))


def shortest(model: Any, extractor: Any) -> int:
    """The fewest samples of which the model makes one frame of its own."""
    if type(extractor).__name__ == "SeamlessM4TFeatureExtractor":
        return _FRAME + _HOP * (int(extractor.stride) - 1)
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return _FRAME
    frames = getattr(model, "_get_feat_extract_output_lengths", None)
    if frames is None:
        return 1
    low, high = 1, int(extractor.sampling_rate)
    if int(frames(high)) < 1:
        raise ModelRefused("config.json: expected a model that hears something in one second, found one that does not")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if int(frames(middle)) >= 1 else (middle + 1, high)
    return low
