"""What several kinds of entry state alike, read from the model and its graph.

In: the PyTorch model, its tokenizer, its graph. Out: parts of an entry's details, or ModelRefused. This module must never write a
value that no backend reads, or one that a caller typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.errors import ModelRefused
from converters.export.graphs import Graph
from converters.tokenizer import Tokenizer

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length")
_LABELS = 10_000


def tokenizer_facts(model: Any, tokenizer: Tokenizer, length_limit: int | None = None) -> dict[str, Any]:
    """The keys about tokens that every entry with a tokenizer has. length_limit: a tighter one that the model states elsewhere."""
    vocabulary = vocabulary_of(model)
    limits = [_context_length(model, tokenizer), *([] if length_limit is None else [length_limit])]
    return {
        "tokenizer": "1/tokenizer.json",
        "add_special_tokens": True,
        "context_length": min(limits),
        "vocabulary": vocabulary,
        "pad_token_id": _pad_token_id(model, tokenizer, vocabulary),
        "padding_side": tokenizer.padding_side,
    }


def vocabulary_of(model: Any) -> int:
    """Rows of the table of words; of a model whose table is no module of its own, what config.json says.

    Raises ModelRefused for a model that says neither, such as CANINE, which reads characters.
    """
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:  # transformers' own word for a model without one
        table = None
    weight = getattr(table, "weight", None)
    counts = (getattr(table, "num_embeddings", None), None if weight is None else weight.shape[0])
    found = next((count for count in counts if isinstance(count, int)), None) or getattr(model.config, "vocab_size", None)
    if not isinstance(found, int):
        raise ModelRefused(f"config.json: expected a table of words or a vocab_size, found neither in {type(model).__name__}")
    return found


def generation_ends(model: Any, vocabulary: int) -> dict[str, Any]:
    """`eos_token_ids`, `bos_token_id`; ids beyond the vocabulary are left over from a larger model: the graph never gives them."""
    stated = model.generation_config or model.config  # the oldest types of transformers have no generation settings
    ends = stated.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    begin = stated.bos_token_id
    return {
        "eos_token_ids": sorted({int(end) for end in ends if 0 <= end < vocabulary}),
        "bos_token_id": begin if isinstance(begin, int) and 0 <= begin < vocabulary else None,
    }


def graph_facts(graph: Graph) -> dict[str, Any]:
    """Where the graph is, what it takes and what it gives."""
    return {"model": f"1/{graph.path.name}", "graph_inputs": graph.inputs, "graph_outputs": graph.outputs}


def _context_length(model: Any, tokenizer: Tokenizer) -> int:
    found = [getattr(model.config, key, None) for key in _CONTEXT_KEYS]
    lengths = [int(length) for length in found if isinstance(length, int) and length > 0][:1]
    if tokenizer.length_limit is not None:
        lengths.append(tokenizer.length_limit)
    for name, module in model.named_modules():
        # RoBERTa and its relatives count positions from padding_idx + 1, so 514 positions hold 512 tokens.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            lengths.append(module.weight.shape[0] - module.padding_idx - 1)
    if not lengths:
        raise ModelRefused(f"config.json: expected the context's length in one of {list(_CONTEXT_KEYS)}, found none")
    return min(lengths)


def _pad_token_id(model: Any, tokenizer: Tokenizer, vocabulary: int) -> int:
    ends = model.config.eos_token_id
    candidates = [model.config.pad_token_id, tokenizer.pad_token_id, *(ends if isinstance(ends, list) else [ends]), 0]
    return next(int(token) for token in candidates if isinstance(token, int) and 0 <= token < vocabulary)


def labels_of(id2label: Mapping[Any, Any]) -> list[str]:
    labels = [str(id2label[key]) for key in sorted(id2label, key=int)]
    if not 0 < len(labels) <= _LABELS or any(len(label) > 256 for label in labels):
        raise ModelRefused(f"config.json: expected 1 to {_LABELS} labels of at most 256 characters, found {len(labels)}")
    for label in labels:
        try:
            label.encode("utf-8")
        except UnicodeEncodeError:
            raise ModelRefused(f"config.json: expected labels of plain characters, found {label!r}") from None
    return labels


def activation_of(problem_type: str | None, labels: int) -> str:
    """The rule of transformers' text-classification pipeline."""
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or labels == 1 else "softmax"


def entailment_of(id2label: Mapping[Any, Any]) -> dict[str, int]:
    """`entailment` and `contradiction`, by the labels' names; raises ModelRefused when no label says entailment.

    Without a label that says contradiction, the rule of transformers' zero-shot pipeline: the first label, or the last where the
    first is entailment.
    """
    labels = [label.lower() for label in labels_of(id2label)]
    entailing = [index for index, label in enumerate(labels) if label.startswith("entail")]
    if not entailing or len(labels) < 2:
        raise ModelRefused(f"config.json: expected labels with one that begins with 'entail', found {labels[:5]}")
    opposed = [index for index, label in enumerate(labels) if label.startswith("contradict")]
    return {
        "entailment": entailing[0],
        "contradiction": opposed[0] if opposed else len(labels) - 1 if entailing[0] == 0 else 0,
    }


def mask_of(loaded: Any, vocabulary: int) -> dict[str, Any]:
    """`mask_token` and `mask_token_id` of a tokenizer as transformers loads it."""
    token, number = loaded.mask_token, loaded.mask_token_id
    if not isinstance(token, str) or not isinstance(number, int) or not 0 <= number < vocabulary:
        raise ModelRefused(f"tokenizer: expected a mask token below {vocabulary}, found {token!r}")
    return {"mask_token": token, "mask_token_id": number}


def refuse_inputs_beyond(graph: Graph, known: set[str]) -> None:
    if unknown := sorted({tensor["name"] for tensor in graph.inputs} - known):
        raise ModelRefused(f"graph: expected inputs among {sorted(known)}, found {unknown}")


def output_of(graph: Graph, name: str, rank: int) -> dict[str, Any]:
    for tensor in graph.outputs:
        if tensor["name"] == name and tensor["dtype"] == "FP32" and len(tensor["axes"]) == rank:
            return tensor
    raise ModelRefused(f"graph: expected an output {name!r}, FP32 of {rank} axes; found {graph.outputs}")


def length_of(tensor: Mapping[str, Any], axis: int, otherwise: int) -> int:
    """An axis' length where the graph fixes it; the exporter leaves some open that the model fixes."""
    length = tensor["axes"][axis]
    return length if isinstance(length, int) and length > 0 else otherwise
