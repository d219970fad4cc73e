"""An entry's `details`: what its backend must know, read from the model and its graph.

In: the staged source, the PyTorch model, tokenizer, pooling and graph. Out: the keys that `tasks.py` lists, all of them.
This module must never write a value that no backend reads, or one that a caller typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.errors import ModelRefused
from converters.onnx_export import Graph
from converters.pooling import Pooling
from converters.tasks import GENERATION_DEFAULTS, MAX_ANSWER_TOKENS, Task
from converters.tokenizer import Tokenizer

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
_LABELS = 10_000
_FED = {"input_ids", "attention_mask", "position_ids", "token_type_ids"}


def details_of(task: Task, model: Any, tokenizer: Tokenizer, pooling: Pooling | None, graph: Graph) -> dict[str, Any]:
    """The whole of `Entry.details`; raises ModelRefused for a graph or a configuration that no backend of ours can run."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    limits = [_context_length(model, tokenizer)]
    if pooling is not None and pooling.length_limit is not None:
        limits.append(pooling.length_limit)
    shared = {
        "model": "1/model.onnx",
        "tokenizer": "1/tokenizer.json",
        "add_special_tokens": True,
        "context_length": min(limits),
        "vocabulary": vocabulary,
        "pad_token_id": _pad_token_id(model, tokenizer, vocabulary),
        "padding_side": "left" if task.name == "text-generation" else tokenizer.padding_side,
        "graph_inputs": graph.inputs,
        "graph_outputs": graph.outputs,
    }
    if task.name == "text-generation":
        return {**shared, **_generation(model, graph, vocabulary)}
    _only(graph, _FED)
    if task.name == "feature-extraction":
        assert pooling is not None  # noqa: S101 -- the pipeline gives one for just this task
        output = _output(graph, "last_hidden_state", 3)
        return {
            **shared,
            "output": "last_hidden_state",
            "pooling": pooling.mode,
            "normalize": pooling.normalize,
            "dimensions": _length(output, 2, int(model.config.hidden_size)),
        }
    if task.name == "text-classification":
        _output(graph, "logits", 2)
        labels = _labels(model.config.id2label)
        return {**shared, "output": "logits", "labels": labels, "activation": _activation(model.config.problem_type, len(labels))}
    _output(graph, "start_logits", 2)
    _output(graph, "end_logits", 2)
    return {
        **shared,
        "start_output": "start_logits",
        "end_output": "end_logits",
        "max_answer_tokens": MAX_ANSWER_TOKENS,
    }


def _generation(model: Any, graph: Graph, vocabulary: int) -> dict[str, Any]:
    logits = _output(graph, "logits", 3)
    if _length(logits, 2, vocabulary) != vocabulary:
        raise ModelRefused(f"graph: logits must have {vocabulary} values a token, found {logits['axes']}")
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
    _only(graph, _FED | cached)
    if not layers or not cached <= set(inputs) | outputs or outputs != {"logits"} | (cached & outputs):
        raise ModelRefused(
            f"graph: expected a key and a value of each layer, past and present; found {sorted(set(inputs) | outputs)}"
        )
    shapes = {tuple(inputs[layer[kind]]["axes"][1:]) for layer in layers for kind in ("past_key", "past_value")}
    heads, _, size = next(iter(shapes)) if len(next(iter(shapes))) == 3 else (None, None, None)
    if len(shapes) != 1 or type(heads) is not int or type(size) is not int:
        raise ModelRefused(
            f"graph: expected one cache of [batch, heads, length, head size] for all layers, found {sorted(map(str, shapes))}"
        )
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    begin = model.generation_config.bos_token_id
    return {
        # Ids beyond the vocabulary are left over from a larger model; the graph can never give them.
        "eos_token_ids": sorted({int(end) for end in ends if 0 <= end < vocabulary}),
        "bos_token_id": begin if isinstance(begin, int) and 0 <= begin < vocabulary else None,
        "layers": layers,
        "kv_heads": heads,
        "head_size": size,
        "defaults": dict(GENERATION_DEFAULTS),
    }


def _context_length(model: Any, tokenizer: Tokenizer) -> int:
    found = [getattr(model.config, key, None) for key in _CONTEXT_KEYS]
    lengths = [int(length) for length in found if isinstance(length, int) and length > 0][:1]
    if tokenizer.length_limit is not None:
        lengths.append(tokenizer.length_limit)
    for name, module in model.named_modules():
        # RoBERTa and its relatives count positions from padding_idx + 1, so 514 positions hold 512 tokens.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            lengths.append(module.num_embeddings - module.padding_idx - 1)
    if not lengths:
        raise ModelRefused(f"config.json: expected the context's length in one of {list(_CONTEXT_KEYS)}, found none")
    return min(lengths)


def _pad_token_id(model: Any, tokenizer: Tokenizer, vocabulary: int) -> int:
    ends = model.config.eos_token_id
    candidates = [model.config.pad_token_id, tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends]), 0]
    return next(int(token) for token in candidates if isinstance(token, int) and 0 <= token < vocabulary)


def _labels(id2label: Mapping[Any, Any]) -> list[str]:
    labels = [str(id2label[key]) for key in sorted(id2label, key=int)]
    if not 0 < len(labels) <= _LABELS or any(len(label) > 256 for label in labels):
        raise ModelRefused(f"config.json: expected 1 to {_LABELS} labels of at most 256 characters, found {len(labels)}")
    return labels


def _activation(problem_type: str | None, labels: int) -> str:
    """The rule of transformers' text-classification pipeline."""
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or labels == 1 else "softmax"


def _only(graph: Graph, known: set[str]) -> None:
    if unknown := sorted({tensor["name"] for tensor in graph.inputs} - known):
        raise ModelRefused(f"graph: expected inputs among {sorted(_FED)}, found {unknown}")


def _output(graph: Graph, name: str, rank: int) -> dict[str, Any]:
    for tensor in graph.outputs:
        if tensor["name"] == name and tensor["dtype"] == "FP32" and len(tensor["axes"]) == rank:
            return tensor
    raise ModelRefused(f"graph: expected an output {name!r}, FP32 of {rank} axes; found {graph.outputs}")


def _length(tensor: Mapping[str, Any], axis: int, otherwise: int) -> int:
    """An axis' length where the graph fixes it; the exporter leaves some open that the model fixes."""
    length = tensor["axes"][axis]
    return length if isinstance(length, int) and length > 0 else otherwise
