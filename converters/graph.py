"""ONNX graphs as files: what they ask for and give, and where they say their weights lie.

In: a `.onnx` file. Out: its tensors, or ModelRefused. This module must never load external data or build a session.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from converters.errors import ModelRefused

_DTYPES = {
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.BOOL: "BOOL",
}
_VALUES = 2**40
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}


def refuse_external_data(model_path: Path, folder: Path) -> frozenset[str]:
    """The names of the files in `folder` that the graph's tensors lie in; none when the graph holds its weights itself.

    Raises ModelRefused when any tensor of the graph keeps its data outside `folder`, or out of its file's bounds.

    Looks at every tensor there is: initializers, sparse ones, constants in nodes, subgraphs, functions, training information. So
    CVE-2022-25882, CVE-2024-27318 and their relatives are refused before a library that resolves such paths sees the file.
    """
    files = set()
    model = _read(model_path)
    _refuse_names_said_twice(model_path.name, model)
    for tensor in _tensors(model):
        if any(length < 0 for length in tensor.dims) or math.prod(tensor.dims) > _VALUES:
            raise ModelRefused(
                f"{model_path.name}: tensor {tensor.name!r}: expected at most {_VALUES} values, found {list(tensor.dims)}"
            )
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        keys = [line.key for line in tensor.external_data]
        if not set(keys) <= _EXTERNAL_KEYS or len(set(keys)) != len(keys) or "location" not in keys:
            raise ModelRefused(f"{model_path.name}: tensor {tensor.name!r}: external data must have one location, found {keys}")
        said = {line.key: line.value for line in tensor.external_data}
        _check_location(model_path.name, tensor.name, said, folder)
        files.add(said["location"])
    return frozenset(files)


def _refuse_names_said_twice(name: str, model: Any) -> None:
    """Two initializers of one name: one library checks the first, another loads the last."""
    names = [tensor.name for tensor in model.graph.initializer]
    names += [tensor.values.name for tensor in model.graph.sparse_initializer]
    if len(set(names)) != len(names):
        twice = next(one for one in names if names.count(one) > 1)
        raise ModelRefused(f"{name}: expected one initializer of each name, found {twice!r} twice")


def graph_tensors(model_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The graph's inputs and outputs as `tasks.py` describes them: name, dtype, axes.

    Raises ModelRefused for a dtype that no backend of ours can feed.
    """
    graph = _read(model_path).graph
    return [_described(value) for value in graph.input], [_described(value) for value in graph.output]


def _read(model_path: Path) -> Any:
    try:
        return onnx.load(str(model_path), load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise ModelRefused(f"{model_path.name}: expected an ONNX model, found {error}") from error


def _tensors(message: Message) -> Iterator[Any]:
    """Every TensorProto inside a message, however deep; by reflection, so that a field added to ONNX later is not missed."""
    waiting: list[Message] = [message]
    while waiting:
        current = waiting.pop()
        if current.DESCRIPTOR.name == "TensorProto":
            yield current
        for field, value in current.ListFields():
            if field.message_type is None:
                continue
            waiting += list(value) if field.is_repeated else [value]


def _check_location(model: str, tensor: str, said: dict[str, str], folder: Path) -> None:
    location = said["location"]
    if not location or location in (".", "..") or any(sign in location for sign in "/\\:\0"):
        raise ModelRefused(f"{model}: tensor {tensor!r}: external data must be a plain file name in its folder, found {location!r}")
    try:
        state = os.lstat(folder / location)
    except OSError:
        raise ModelRefused(f"{model}: tensor {tensor!r}: expected external data in {location!r}, found no such file") from None
    if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
        raise ModelRefused(f"{model}: tensor {tensor!r}: expected a plain file {location!r}, found a link or a special file")
    try:
        offset, length = int(said.get("offset", "0")), int(said.get("length", "0"))
    except ValueError:
        raise ModelRefused(f"{model}: tensor {tensor!r}: offset and length must be byte counts, found {said!r:.120}") from None
    if offset < 0 or length < 0 or offset + length > state.st_size:
        raise ModelRefused(
            f"{model}: tensor {tensor!r}: bytes {offset} to {offset + length} must lie within {location} of {state.st_size} bytes"
        )


def _described(value: Any) -> dict[str, Any]:
    kind = value.type.tensor_type
    if kind.elem_type not in _DTYPES:
        raise ModelRefused(f"graph tensor {value.name!r}: dtype must be one of {sorted(_DTYPES.values())}, found {kind.elem_type}")
    axes = [axis.dim_param if axis.HasField("dim_param") else axis.dim_value for axis in kind.shape.dim]
    return {"name": value.name, "dtype": _DTYPES[kind.elem_type], "axes": axes}
