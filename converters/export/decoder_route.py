"""The second route for causal language models: optimum's exporter, with a configuration of ours that is measured on the model.

In: a loaded model. Out: one graph with its key-value cache. This module must never load weights or choose a route.

optimum 0.1.0 needs a configuration per type, which says how many layers, heads and values a cache has. A forward pass says the same
of any type, so one configuration serves them all.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx.base import OnnxConfigWithPast
from optimum.exporters.onnx.convert import export_pytorch
from optimum.utils import NormalizedTextConfig

from converters.errors import ConversionFailed
from converters.export.experts import traceable_experts
from converters.export.graphs import Graph
from converters.export.optimum_route import moved
from converters.export.quiet import quiet, said_in
from converters.export.tracing import traceable

_BATCH, _PAST, _NEW = 2, 16, 16
"""Traced sizes: those that optimum traces its own decoders with. A batch or a length of 1 would be fixed in the graph."""


@dataclass(frozen=True)
class Cache:
    """One layer's keys and values are [batch, heads, length, size] each. layers: (heads, size) of the key and of the value."""

    layers: tuple[tuple[tuple[int, int], tuple[int, int]], ...]


def export(model: Any, scratch: Path, into: Path) -> dict[str, Graph]:
    """Write `model.onnx` into `into`; see `optimum_route.export`. Raises ConversionFailed with the cause."""
    config = MeasuredConfig(model.config, measured_cache(model), takes_positions=takes_positions(model))
    scratch.mkdir(parents=True, exist_ok=True)
    with quiet() as noise, traceable_experts(model), traceable():
        try:
            torch.manual_seed(0)
            written = scratch / "model.onnx"
            export_pytorch(model, config, config.DEFAULT_ONNX_OPSET, written)
            config.fix_dynamic_axes(written, dtype="fp32")
            config.post_process_exported_models(scratch, {"model": (model, config)}, ["model.onnx"])
        # Tracing runs arbitrary model code of transformers; any kind of error may come out of it.
        except Exception as error:
            raise ConversionFailed(f"export: {type(error).__name__}: {error}{said_in(noise)}") from error
    return moved(scratch, into)


def takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def measured_cache(model: Any) -> Cache:
    """What the model keeps between two steps, found by reading three tokens and then two more.

    Raises ConversionFailed for a model that keeps anything else than keys and values that grow with the text, such as the state of
    a recurrent layer.
    """
    kept = _cache_after(model, 3)
    shapes = [tuple(tuple(tensor.shape) for tensor in layer[:2]) for layer in kept]
    longer = [tuple(tuple(tensor.shape) for tensor in layer[:2]) for layer in _cache_after(model, 5)]
    for layer, (before, after) in enumerate(zip(shapes, longer, strict=True)):
        for small, large in zip(before, after, strict=True):
            if len(small) != 4 or (small[0], small[2]) != (1, 3) or large != (*small[:2], 5, small[3]):
                raise ConversionFailed(
                    f"cache: expected [batch, heads, length, size] in layer {layer},"
                    f" found {small} after 3 tokens and {large} after 5"
                )
    return Cache(tuple(((key[1], key[3]), (value[1], value[3])) for key, value in shapes))


def _cache_after(model: Any, tokens: int) -> list[Any]:
    try:
        ids = torch.arange(tokens)[None] % model.get_input_embeddings().num_embeddings
        with torch.no_grad(), quiet():
            kept = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, return_dict=True).past_key_values
            layers = list(kept.to_legacy_cache() if hasattr(kept, "to_legacy_cache") else kept)
            if not layers or not all(isinstance(tensor, torch.Tensor) for layer in layers for tensor in layer[:2]):
                raise TypeError(f"the layers hold {[type(layer).__name__ for layer in layers][:3]}")
            return layers
    # A model without a cache has no such output, each keeps its state in a class of its own, and some have a table of their own.
    except Exception as error:
        raise ConversionFailed(f"cache: expected keys and values of each layer, found {type(error).__name__}: {error}") from error


class MeasuredConfig(OnnxConfigWithPast):
    """optimum's view of a decoder, with the cache's shapes as they were measured."""

    NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

    def __init__(self, config: Any, cache: Cache, *, takes_positions: bool) -> None:
        self._cache, self._takes_positions = cache, takes_positions
        super().__init__(config, task="text-generation", use_past=True, use_past_in_inputs=True)

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        listed = {
            "input_ids": {0: "batch_size", 1: "sequence_length"},
            "attention_mask": {0: "batch_size", 1: "past_sequence_length + sequence_length"},
        }
        self.add_past_key_values(listed, direction="inputs")
        if self._takes_positions:
            listed["position_ids"] = {0: "batch_size", 1: "sequence_length"}
        return listed

    def add_past_key_values(self, inputs_or_outputs: dict[str, dict[int, str]], direction: str) -> None:
        is_input = direction == "inputs"
        name, length = (
            ("past_key_values", "past_sequence_length") if is_input else ("present", "past_sequence_length + sequence_length")
        )
        for layer in range(len(self._cache.layers)):
            for kind in ("key", "value"):
                inputs_or_outputs[f"{name}.{layer}.{kind}"] = {0: "batch_size", 2: length}

    def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> Mapping[str, Any]:
        vocabulary = int(self._normalized_config.vocab_size)
        chances = torch.Generator().manual_seed(0)
        given: dict[str, Any] = {
            "input_ids": torch.randint(0, vocabulary, (_BATCH, _NEW), generator=chances),
            "attention_mask": torch.ones((_BATCH, _PAST + _NEW), dtype=torch.int64),
            "past_key_values": [
                tuple(torch.randn((_BATCH, heads, _PAST, size), generator=chances) for heads, size in layer)
                for layer in self._cache.layers
            ],
        }
        if self._takes_positions:
            given["position_ids"] = torch.arange(_PAST, _PAST + _NEW).repeat(_BATCH, 1)
        if framework == "np":
            given["past_key_values"] = [tuple(tensor.numpy() for tensor in layer) for layer in given["past_key_values"]]
            given = {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in given.items()}
        return given
