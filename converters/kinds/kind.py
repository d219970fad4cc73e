"""What a kind of model does on its way to an entry.

In: nothing. Out: the interface `Kind`. This module must never know one kind from another.

Made from the staged source before the model is loaded: it reads tokenizer and processor and writes what the backend needs of them
into the entry's folder `1/`. Then, in this order: adjust, describe, check, probes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from converters.export.graphs import Exported
from converters.probes import Probe


class Kind(Protocol):
    def adjust(self, model: Any) -> None:
        """Set what the exporter and the reference must agree on, such as `use_cache`. Raises ModelRefused for a wrong model."""

    def describe(self, model: Any, exported: Exported) -> dict[str, Any]:
        """The whole of `Entry.details`; raises ModelRefused for a graph that no backend of ours can run."""

    def check(self, model: Any, exported: Exported, details: Mapping[str, Any], bound: float) -> tuple[Mapping[str, Any], ...]:
        """Compare the graphs with the model at sizes and batches other than the traced ones, in this process.

        Gives one line an output for `entry.json`: `Worst.line()`. Raises ParityFailed past the bound.
        """

    def probes(self, model: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
        """Calls as a buyer would send them, with PyTorch's answers, computed with transformers' own tokenizer or processor."""
