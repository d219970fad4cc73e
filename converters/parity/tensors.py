"""Tensors to feed a graph with, made of what it says of its inputs, and what PyTorch makes of the same tensors.

In: a model and its graph's inputs. Out: feeds of several sizes, PyTorch's outputs by the graph's names. This module must never look
at what ONNX gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from converters.errors import ParityFailed

_FLOATS = {"FP16": numpy.float16, "FP32": numpy.float32, "FP64": numpy.float64}
_INTEGERS = {"INT8": numpy.int8, "UINT8": numpy.uint8, "INT32": numpy.int32, "INT64": numpy.int64}
_VOCABULARIES: Mapping[str, tuple[str, ...]] = {
    "token_type_ids": ("type_vocab_size",),
    "visual_token_type_ids": ("type_vocab_size",),
    "xpath_tags_seq": ("max_xpath_tag_unit_embeddings",),
    "xpath_subs_seq": ("max_xpath_subs_unit_embeddings",),
    "timesteps": ("max_ep_len",),
    "input_labels": (),
}
"""Inputs of whole numbers that are no words, and the configuration's name for how many there are; one when it does not say."""
_PARTS = ("text_config", "vision_config", "audio_config", "encoder", "decoder", "backbone_config")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_source_positions", "max_length", "seq_length")
_IMAGE = 48
"""Side of an image in pixels where the configuration names none."""
_SOUND = frozenset({"input_values", "waveform"})


@dataclass(frozen=True)
class Size:
    """batch: rows. length: of the axes that are neither a batch nor an image's. image: height and width in pixels."""

    batch: int
    length: int
    image: tuple[int, int]


def fact_of(config: Any, *names: str) -> Any:
    """The first of these names that a configuration or one of its parts has a value for."""
    for part in (config, *(getattr(config, name, None) for name in _PARTS)):
        for name in names:
            if part is not None and getattr(part, name, None) is not None:
                return getattr(part, name)
    return None


def sizes_of(model: Any, inputs: Sequence[Mapping[str, Any]], batch: int, turn: int) -> Iterator[Size]:
    """Sizes to try for a batch, other ones first in each turn; the last are those that a model with fixed sizes is made for."""
    context = fact_of(model.config, *_CONTEXT)
    is_sound = any(tensor["name"] in _SOUND for tensor in inputs)
    lengths = [4800, 9600, 6400, 16000] if is_sound else [7, 33, 19, 12]
    lengths = lengths[turn % 4 :] + lengths[: turn % 4]
    if isinstance(context, int) and context > 0:
        lengths = [*([length for length in lengths if length <= context] if not is_sound else lengths), context]
    height, width = _image_of(model)
    images = [(height, width)] if turn % 2 == 0 else [(height + 16, width + 16), (height, width)]
    for image in images:
        for length in (*lengths, 64, 128, 256):
            yield Size(batch, length, image)


def feeds_of(model: Any, inputs: Sequence[Mapping[str, Any]], size: Size, chances: numpy.random.Generator) -> dict[str, Any]:
    """One array for each of the graph's inputs. Raises ParityFailed for a dtype that cannot be fed."""
    return {
        str(tensor["name"]): _values(
            model, tensor, tuple(_length(model, tensor, place, size) for place in range(len(tensor["axes"]))), chances
        )
        for tensor in inputs
    }


