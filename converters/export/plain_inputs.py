"""What a model without an exporter's configuration is traced with: inputs by name, found by trying what PyTorch takes.

In: a loaded model and its task. Out: `Sample`. This module must never export, or look at a stranger's files.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from converters.errors import ConversionFailed
from converters.parity.tensors import Size, fact_of, feeds_of, sizes_of
from converters.tasks.task import Task

_BATCH, _BATCH_OF_CHOICES = 3, 5
"""Neither 1, which a trace would fix, nor the length of another axis that varies, which it would take for the same one."""
_TEXT = ("batch_size", "sequence_length")
_ANSWER = ("batch_size", "decoder_sequence_length")
_BINS = ("num_mel_bins", "input_feat_per_channel", "feature_size", "input_dim", "feature_projection_input_dim")
_OPTIONAL = (
    "attention_mask",
    "token_type_ids",
    "pixel_mask",
    "decoder_input_ids",
    "encoder_hidden_states",
    "bbox",
    "visual_feats",
    "visual_pos",
    "future_values",
    "future_time_features",
)
"""Added one after the other, where the model names them, until it runs."""


@dataclass(frozen=True)
class Sample:
    """inputs: as `tasks/generation.py` describes a graph's; an axis that PyTorch takes in one length only is that length.

    feeds: a tensor for each, of distinct lengths.
    """

    inputs: tuple[Mapping[str, Any], ...]
    feeds: Mapping[str, torch.Tensor]


def sample_for(model: Any, task: Task) -> Sample:
    """The first tensors that PyTorch takes. Raises ConversionFailed, with the last refusal, when it takes none of ours."""
    refusal: Exception | None = None
    batch = _BATCH_OF_CHOICES if task.name == "multiple-choice" else _BATCH
    for names in _choices(model, task):
        for inputs in _variants(model, task, names):
            for size in _sizes(model, inputs, batch):
                try:
                    feeds = _feeds(model, inputs, size)
                    _call(model, feeds)
                # Whatever a model says to tensors it is not made for; the last one is told.
                except Exception as error:
                    refusal = error
                    continue
                fixed = tuple(_with_fixed_axes(model, inputs, size))
                return Sample(fixed, {name: torch.from_numpy(numpy.ascontiguousarray(value)) for name, value in feeds.items()})
    said = "no input of it is known" if refusal is None else f"{type(refusal).__name__}: {str(refusal)[:300]}"
    raise ConversionFailed(f"inputs: {type(model).__name__} takes none of the tensors we can make; {said}")


def _choices(model: Any, task: Task) -> Iterator[list[str]]:
    """Names of inputs, the likeliest first."""
    known = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    if task.kind in ("text", "causal"):
        tokens = ["input_ids", "attention_mask", *(["token_type_ids"] if _has_kinds(model, task) else [])]
        with_positions = [*tokens, "position_ids"] if task.kind == "causal" else tokens
        yield [name for name in with_positions if name in known]
        yield [name for name in tokens if name in known]
        yield ["input_ids"]
        return
    if task.name == "zero-shot-image-classification":
        yield [name for name in ("input_ids", "pixel_values", "attention_mask") if name in known]
        yield [name for name in ("input_ids", "pixel_values") if name in known]
        return
    if task.kind in ("image", "audio"):
        yield [main]
        yield [name for name in (main, "attention_mask", "pixel_mask") if name in known]
        return
    needed = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty and parameter.kind == parameter.POSITIONAL_OR_KEYWORD
    ]
    both = [name for name in ("input_ids", "pixel_values", "input_features", "input_values") if name in known]
    for first in ([main] if main in known else [], both):
        names = list(dict.fromkeys([*first, *needed]))
        if "input_ids" in names and "attention_mask" in known:
            names.append("attention_mask")
        if names:
            yield names
        for name in _OPTIONAL:
            if name in known and name not in names:
                names = [*names, name]
                yield names


def _has_kinds(model: Any, task: Task) -> bool:
    kinds = getattr(model.config, "type_vocab_size", 0)
    has = "token_type_ids" in inspect.signature(model.forward).parameters
    return task.kind == "text" and has and isinstance(kinds, int) and kinds > 0


def _variants(model: Any, task: Task, names: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
    """Inputs with dtype and axes; some names mean tensors of several ranks."""
    for picture in _pictures(model) if "pixel_values" in names else [()]:
        for sound in _sounds(model) if set(names) & {"input_values", "input_features"} else [()]:
            inputs = []
            for name in names:
                described = _described(model, task, name, picture, sound)
                if described is None:
                    return
                inputs.append({"name": name, "dtype": described[0], "axes": list(described[1])})
            yield inputs


def _pictures(model: Any) -> Iterator[tuple[Any, ...]]:
    channels = fact_of(model.config, "num_channels", "in_channels", "in_chans") or 3
    frames = fact_of(model.config, "num_frames", "frames_per_clip")
    plain = ("batch_size", channels, "height", "width")
    moving = ("batch_size", frames or 2, channels, "height", "width")
    yield from (moving, plain) if frames else (plain, moving)


def _sounds(model: Any) -> Iterator[tuple[Any, ...]]:
    bins = fact_of(model.config, *_BINS)
    frames = fact_of(model.config, "max_length", "max_source_positions", "spec_size")
    yield ("batch_size", "samples")
    for channels in (1, 80, 128):
        yield ("batch_size", channels, "frames")
    if isinstance(bins, int):
        yield ("batch_size", "frames", bins)
        yield ("batch_size", bins, "frames")
        if isinstance(frames, int):
            yield ("batch_size", bins, 2 * frames)
            yield ("batch_size", 1, frames, bins)


def _described(
    model: Any, task: Task, name: str, picture: tuple[Any, ...], sound: tuple[Any, ...]
) -> tuple[str, tuple[Any, ...]] | None:
    if name == "pixel_values":
        return "FP32", picture
    if name == "pixel_values_videos":
        frames = fact_of(model.config, "num_frames", "frames_per_clip") or 2
        return "FP32", ("batch_size", frames, fact_of(model.config, "num_channels", "in_chans") or 3, "height", "width")
    if name == "pixel_mask":
        return "INT64", ("batch_size", "height", "width")
    if name in ("input_values", "input_features"):
        return "FP32", sound
    if name == "attention_mask" and sound:
        lasts = next((axis for axis in sound[1:] if isinstance(axis, str)), sound[-2])
        return "INT64", ("batch_size", lasts)
    if name.startswith("decoder_"):
        return "INT64", _ANSWER
    if name == "bbox":
        return "INT64", (*_TEXT, 4)
    if name == "visual_feats":
        return "FP32", ("batch_size", "boxes", fact_of(model.config, "visual_feat_dim") or 2048)
    if name == "visual_pos":
        return "FP32", ("batch_size", "boxes", fact_of(model.config, "visual_pos_dim") or 4)
    if name == "query_embeds":
        return "FP32", ("batch_size", "queries", fact_of(model.config, "hidden_size"))
    if name == "encoder_hidden_states":
        return "FP32", ("batch_size", "encoder_sequence_length", fact_of(model.config, "encoder_hidden_size", "hidden_size"))
    if name.startswith(("past_", "future_", "static_")):
        return _described_series(model.config, name)
    if name in ("input_ids", "attention_mask", "token_type_ids", "position_ids"):
        return "INT64", ("batch_size", "num_choices", "sequence_length") if task.name == "multiple-choice" else _TEXT
    return None


def _described_series(config: Any, name: str) -> tuple[str, tuple[Any, ...]] | None:
    """What a model of time series takes: its configuration fixes how many points it looks back and ahead."""
    lags = getattr(config, "lags_sequence", None)
    back, ahead = getattr(config, "context_length", None), getattr(config, "prediction_length", None)
    if not isinstance(back, int):
        return None
    back += max(lags) if lags else 0
    length = ahead if name.startswith("future_") else back
    channels = fact_of(config, "num_input_channels", "input_size") or 1
    if name in ("past_values", "past_observed_mask", "future_values"):
        return "FP32", ("batch_size", length, *([channels] if channels > 1 or lags is None else []))
    if name in ("past_time_features", "future_time_features"):
        return "FP32", ("batch_size", length, fact_of(config, "num_time_features") or 0)
    if name == "static_categorical_features":
        return "INT64", ("batch_size", fact_of(config, "num_static_categorical_features") or 0)
    return None


def _sizes(model: Any, inputs: Sequence[Mapping[str, Any]], batch: int) -> Iterator[Size]:
    tried = set()
    for size in sizes_of(model, inputs, batch, 2):
        if size.length not in tried:
            tried.add(size.length)
            yield size


def _feeds(model: Any, inputs: Sequence[Mapping[str, Any]], size: Size) -> dict[str, Any]:
    feeds = feeds_of(model, inputs, size, numpy.random.default_rng(0))
    mask = feeds.get("attention_mask")
    if "input_ids" in feeds and mask is not None and mask.shape[-1] > 4:
        # Some models leave a mask out that masks nothing, and a trace would leave it out for ever.
        mask[-1, ..., : mask.shape[-1] // 4] = 0
    return feeds


def _call(model: Any, feeds: Mapping[str, Any]) -> None:
    with torch.no_grad():
        model(**{name: torch.from_numpy(numpy.ascontiguousarray(value)) for name, value in feeds.items()})


def _with_fixed_axes(model: Any, inputs: Sequence[Mapping[str, Any]], size: Size) -> Iterator[dict[str, Any]]:
    """The same inputs, with the length in place of the name of an axis that PyTorch refuses in every other length."""
    names = {axis for tensor in inputs for axis in tensor["axes"] if isinstance(axis, str)}
    feeds = _feeds(model, inputs, size)
    found = {
        axis: feeds[tensor["name"]].shape[place]
        for tensor in inputs
        for place, axis in enumerate(tensor["axes"])
        if isinstance(axis, str)
    }
    fixed = {axis for axis in names if not any(_runs(model, inputs, found, axis, other) for other in _others(axis, found[axis]))}
    for tensor in inputs:
        yield {**tensor, "axes": [found[axis] if axis in fixed else axis for axis in tensor["axes"]]}


def _others(axis: str, length: int) -> Sequence[int]:
    if axis == "batch_size":
        return (length + 1,)
    return (length + 32,) if axis in ("height", "width") else (length - 1, length // 2, 2 * length)


def _runs(model: Any, inputs: Sequence[Mapping[str, Any]], found: Mapping[str, int], axis: str, length: int) -> bool:
    if length < 1:
        return False
    exact = [
        {
            **tensor,
            "axes": [(length if name == axis else found[name]) if isinstance(name, str) else name for name in tensor["axes"]],
        }
        for tensor in inputs
    ]
    try:
        _call(model, _feeds(model, exact, Size(1, 1, (1, 1))))
    # As above: a refusal is an answer.
    except Exception:
        return False
    return True
