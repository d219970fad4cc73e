"""From a staged model to what its entry holds: graphs, details, parity, probes.

In: a `Source`, its task and a precision. Out: files in the entry's folder, and `Made`. This module must never write `entry.json`,
or keep a graph that has not been compared with PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import ModelRefused, ParityFailed
from converters.export import load, routes
from converters.kinds import open_kind
from converters.parity.compare import BOUNDS
from converters.probes import write_probes
from converters.served_cache import SHARED, serve_cache
from converters.source import Source
from converters.tasks.task import Task

_HALVES = ("fp16", "bf16")
Stages = Callable[[str], AbstractContextManager[None]]
"""Times a stage: `with stages("export"): ...`."""


@dataclass(frozen=True)
class Made:
    """What `Entry` states of a model; see there."""

    architecture: str
    details: Mapping[str, Any]
    export: Mapping[str, Any]
    parity: tuple[Mapping[str, Any], ...]
    quality: tuple[Mapping[str, Any], ...] = ()


def make(source: Source, task: Task, precision: str, kv_cache: str, folder: Path, scratch: Path, stages: Stages) -> Made:
    """Fill the entry's `folder` with the model loaded whole, in float32 first whatever the precision.

    kv_cache: "shared" where a causal model's graph allows it, or "grown". scratch: a folder on the same file system.

    Raises ModelRefused, ConversionFailed or ParityFailed.
    """
    with stages("load"):
        kind = open_kind(source, task, folder)
        torch_model = load.load_model(source, task)
        kind.adjust(torch_model)
    attempts = routes.Attempts(torch_model, source.model_type, task, scratch / "export", folder / "1")
    lines: tuple[Mapping[str, Any], ...] = ()
    while True:
        with stages("export"):
            exported = attempts.export()
        try:
            details: Mapping[str, Any] = kind.describe(torch_model, exported)
            can_share = kv_cache == SHARED and task.kind == "causal" and bool(details["layers"])
            with stages("parity"):
                served = (
                    serve_cache(kind, torch_model, exported, details, BOUNDS["fp32"]) if can_share and precision == "fp32" else None
                )
                if served is None or served.details is None:
                    lines = kind.check(torch_model, exported, details, BOUNDS["fp32"])
            break
        except (ModelRefused, ParityFailed) as error:
            attempts.refuse(error)
    quality: tuple[Mapping[str, Any], ...] = ()
    probe_bound = BOUNDS[precision]
    export: dict[str, Any] = {"route": exported.route, "why": exported.why}
    if precision != "fp32":
        with stages("precision"):
            from converters.precision.reduce import graph_bytes, reduce

            reduced = reduce(kind, torch_model, task, exported, details, precision, folder, scratch / "fp32")
            details, lines, quality = reduced.details, reduced.parity, reduced.quality
            probe_bound = reduced.probe_bound
            served = serve_cache(kind, torch_model, exported, details, BOUNDS[precision]) if can_share else None
            sizes = graph_bytes({role: graph.path for role, graph in exported.graphs.items()})
            export["precision"] = {**reduced.facts, "bytes": sizes}
    if served is not None:
        export["kv_cache"] = served.why
        if served.details is not None:
            # A half precision is compared on its stand-in, as a GPU rounds.
            details, lines = served.details, lines if precision in _HALVES else served.parity
    with stages("probes"):
        write_probes(folder, kind.probes(torch_model, details, probe_bound))
    return Made(type(torch_model).__name__, details, export, lines, quality)