def outputs_of(model: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """PyTorch's outputs by the graph's names; None when the model refuses tensors of this size.

    Raises ParityFailed when it gives no output of such a name, or something else when asked the same again.
    """
    first, again = _called(model, feeds), _called(model, feeds)
    if first is None or again is None:
        return None
    found, repeated = _by_name(first, names), _by_name(again, names)
    for name, value in found.items():
        if not numpy.array_equal(value, repeated[name], equal_nan=value.dtype.kind == "f"):
            raise ParityFailed(f"PyTorch gives another {name!r} for the same tensors each time: the model is random at inference")
    return found


def _called(model: Any, feeds: Mapping[str, Any]) -> Any:
    known = inspect.signature(model.forward).parameters
    settings = {name: value for name, value in (("return_dict", True), ("use_cache", False)) if name in known}
    try:
        return model(**{name: torch.from_numpy(numpy.ascontiguousarray(value)) for name, value in feeds.items()}, **settings)
    # What a model says to an image or a text of a size that it is not made for.
    except (AssertionError, IndexError, RuntimeError, ValueError):
        return None


def _by_name(given: Any, names: Sequence[str]) -> dict[str, Any]:
    flat = dict(_flattened("", given))
    if set(names) <= set(flat):
        return {name: flat[name] for name in names}
    last = {key.rsplit(".", 1)[-1]: value for key, value in flat.items()}
    if set(names) <= set(last) and len(last) == len(flat):
        return {name: last[name] for name in names}
    if len(names) == len(flat):
        return dict(zip(names, flat.values(), strict=True))  # an exporter's own names, in the model's order
    raise ParityFailed(f"PyTorch gives {sorted(flat)[:12]} where the graph gives {sorted(names)[:12]}")


def _flattened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor of nested outputs; a place in a list is a part of the name: `hidden_states.0`."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach().numpy()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flattened(f"{name}.{key}" if name else str(key), part)
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _flattened(f"{name}.{place}" if name else str(place), part)


def _image_of(model: Any) -> tuple[int, int]:
    side = fact_of(model.config, "image_size", "input_size")
    if isinstance(side, int) and side > 0:
        return side, side
    if isinstance(side, list | tuple) and len(side) == 2:
        return int(side[0]), int(side[1])
    return _IMAGE, _IMAGE


def _length(model: Any, tensor: Mapping[str, Any], place: int, size: Size) -> int:
    axis = tensor["axes"][place]
    if isinstance(axis, int) and axis > 0:
        return axis
    name = str(axis).lower()
    if place == 0 or "batch" in name:
        return size.batch
    stated = fact_of(model.config, str(axis)) if name.isidentifier() else None
    if isinstance(stated, int) and stated > 0:
        return stated
    if "channel" in name:
        return 3
    if "height" in name or "width" in name:
        return size.image["width" in name]
    return 3 if "choice" in name else size.length


def _values(model: Any, tensor: Mapping[str, Any], shape: tuple[int, ...], chances: numpy.random.Generator) -> Any:
    name, dtype = str(tensor["name"]), str(tensor["dtype"])
    if dtype in _FLOATS:
        return (numpy.ones(shape) if name.endswith("mask") else chances.normal(size=shape)).astype(_FLOATS[dtype])
    if dtype == "BOOL":
        return numpy.ones(shape, numpy.bool_) if name.endswith("mask") else chances.integers(0, 2, size=shape).astype(numpy.bool_)
    if dtype not in _INTEGERS:
        raise ParityFailed(f"graph: input {name!r} must be of {sorted((*_FLOATS, *_INTEGERS, 'BOOL'))}, found {dtype}")
    return _whole_numbers(model, name, shape, chances).astype(_INTEGERS[dtype])


def _whole_numbers(model: Any, name: str, shape: tuple[int, ...], chances: numpy.random.Generator) -> Any:
    if name == "global_attention_mask":  # the first token sees all; with every token it would be another model
        marked: Any = numpy.zeros(shape, numpy.int64)
        marked[..., 0] = 1
        return marked
    if name.endswith("mask"):
        return numpy.ones(shape, numpy.int64)
    if name.endswith("position_ids"):
        return numpy.broadcast_to(numpy.arange(shape[-1]), shape)
    if name == "bbox":  # left, top, right, bottom
        most = min(1000, int(fact_of(model.config, "max_2d_position_embeddings") or 1000) - 1)
        corners = chances.integers(0, most, size=(*shape[:-1], 2, 2))
        return numpy.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)
    if name in _VOCABULARIES:
        return chances.integers(0, max(1, int(fact_of(model.config, *_VOCABULARIES[name]) or 1)), size=shape)
    words = int(fact_of(model.config, "vocab_size", "num_embeddings") or 2)
    ids = chances.integers(0, words, size=shape)
    padding = fact_of(model.config, "pad_token_id")
    # Some models take padding's id for the end of a text, mask or no mask.
    return numpy.where(ids == padding, (ids + 1) % words, ids) if isinstance(padding, int) else ids
