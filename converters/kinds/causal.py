"""Causal language models: one graph, with a key-value cache where the model has one, served token by token.

In: a staged source, then its PyTorch model and graph. Out: details, parity lines and probes of a `text-generation` entry.
This module must never write a value that no backend reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.chat_template import ChatTemplate, chat_template_of
from converters.errors import ModelRefused
from converters.export.graphs import Exported, Graph
from converters.export.shared_cache import is_shared
from converters.kinds.facts import generation_ends, graph_facts, length_of, output_of, refuse_inputs_beyond, tokenizer_facts
from converters.parity.causal import check_causal
from converters.parity.causal_probes import causal_probes
from converters.parity.shared import check_shared
from converters.probes import Probe
from converters.source import Source
from converters.tasks.generation import GENERATION_DEFAULTS, KEPT, LENGTHS, TOTAL
from converters.tasks.task import Task
from converters.tokenizer import load_tokenizer, write_tokenizer

_TEMPLATE = "1/chat_template.jinja"
_FED = {"input_ids", "attention_mask", "position_ids", LENGTHS, TOTAL, KEPT}


class Causal:
    """See `kinds/kind.py`."""

    def __init__(self, source: Source, task: Task, folder: Path) -> None:
        self._task = task
        self._loaded = load_tokenizer(source.folder)
        self._tokenizer = write_tokenizer(self._loaded, folder / "1" / "tokenizer.json")
        self._template = chat_template_of(self._loaded)
        if self._template.text is not None:
            (folder / _TEMPLATE).write_text(self._template.text, encoding="utf-8", newline="")

    def adjust(self, model: Any) -> None:
        if model.config.is_encoder_decoder:
            raise ModelRefused(f"config.json: expected a decoder for {self._task.name}, found an encoder with a decoder")
        model.config.use_cache = True
        for module in model.modules():
            if repair := _REPAIRS.get(type(module).__name__):
                module.register_forward_pre_hook(repair, with_kwargs=True)

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        graph = exported.graphs["model"]
        facts = {**tokenizer_facts(model, self._tokenizer), "padding_side": "left"}
        generation = _generation(model, graph, facts["vocabulary"])
        return {**facts, **graph_facts(graph), "precision": "FP32", **generation, "chat_template": _stated(self._template)}

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        graph = exported.graphs["model"]
        check = check_shared if is_shared(graph) else check_causal
        return check(model, graph.path, details, bound)

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        return causal_probes(model, self._loaded, details, bound, self._template)


def _stated(template: ChatTemplate) -> dict[str, Any]:
    file = None if template.text is None else _TEMPLATE
    return {"file": file, "why": template.why, "special_tokens": dict(template.special_tokens)}


def _forget(module: Any, _args: Any, _given: Any) -> None:
    """Without a cache transformers 4.57's RecurrentGemma begins each text with the state that the one before has left."""
    module.recurrent_states = None


def _in_one_chunk(module: Any, args: Any, given: Any) -> None:
    """transformers 4.57's Zamba2 adds up the wrong axis where a text takes more than one chunk."""
    module.chunk_size = (args[0] if args else given["hidden_states"]).shape[1]


_REPAIRS = {"RecurrentGemmaRglru": _forget, "Zamba2MambaMixer": _in_one_chunk}
"""What PyTorch's answers need to be those of the model's definition, by the class of a layer; called before each forward pass."""


def _generation(model: Any, graph: Graph, vocabulary: int) -> dict[str, Any]:
    logits = output_of(graph, "logits", 3)
    # Moshi reads one token more, its padding, than it gives.
    if length_of(logits, 2, vocabulary) > vocabulary:
        raise ModelRefused(f"graph: logits must have at most {vocabulary} values a token, found {logits['axes']}")
    inputs = {tensor["name"]: tensor for tensor in graph.inputs}
    outputs = {tensor["name"] for tensor in graph.outputs}
    layers: list[dict[str, str]] = []
    while f"past_key_values.{len(layers)}.key" in inputs:
        number = len(layers)
        layers.append(
            {
                "past_key": f"past_key_values.{number}.key",
                "past_value": f"past_key_values.{number}.value",
                "present_key": f"present.{number}.key",
                "present_value": f"present.{number}.value",
            }
        )
    cached = {name for layer in layers for name in layer.values()}
    refuse_inputs_beyond(graph, _FED | cached)
    if not cached <= set(inputs) | outputs or outputs != {"logits"} | (cached & outputs):
        raise ModelRefused(
            f"graph: expected logits, and a key and a value of each layer, past and present; found {sorted(set(inputs) | outputs)}"
        )
    shapes = [inputs[layer[kind]]["axes"] for layer in layers for kind in ("past_key", "past_value")]
    if not all(len(axes) == 4 and type(axes[1]) is type(axes[3]) is int for axes in shapes):
        raise ModelRefused(f"graph: expected caches of [batch, heads, length, head size], found {sorted(set(map(str, shapes)))}")
    heads, size = (shapes[0][1], shapes[0][3]) if shapes else (0, 0)
    return {
        **generation_ends(model, vocabulary),
        "layers": layers,
        "kv_heads": heads,
        "head_size": size,
        "defaults": dict(GENERATION_DEFAULTS),
    }
