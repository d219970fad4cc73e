"""The tensor contract of an entry as values.

In: names, dtypes and shapes. Out: frozen `Tensor` records and their JSON. This module must never read a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.errors import EntryBroken

DTYPES = frozenset(
    {"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"}
)
"""The Open Inference Protocol's names (KServe v2, "Tensor Data Types"), as Triton uses them on the wire."""


@dataclass(frozen=True)
class Tensor:
    """One named tensor; `shape` lists axis lengths, -1 where the caller decides."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_optional: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise EntryBroken(f"tensor {self.name!r}: dtype must be one of {sorted(DTYPES)}, found {self.dtype!r}")
        if any(length < -1 or length == 0 for length in self.shape):
            raise EntryBroken(f"tensor {self.name!r}: each axis must be -1 or at least 1, found {list(self.shape)}")

    def to_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        if self.is_optional:
            record["optional"] = True
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Tensor:
        try:
            return cls(
                name=str(record["name"]),
                dtype=str(record["dtype"]),
                shape=tuple(int(length) for length in record["shape"]),
                is_optional=bool(record.get("optional", False)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EntryBroken(f"a tensor needs name, dtype and shape, found {dict(record)!r}") from error
