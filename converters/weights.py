"""Safetensors headers, checked byte by byte before a library maps the file.

In: a `.safetensors` file, or an index of several. Out: name -> dtype and shape of each tensor. This module must never
read tensor data.

Format: https://github.com/huggingface/safetensors, section "Format": 8 bytes little-endian length N, N bytes of JSON, the data.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import ModelRefused
from converters.scan import parse_json

HEADER_BYTES = 100_000_000
"""The reference implementation's own limit (`MAX_HEADER_SIZE`)."""
DTYPE_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
"""Without the 8-bit floats: such weights are quantised and need scales we would not apply."""
_RANK = 8
_TENSORS = 100_000
_NAME = re.compile(r"[\x21-\x7e]{1,512}")
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Weight:
    """One tensor of a safetensors file; `shape` in the file's axis order."""

    dtype: str
    shape: tuple[int, ...]


def check_safetensors(path: Path, name: str) -> dict[str, Weight]:
    """The tensors of one file; raises ModelRefused unless the header is sound and covers the data exactly, with no gap or overlap.

    name: what messages call the file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(HEADER_BYTES, size - 8):
            raise ModelRefused(
                f"{name}: expected a safetensors header of at most {min(HEADER_BYTES, max(size - 8, 0))} bytes, found {length}"
            )
        header_bytes = stream.read(length)
    if not header_bytes.startswith(b"{"):
        raise ModelRefused(f"{name}: expected a safetensors header that starts with '{{', found {header_bytes[:8]!r}")
    header = parse_json(name, header_bytes)
    _check_metadata(name, header.pop("__metadata__", None))
    if not 0 < len(header) <= _TENSORS:
        raise ModelRefused(f"{name}: expected 1 to {_TENSORS} tensors, found {len(header)}")
    spans = sorted((*_check_tensor(name, tensor, record), tensor) for tensor, record in header.items())
    end = 0
    for begin, stop, tensor in spans:
        if begin != end:
            raise ModelRefused(
                f"{name}: tensor {tensor!r} must start at byte {end} of the data, found {begin}: a gap or an overlap"
            )
        end = stop
    if end != size - 8 - length:
        raise ModelRefused(f"{name}: expected {end} bytes of data, as the header says, found {size - 8 - length}")
    return {tensor: Weight(str(record["dtype"]), tuple(record["shape"])) for tensor, record in header.items()}


def check_index(document: Mapping[str, Any], shards: Mapping[str, Mapping[str, Weight]]) -> None:
    """Raises ModelRefused unless `model.safetensors.index.json` names just these shards, each by a plain name, and their tensors.

    shards: file name -> its tensors.
    """
    name = "model.safetensors.index.json"
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelRefused(f"{name}: weight_map must be an object of tensor names, found {type(weight_map).__name__}")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise ModelRefused(f"{name}: {tensor!r} must be in a file model-00001-of-0000N.safetensors, found {shard!r}")
        if tensor not in shards.get(shard, {}):
            raise ModelRefused(f"{name}: expected tensor {tensor!r} in {shard}, found none")
    held = [tensor for tensors in shards.values() for tensor in tensors]
    if len(held) != len(weight_map):
        raise ModelRefused(f"{name}: expected the {len(weight_map)} tensors of weight_map, found {len(held)} in the files")


def _check_metadata(name: str, metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelRefused(f"{name}: __metadata__ must map names to strings, found {type(metadata).__name__}")
    # Other formats make transformers start TensorFlow or Flax to read the file.
    if metadata.get("format", "pt") != "pt":
        raise ModelRefused(f"{name}: __metadata__ format must be 'pt', found {metadata['format']!r}")


def _check_tensor(name: str, tensor: str, record: Any) -> tuple[int, int]:
    """Begin and end of one tensor within the data, in bytes."""
    if not _NAME.fullmatch(tensor):
        raise ModelRefused(f"{name}: expected tensor names of 1 to 512 plain characters, found {tensor[:80]!r}")
    if not isinstance(record, dict) or set(record) != {"dtype", "shape", "data_offsets"}:
        raise ModelRefused(f"{name}: tensor {tensor!r} must have dtype, shape and data_offsets, found {record!r:.80}")
    dtype, shape, offsets = record["dtype"], record["shape"], record["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise ModelRefused(f"{name}: tensor {tensor!r}: dtype must be one of {sorted(DTYPE_BYTES)}, found {dtype!r:.80}")
    if not _are_lengths(shape) or len(shape) > _RANK:
        raise ModelRefused(f"{name}: tensor {tensor!r}: shape must be at most {_RANK} lengths from 0 to 2**40, found {shape!r:.80}")
    if not _are_lengths(offsets) or len(offsets) != 2:
        raise ModelRefused(f"{name}: tensor {tensor!r}: data_offsets must be two byte positions, found {offsets!r:.80}")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise ModelRefused(
            f"{name}: tensor {tensor!r}: {dtype} {shape} takes {math.prod(shape) * DTYPE_BYTES[dtype]} bytes, found {end - begin}"
        )
    return begin, end


def _are_lengths(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= 2**40 for item in value)
