"""Poisoned weights, each named for its fault: headers and indexes of safetensors, and ONNX files that point elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.converters.sources import external_onnx, put, safetensors

_RECORD = b'{"dtype": "F32", "shape": [4, 1], "data_offsets": [0, 16]}'

WEIGHT_POISONS: dict[str, tuple[Callable[[Path], Any], str]] = {}
"""Fault -> (what makes it in a model folder), and what the refusal must name."""


def _simple(fault: str, names: str, make: Callable[[Path], Any]) -> None:
    WEIGHT_POISONS[fault] = (make, names)


def _tensor(**changes: Any) -> Mapping[str, Any]:
    return {"wte.weight": {"dtype": "F32", "shape": [4, 1], "data_offsets": [0, 16], **changes}}


def _two(first: list[int], second: list[int]) -> Mapping[str, Any]:
    return {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": first},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": second},
    }


def _sharded(folder: Path, weight_map: Mapping[str, Any], *names: str) -> None:
    (folder / "model.safetensors").unlink()
    put(folder, "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    for name in names:
        put(folder, name, safetensors())


_simple("header-length-absurd", "header", lambda f: put(f, "model.safetensors", (2**63).to_bytes(8, "little") + b"{}"))
_simple("header-past-the-end", "header", lambda f: put(f, "model.safetensors", (1000).to_bytes(8, "little") + b"{}"))
_simple("header-missing", "header", lambda f: put(f, "model.safetensors", b"\0\0"))
_simple("header-empty-file", "header", lambda f: put(f, "model.safetensors", b""))
_simple("header-not-json", "header", lambda f: put(f, "model.safetensors", safetensors(header=b"not json")))
_simple("header-broken-json", "JSON", lambda f: put(f, "model.safetensors", safetensors(header=b'{"a":')))
_simple("header-nested", "deep", lambda f: put(f, "model.safetensors", safetensors(header=b'{"a":' * 5000 + b"1" + b"}" * 5000)))
_simple("header-holds-no-tensors", "tensors", lambda f: put(f, "model.safetensors", safetensors({}, data=b"")))
_simple("header-unknown-dtype", "dtype", lambda f: put(f, "model.safetensors", safetensors(_tensor(dtype="OBJECT"))))
_simple("header-dtype-is-a-list", "dtype", lambda f: put(f, "model.safetensors", safetensors(_tensor(dtype=["F32"]))))
_simple(
    "header-negative-offset", "data_offsets", lambda f: put(f, "model.safetensors", safetensors(_tensor(data_offsets=[-16, 0])))
)
_simple("header-offset-past-end", "bytes", lambda f: put(f, "model.safetensors", safetensors(_tensor(data_offsets=[0, 1 << 30]))))
_simple("header-shape-too-large", "takes", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[2**40, 2**40]))))
_simple("header-shape-negative", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[-4, -1]))))
_simple("header-shape-is-true", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[True, 4]))))
_simple("header-rank-too-high", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[1] * 9))))
_simple("header-two-to-the-31-long", "takes", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[2**31]))))
_simple("header-wraps-to-nothing", "takes", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[2**31, 2**31, 4]))))
_simple("header-wraps-to-its-size", "takes", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[2**32, 2**32 + 1]))))
_simple("header-shape-is-a-fraction", "shape", lambda f: put(f, "model.safetensors", safetensors(_tensor(shape=[4.0, 1]))))
_simple("header-offsets-backwards", "takes", lambda f: put(f, "model.safetensors", safetensors(_tensor(data_offsets=[16, 0]))))
_simple(
    "header-three-offsets", "data_offsets", lambda f: put(f, "model.safetensors", safetensors(_tensor(data_offsets=[0, 8, 16])))
)
_simple("header-unknown-field", "must have", lambda f: put(f, "model.safetensors", safetensors(_tensor(pickle="yes"))))
_simple("header-tensor-is-a-list", "must have", lambda f: put(f, "model.safetensors", safetensors({"wte.weight": [1]})))
_simple(
    "header-of-8-bit-floats", "dtype", lambda f: put(f, "model.safetensors", safetensors(_tensor(dtype="F8_E4M3", shape=[16, 1])))
)
_simple(
    "header-says-a-tensor-twice",
    "twice",
    lambda f: put(f, "model.safetensors", safetensors(header=b'{"a":' + _RECORD + b',"a":' + _RECORD + b"}")),
)
_simple("header-is-a-list", "header", lambda f: put(f, "model.safetensors", safetensors(header=b"[]")))
_simple("header-overlap", "overlap", lambda f: put(f, "model.safetensors", safetensors(_two([0, 8], [4, 12]))))
_simple("header-gap", "gap", lambda f: put(f, "model.safetensors", safetensors(_two([0, 8], [12, 20]), data=b"\0" * 20)))
_simple("bytes-after-the-weights", "data", lambda f: put(f, "model.safetensors", safetensors(data=b"\0" * 64)))
_simple("weights-cut-short", "data", lambda f: put(f, "model.safetensors", safetensors(data=b"\0" * 8)))
_simple(
    "weights-of-tensorflow",
    "format",
    lambda f: put(f, "model.safetensors", safetensors({**_tensor(), "__metadata__": {"format": "tf"}})),
)
_simple("metadata-is-a-list", "metadata", lambda f: put(f, "model.safetensors", safetensors({**_tensor(), "__metadata__": []})))
_simple(
    "tensor-name-with-control-characters",
    "names",
    lambda f: put(f, "model.safetensors", safetensors({"a\n": _tensor()["wte.weight"]})),
)

_simple("index-points-up", "weight_map|wte", lambda f: _sharded(f, {"wte.weight": "../../secret.safetensors"}))
_simple("index-points-to-root", "wte", lambda f: _sharded(f, {"wte.weight": "/etc/passwd"}))
_simple("index-names-a-missing-shard", "wte", lambda f: _sharded(f, {"wte.weight": "model-00001-of-00001.safetensors"}))
_simple(
    "index-names-a-missing-tensor",
    "'b'",
    lambda f: _sharded(
        f,
        {"b": "model-00001-of-00001.safetensors", "wte.weight": "model-00001-of-00001.safetensors"},
        "model-00001-of-00001.safetensors",
    ),
)
_simple(
    "index-hides-a-shard",
    "found 2",
    lambda f: _sharded(
        f, {"wte.weight": "model-00001-of-00002.safetensors"}, *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    ),
)
_simple(
    "index-and-the-same-tensor-in-two-shards",
    "found 2",
    lambda f: _sharded(
        f, {"wte.weight": "model-00002-of-00002.safetensors"}, *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    ),
)
_simple("index-names-a-number", "weight_map|wte", lambda f: _sharded(f, {"wte.weight": 1}))
_simple("index-names-a-pickle", "wte", lambda f: _sharded(f, {"wte.weight": "pytorch_model-00001-of-00001.bin"}))
_simple("index-without-a-map", "weight_map", lambda f: _sharded(f, {}))
_simple("index-and-single-file", "both", lambda f: put(f, "model.safetensors.index.json", {"weight_map": {"a": "b"}}))

for _place in ("initializer", "sparse", "constant", "tensors", "subgraph", "function", "training"):
    _simple(
        f"onnx-points-outside-in-{_place}",
        "plain file name",
        lambda folder, place=_place: put(folder, "onnx/model.onnx", external_onnx("../../../etc/passwd", place)),
    )
_simple("onnx-dimension-two-to-the-31", "values", lambda f: put(f, "model.onnx", external_onnx("w", dims=[2**31, 2**31])))
_simple("onnx-dimension-negative", "values", lambda f: put(f, "model.onnx", external_onnx("w", dims=[-(2**31)])))
_simple("onnx-dimensions-that-wrap", "values", lambda f: put(f, "model.onnx", external_onnx("w", dims=[2**32] * 4)))
_simple("onnx-says-a-tensor-twice", "twice", lambda f: put(f, "model.onnx", external_onnx("w", count=2)))
_simple("onnx-points-to-root", "plain file name", lambda folder: put(folder, "model.onnx", external_onnx("/etc/passwd")))
_simple("onnx-broken", "ONNX", lambda folder: put(folder, "model.onnx", b"\xff\xff\xff"))
