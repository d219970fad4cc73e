"""Exported graphs as values.

In: nothing. Out: `Graph` and `Exported`. This module must never read a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Graph:
    """An exported graph: `path` and the files with its weights beside it, inputs and outputs as `tasks/generation.py` describes."""

    path: Path
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


@dataclass(frozen=True)
class Exported:
    """What a route made. route: "optimum", "optimum, our configuration" or "dynamo"; why: one line that says why this one.

    graphs: by role: "model" alone, or "encoder", "decoder" and so on.
    """

    route: str
    why: str
    graphs: Mapping[str, Graph]
