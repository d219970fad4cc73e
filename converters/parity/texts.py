"""Token ids to compare a text model with, at sizes it was not traced with, and what PyTorch makes of them.

In: an entry's details and a model. Out: feeds and PyTorch's outputs. This module must never look at what ONNX gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch

from converters.errors import ParityFailed

_SIZES = ((1, 1), (1, 7), (2, 33), (3, 19))
"""Batch and sequence; the exporter traces with batch 2, sequence 16 and past 16."""
_LONGEST_WORK = 2e11
"""Parameters times tokens: about four seconds of one forward pass on two cores. A longer context is tried up to this work."""
_LONGEST_LOGITS = 1 << 27


class PyTorchRefuses(ParityFailed):
    """PyTorch itself cannot run the model at this size."""


PER_TOKEN = frozenset({"feature-extraction", "token-classification", "fill-mask", "question-answering"})
"""Tasks whose outputs say something of each token: [batch, sequence, ...]. A model may give more positions than it was given tokens
(Perceiver); those beyond are nobody's answer."""


def outputs_of(details: Mapping[str, Any]) -> list[str]:
    """The graph's outputs that an entry uses."""
    return [str(details[key]) for key in ("output", "start_output", "end_output") if key in details]


def sizes_for(model: Any, details: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Batch and sequence of each comparison, the longest sequence that is affordable among them."""
    context = int(details["context_length"])
    parameters = max(1, sum(weight.numel() for weight in model.parameters()))
    longest = min(context, max(64, int(_LONGEST_WORK / parameters)), max(64, _LONGEST_LOGITS // int(details["vocabulary"])))
    sizes = [(batch, min(length, context)) for batch, length in _SIZES]
    return [*sizes, (1, longest)]


def batch_of(details: Mapping[str, Any], size: tuple[int, int], chances: numpy.random.Generator) -> dict[str, Any]:
    """Random tokens; of three rows the second is two thirds full and the third holds one token, padded on the model's side."""
    batch, length = size
    pad, vocabulary = int(details["pad_token_id"]), int(details["vocabulary"])
    ids = chances.integers(0, vocabulary, size=size, dtype=numpy.int64)
    # Some models find a row's last token by looking for padding, so padding's id may not stand inside the text.
    ids[ids == pad] = (pad + 1) % vocabulary
    mask: Any = numpy.zeros(size, dtype=numpy.int64)
    for row in range(batch):
        kept = (length, max(1, length * 2 // 3), 1)[row % 3]
        mask[row, slice(length - kept, None) if details["padding_side"] == "left" else slice(0, kept)] = 1
    ids[mask == 0] = pad
    kinds: Any = numpy.zeros(size, dtype=numpy.int64)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions_of(mask),
        "token_type_ids": kinds,
    }


def positions_of(mask: Any) -> Any:
    positions = mask.cumsum(axis=1) - 1
    positions[mask == 0] = 1
    return positions


def reference(model: Any, feeds: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """PyTorch's outputs by name, given just what the graph is given."""
    names: Sequence[str] = [tensor["name"] for tensor in details["graph_inputs"]]
    # A copy: XGLM adds an offset to the positions it is given, in place. With a cache where the entry has one: Gemma 3n's layers
    # share keys and values only then.
    given = {name: torch.from_numpy(numpy.array(feeds[name])) for name in feeds if name in names}
    try:
        outputs = model(**given, return_dict=True, **({"use_cache": bool(details["layers"])} if "layers" in details else {}))
    # A context that is longer than the model's tables shows here, as an index out of range.
    except (IndexError, RuntimeError) as error:
        raise PyTorchRefuses(f"PyTorch cannot run the model at size {feeds['input_ids'].shape}: {error}") from error
    return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}
