"""Models whose task has no wrapper: tensors in, tensors out, as the graph has them.

In: a staged source, then its PyTorch model and graph. Out: details, parity lines and probes of a `tensors` entry.
This module must never write a value that no backend reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.errors import ModelRefused
from converters.export.graphs import Exported
from converters.kinds.facts import graph_facts
from converters.parity.raw import check_raw, raw_probes
from converters.probes import Probe
from converters.source import Source
from converters.tasks.raw import DTYPES
from converters.tasks.task import Task


class Raw:
    """See `kinds/kind.py`."""

    def __init__(self, source: Source, task: Task, folder: Path) -> None:
        """Nothing of a tokenizer or a processor goes into the entry: the caller makes the tensors."""

    def adjust(self, model: Any) -> None:
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        if set(exported.graphs) != {"model"}:
            raise ModelRefused(f"graph: raw tensors are served of one graph, found {sorted(exported.graphs)}: name the task")
        graph = exported.graphs["model"]
        for tensor in (*graph.inputs, *graph.outputs):
            if tensor["dtype"] not in DTYPES:
                raise ModelRefused(f"graph: {tensor['name']!r} must be of {sorted(DTYPES)}, found {tensor['dtype']}")
        return graph_facts(graph)

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        return check_raw(model, exported.graphs["model"].path, details, bound)

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        return raw_probes(model, details, bound)
