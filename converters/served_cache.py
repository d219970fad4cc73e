"""The last step of a causal conversion: a cache that every step writes in place, where the graph allows it.

In: a compared graph. Out: the graph that is served, compared again as it is served. This module must never serve a rewritten graph
that was not compared, or hide why one is served as it was.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.entry import KV_CACHES
from converters.errors import ConversionFailed, ModelRefused, ParityFailed
from converters.export.attention import CannotShare
from converters.export.graphs import Exported, Graph
from converters.export.shared_cache import share_cache
from converters.graph import graph_tensors
from converters.kinds.kind import Kind

SHARED, GROWN = KV_CACHES


@dataclass(frozen=True)
class ServedCache:
    """details, parity: of the shared graph; None where the graph stays as it was. why: one line; the entry states it."""

    details: Mapping[str, Any] | None
    parity: tuple[Mapping[str, Any], ...]
    why: str


def serve_cache(kind: Kind, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> ServedCache:
    """Replace the graph of `exported`, in its place, by one whose cache is shared; or say on stderr why it stays as it was.

    details: of the graph as it is. bound: of its precision.
    """
    path = exported.graphs["model"].path
    aside = path.rename(path.with_name(f"{path.stem}.{GROWN}.onnx"))
    try:
        share_cache(aside, path, details["layers"], int(details["context_length"]), int(details["vocabulary"]))
        rewritten = dataclasses.replace(exported, graphs={"model": Graph(path, *graph_tensors(path))})
        stated = {**kind.describe(model, rewritten), "precision": details["precision"]}
        lines = kind.check(model, rewritten, stated, bound)
    except (CannotShare, ConversionFailed, ModelRefused, ParityFailed) as error:
        aside.replace(path)
        why = f"{GROWN}, copied at each step: {' '.join(str(error).split())[:300]}"
        print(f"kv cache: {why}", file=sys.stderr)
        return ServedCache(None, (), why)
    aside.unlink()
    return ServedCache(stated, lines, f"{SHARED}: one buffer, written in place by calls of any length together")
