"""Probes of an entry, put to a task of `predict` in this process."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from converters.parity.arrays import numbers
from converters.probes import Difference, Probe, ProbeTensor, differences, read_probes, texts
from opening.entry import open_entry
from predict.tasks import task_of

_DTYPES = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def array_of(tensor: ProbeTensor) -> np.ndarray:
    """What Triton hands to the backend for it."""
    if tensor.dtype != "BYTES":
        return np.frombuffer(tensor.raw, _DTYPES[tensor.dtype]).reshape(tensor.shape)
    items, place = [], 0
    while place < len(tensor.raw):
        (length,) = struct.unpack_from("<I", tensor.raw, place)
        items.append(tensor.raw[place + 4 : place + 4 + length])
        place += 4 + length
    return np.array(items, object).reshape(tensor.shape)


def replayed(folder: Path) -> list[tuple[Probe, tuple[Difference, ...]]]:
    """Each probe of the entry, and how far the backend's answer is from it."""
    task = task_of(open_entry(folder))
    told = []
    for probe in read_probes(folder):
        wanted = {tensor.name for tensor in probe.outputs}
        given = task.answer({tensor.name: array_of(tensor) for tensor in probe.inputs}, wanted)
        found = {name: _tensor(name, array) for name, array in given.items() if name in wanted}
        told.append((probe, differences(probe, found)))
    return told


def _tensor(name: str, array: np.ndarray) -> ProbeTensor:
    return texts(name, [bytes(item) for item in array.reshape(-1)], array.shape) if array.dtype == object else numbers(name, array)
