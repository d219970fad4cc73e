"""Probes: calls with the answers that PyTorch gave, kept in the entry, so that anyone can ask the served entry the same.

In: `probes.json` of an entry, or tensors. Out: `Probe`, the protocol's request for it, and the worst difference of an answer.
This module must never import anything heavy: the control plane and the coverage table replay probes with it.

A probe of a `predict` entry is asked with `infer`; one of a `generate` entry with `generate`, field by field. Of the expected
outputs, floating-point ones may differ by `bound` of their largest value (at least 0.1), all others must be equal.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import EntryBroken

FORMAT = "posthuman/probes/v1"
FILE = "probes.json"
SMALLEST_SCALE = 0.1
"""Outputs that cancel out to almost nothing keep the rounding of the large numbers they came from."""
_FLOATS = {"FP16": "e", "FP32": "f", "FP64": "d"}


@dataclass(frozen=True)
class ProbeTensor:
    """One tensor as the Open Inference Protocol's binary extension has it: little-endian, BYTES elements after their length."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "raw": base64.b64encode(self.raw).decode("ascii"),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ProbeTensor:
        return cls(str(record["name"]), str(record["dtype"]), tuple(map(int, record["shape"])), base64.b64decode(record["raw"]))


@dataclass(frozen=True)
class Probe:
    """inputs: what is asked. outputs: what PyTorch answers; an output that is not listed is not compared."""

    inputs: tuple[ProbeTensor, ...]
    outputs: tuple[ProbeTensor, ...]
    bound: float

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
            "bound": self.bound,
        }


@dataclass(frozen=True)
class Difference:
    """How far an answer is from a probe, at worst. relative: a part of the expected output's largest value."""

    output: str
    absolute: float
    relative: float
    bound: float

    @property
    def is_within(self) -> bool:
        return self.relative <= self.bound  # False for NaN


def texts(name: str, values: Iterable[str | bytes], shape: tuple[int, ...] | None = None) -> ProbeTensor:
    """A BYTES tensor; one axis unless `shape` says otherwise."""
    items = [value.encode("utf-8") if isinstance(value, str) else value for value in values]
    raw = b"".join(struct.pack("<I", len(item)) + item for item in items)
    return ProbeTensor(name, "BYTES", (len(items),) if shape is None else shape, raw)


def write_probes(folder: Path, probes: tuple[Probe, ...]) -> None:
    """Write `probes.json` into an entry's folder; the same probes give the same bytes. Again: replaces the file."""
    record = {"format": FORMAT, "probes": [probe.to_json() for probe in probes]}
    (folder / FILE).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read_probes(folder: Path) -> tuple[Probe, ...]:
    """Raises EntryBroken for a file that is not one of ours; none at all when the entry has no such file."""
    path = folder / FILE
    if not path.exists():
        return ()
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise EntryBroken(f"{FILE}: format must be {FORMAT!r}, found {record['format']!r}")
        return tuple(
            Probe(
                tuple(ProbeTensor.from_json(tensor) for tensor in probe["inputs"]),
                tuple(ProbeTensor.from_json(tensor) for tensor in probe["outputs"]),
                float(probe["bound"]),
            )
            for probe in record["probes"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EntryBroken(f"{FILE}: expected the probes of an entry, found {type(error).__name__}: {error}") from error


def infer_request(probe: Probe) -> tuple[bytes, int]:
    """The body of `POST /v2/models/<name>/infer` in the binary extension, and the length of its JSON header.

    Only the expected outputs are asked for.
    """
    header = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.dtype,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(tensor.raw)},
            }
            for tensor in probe.inputs
        ],
        "outputs": [{"name": tensor.name, "parameters": {"binary_data": True}} for tensor in probe.outputs],
    }
    text = json.dumps(header).encode("utf-8")
    return text + b"".join(tensor.raw for tensor in probe.inputs), len(text)


def infer_answer(body: bytes, header_length: int | None) -> dict[str, ProbeTensor]:
    """The tensors of an answer to `infer_request`. Raises ValueError for anything else."""
    length = len(body) if header_length is None else header_length
    found: dict[str, ProbeTensor] = {}
    for record in json.loads(body[:length])["outputs"]:
        size = int(record["parameters"]["binary_data_size"])
        found[record["name"]] = ProbeTensor(
            record["name"], record["datatype"], tuple(record["shape"]), body[length : length + size]
        )
        length += size
    return found


def differences(probe: Probe, found: Mapping[str, ProbeTensor]) -> tuple[Difference, ...]:
    """One per expected output; infinite where an output is missing, of another dtype or shape, or must be equal and is not."""
    return tuple(_difference(expected, found.get(expected.name), probe.bound) for expected in probe.outputs)


def _difference(expected: ProbeTensor, found: ProbeTensor | None, bound: float) -> Difference:
    if found is None or (found.dtype, found.shape) != (expected.dtype, expected.shape) or len(found.raw) != len(expected.raw):
        return Difference(expected.name, math.inf, math.inf, bound)
    if expected.dtype not in _FLOATS:
        worst = 0.0 if found.raw == expected.raw else math.inf
        return Difference(expected.name, worst, worst, bound)
    wanted, given = _numbers(expected), _numbers(found)
    if not wanted:
        return Difference(expected.name, 0.0, 0.0, bound)
    # An infinity, which a mask leaves behind, must be the same infinity.
    absolute = max(0.0 if left == right else abs(left - right) for left, right in zip(given, wanted, strict=True))
    if any(map(math.isnan, given)) or any(map(math.isnan, wanted)):
        absolute = math.nan
    scale = max([SMALLEST_SCALE, *(abs(each) for each in wanted if math.isfinite(each))])
    return Difference(expected.name, absolute, absolute / scale, bound)


def _numbers(tensor: ProbeTensor) -> tuple[float, ...]:
    code = _FLOATS[tensor.dtype]
    return struct.unpack(f"<{len(tensor.raw) // struct.calcsize(code)}{code}", tensor.raw)
