"""Is there room? What a conversion will take of memory and disk, said before it starts.

In: a staged model and this machine. Out: the way that fits, or ConversionFailed with what is needed and what is free. This module
must never start what does not fit, or read a weight.
"""

from __future__ import annotations

import enum
import math
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from converters.errors import ConversionFailed
from converters.limits import GIB, available_memory
from converters.source import Source
from converters.tasks.task import Task
from converters.weights import check_safetensors

STREAMED_PRECISIONS = ("fp32", "fp16")
"""bf16 has no CPU arithmetic to compare with, and the quantisers read a whole graph."""
_WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 1}

_BASE = int(1.0 * GIB)
"""The libraries and a tiny model: 0.9 GB, measured."""
_ORDINARY = 20
"""Bytes a parameter when the model is loaded whole; 15 were measured with GPT-J of 355 M: PyTorch (4), the exporter, ONNX Runtime
with packed weights (8)."""
_STREAMED = 20
"""Bytes a value of the largest tensor: stored, widened, turned round, narrowed, and the bytes to write."""
_PART = GIB + GIB // 2
"""One part of the graph with widened weights, and ONNX Runtime."""


class Way(enum.Enum):
    ORDINARY = "the model is loaded whole"
    STREAMED = "its weights are read one by one"


@dataclass(frozen=True)
class Size:
    """parameters: values in all weights. largest: values of the largest tensor."""

    parameters: int
    largest: int


@dataclass(frozen=True)
class Room:
    """Bytes of memory and disk: what is needed, or what is free."""

    memory: int
    disk: int


def way_for(
    source: Source,
    task: Task,
    precision: str,
    out: Path,
    free_memory: Callable[[], int] = available_memory,
) -> Way:
    """The way this conversion fits on this machine; whole when it can. Raises ConversionFailed with figures when none does."""
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    memory = free_memory() if limit == resource.RLIM_INFINITY else min(free_memory(), limit)
    return choose(size_of(source), task.kind, precision, Room(memory, shutil.disk_usage(out).free))


def choose(size: Size, kind: str, precision: str, free: Room) -> Way:
    """As `way_for`, from figures alone."""
    ways = [Way.ORDINARY]
    if kind == "causal" and precision in STREAMED_PRECISIONS:
        ways.append(Way.STREAMED)
    for way in ways:
        needed = need(size, precision, way)
        if needed.memory <= free.memory and needed.disk <= free.disk:
            return way
    raise ConversionFailed(
        f"this machine: {size.parameters / 1e9:.2f}e9 parameters to {precision}, when {ways[-1].value}, need"
        f" {needed.memory / GIB:.1f} GiB of memory and {needed.disk / GIB:.1f} GiB of disk;"
        f" found {free.memory / GIB:.1f} GiB and {free.disk / GIB:.1f} GiB free"
    )


def need(size: Size, precision: str, way: Way) -> Room:
    """What a conversion takes beyond the staged copy of the files, which is there already."""
    entry = size.parameters * _WIDTHS[precision]
    if way is Way.STREAMED:
        return Room(_BASE + _PART + _STREAMED * size.largest, entry + GIB // 4)
    # The exporter writes one file a tensor, and then all of them into one; a smaller precision is made beside that.
    graphs = 2 * 4 * size.parameters + (entry if precision != "fp32" else 0)
    return Room(_BASE + _ORDINARY * size.parameters, graphs + GIB // 4)


def size_of(source: Source) -> Size:
    """From the files' headers alone."""
    values = [
        math.prod(weight.shape)
        for name in source.files
        if name.endswith(".safetensors")
        for weight in check_safetensors(source.folder / name, name).values()
    ]
    return Size(sum(values), max(values))


def require_room_to_stage(weights_bytes: int, out: Path) -> None:
    """Before the files are copied: for the copy and an entry of the same size. Raises ConversionFailed."""
    free, needed = shutil.disk_usage(out).free, 2 * weights_bytes + GIB // 4
    if needed > free:
        raise ConversionFailed(
            f"this machine: weights of {weights_bytes / GIB:.1f} GiB need at least {needed / GIB:.1f} GiB of disk at {out.name},"
            f" for a copy that is checked and for the entry; found {free / GIB:.1f} GiB free"
        )
