"""How token vectors become one embedding.

In: a sentence-transformers model's own description, or nothing. Out: a `Pooling`, and the same arithmetic in numpy for parity.
This module must never guess what a description means: what it does not know is refused.

Source: sentence-transformers, `modules.json` and `1_Pooling/config.json` (Reimers and Gurevych, 2019, section 3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy

from converters.errors import ModelRefused
from converters.source import Source

_MODES: Mapping[str, str] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
_TINY = 1e-12


@dataclass(frozen=True)
class Pooling:
    """`mode` is "mean", "cls" or "last"; `normalize` divides by the Euclidean length; `length_limit` in tokens, or None."""

    mode: str
    normalize: bool
    length_limit: int | None


def pooling_of(source: Source) -> Pooling:
    """What the model says; mean and normalised when it says nothing, which the entry then states.

    Raises ModelRefused for modules or pooling modes that we would have to approximate.
    """
    modules = source.document("modules.json")
    if not modules:
        return Pooling("mean", normalize=True, length_limit=None)
    kinds = [_module(module) for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ModelRefused(f"modules.json: expected Transformer, Pooling and perhaps Normalize, found {kinds}")
    if modules[0].get("path") != "" or modules[1].get("path") != "1_Pooling":
        raise ModelRefused(
            f"modules.json: paths must be '' and '1_Pooling', found {[module.get('path') for module in modules[:2]]}"
        )
    described = source.document("1_Pooling/config.json")
    chosen = sorted(key for key, value in described.items() if key.startswith("pooling_mode_") and value is True)
    if len(chosen) != 1 or chosen[0] not in _MODES:
        raise ModelRefused(f"1_Pooling/config.json: expected one of {sorted(_MODES)} to be true, found {chosen}")
    limit = source.document("sentence_bert_config.json").get("max_seq_length")
    if limit is not None and not (type(limit) is int and limit > 0):
        raise ModelRefused(f"sentence_bert_config.json: max_seq_length must be a count of tokens, found {limit!r}")
    return Pooling(_MODES[chosen[0]], normalize=kinds[2:] == ["Normalize"], length_limit=limit)


def pool(vectors: Any, mask: Any, pooling: Pooling) -> Any:
    """Embeddings: float32 [batch, dimensions] from vectors float32 [batch, sequence, dimensions] and mask int64 [batch, sequence].

    Rows may be padded on either side; each row has at least one token.
    """
    rows = numpy.arange(len(mask))
    if pooling.mode == "mean":
        weight = mask[:, :, None].astype(vectors.dtype)
        embedding = (vectors * weight).sum(axis=1) / weight.sum(axis=1)
    elif pooling.mode == "cls":
        embedding = vectors[rows, mask.argmax(axis=1)]
    else:
        embedding = vectors[rows, mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)]
    if pooling.normalize:
        embedding = embedding / numpy.maximum(numpy.linalg.norm(embedding, axis=1, keepdims=True), _TINY)
    return embedding


def _module(module: Any) -> str:
    kind = module.get("type") if isinstance(module, dict) else None
    match = re.fullmatch(r"sentence_transformers\.(?:[a-z_]+\.)*(\w+)", kind) if isinstance(kind, str) else None
    if match is None:
        raise ModelRefused(f"modules.json: expected modules of sentence_transformers itself, found {kind!r:.80}: that is code")
    return match[1]
