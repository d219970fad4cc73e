"""Half precision: what becomes half, what stays float32, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import converters.precision.weights as weights
from converters.errors import ModelRefused
from converters.precision.cast import cast
from converters.precision.stand_in import stand_in
from tests.converters.precision.graphs import graph_file, matrix, operators, run

_HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A step with a cache: present = past and x @ weight, logits = their sum."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["new"]),
        helper.make_node("Concat", ["past_key", "new"], ["present_key"], axis=1),
        helper.make_node("ReduceSum", ["present_key", "axes"], ["logits"], keepdims=0),
    ]
    constants = {"weight": matrix(64, 64), "axes": numpy.array([1], numpy.int64)}
    inputs = {"x": ["batch", "new", 64], "past_key": ["batch", "past", 64]}
    outputs = {"logits": ["batch", 64], "present_key": ["batch", "all", 64]}
    return graph_file(tmp_path / "full.onnx", nodes, inputs, outputs, constants)


def types_of(path: Path) -> dict[str, int]:
    graph = onnx.load(str(path), load_external_data=False).graph
    values = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    return {**values, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_and_cache_become_half_and_the_other_inputs_and_outputs_stay_float32(
    cached: Path, tmp_path: Path, precision: str
) -> None:
    half = tmp_path / "half.onnx"
    cast(cached, half, precision)
    onnx.checker.check_model(str(half), full_check=True)
    types = types_of(half)
    assert {types[name] for name in ("weight", "past_key", "present_key")} == {_HALF[precision]}
    assert {types[name] for name in ("x", "logits")} == {TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_are_rounded_as_torch_rounds_them(cached: Path, tmp_path: Path, precision: str) -> None:
    half = tmp_path / "half.onnx"
    cast(cached, half, precision)
    kept = next(tensor for tensor in onnx.load(str(half)).graph.initializer if tensor.name == "weight")
    expected = torch.from_numpy(matrix(64, 64)).to(_TORCH[precision]).view(torch.int16).numpy().tobytes()
    assert kept.raw_data == expected


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_past_the_limit_of_a_message_lie_in_a_file_beside_the_graph(
    cached: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside.onnx"
    cast(cached, inside, precision)
    monkeypatch.setattr(weights, "INLINE_BYTES", 1000)
    half = tmp_path / "half.onnx"
    cast(cached, half, precision)
    beside = tmp_path / "half.onnx_data"
    assert beside.stat().st_size == 64 * 64 * 2 and half.stat().st_size < inside.stat().st_size
    feeds = {"x": matrix(6, 64).reshape(2, 3, 64), "past_key": numpy.zeros((2, 0, 64), numpy.float32)}
    for path in (inside, half):
        stand_in(path, path.with_suffix(".stand-in.onnx"))
    inline, external = (run(tmp_path / f"{name}.stand-in.onnx", **feeds) for name in ("inside", "half"))
    assert all(numpy.array_equal(left, right) for left, right in zip(inline, external, strict=True))


def test_a_weight_beyond_fp16_is_refused_by_name_and_bf16_keeps_it(tmp_path: Path) -> None:
    large = matrix(64, 64)
    large[3, 5] = 1e6
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [1, 64]}, {"y": [1, 64]}, {"weight": large})
    with pytest.raises(ModelRefused, match=r"weight 'weight': expected values up to 65504.* found 1e\+06"):
        cast(full, tmp_path / "half.onnx", "fp16")
    cast(full, tmp_path / "half.onnx", "bf16")


def test_the_mean_of_squares_of_a_norm_stays_float32(tmp_path: Path) -> None:
    """300 squared is beyond fp16: a norm whose squares were rounded would give 0."""
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "axes"], ["mean"]),
        helper.make_node("Sqrt", ["mean"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["y"]),
    ]
    constants = {"two": numpy.float32(2), "axes": numpy.array([-1], numpy.int64)}
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [1, 64]}, {"y": [1, 64]}, constants)
    half, other = tmp_path / "half.onnx", tmp_path / "stand-in.onnx"
    cast(full, half, "fp16")
    stand_in(half, other)
    values = numpy.full((1, 64), 300, numpy.float32)
    for path in (half, other):
        assert numpy.array_equal(run(path, x=values)[0], numpy.ones((1, 64), numpy.float32))


def test_the_angle_of_a_position_is_computed_in_float32(tmp_path: Path) -> None:
    """4,001 is not a number of fp16; rounded to 4,000 its sine is another."""
    nodes = [
        helper.make_node("Cast", ["position_ids"], ["positions"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["positions", "frequency"], ["angle"]),
        helper.make_node("Sin", ["angle"], ["sine"]),
        helper.make_node("Mul", ["sine", "x"], ["y"]),
    ]
    inputs, constants = {"position_ids": [1], "x": [1]}, {"frequency": numpy.float32(1)}
    full = graph_file(tmp_path / "full.onnx", nodes, inputs, {"y": [1]}, constants, integers=["position_ids"])
    half, other = tmp_path / "half.onnx", tmp_path / "stand-in.onnx"
    cast(full, half, "fp16")
    stand_in(half, other)
    feeds = {"position_ids": numpy.array([4001], numpy.int64), "x": numpy.ones(1, numpy.float32)}
    assert abs(float(run(other, **feeds)[0][0]) - float(numpy.sin(4001))) < 1e-3


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_two_masks_added_leave_a_row_of_padding_finite(tmp_path: Path, precision: str) -> None:
    lowest = float(numpy.finfo(numpy.float32).min)
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["shape"], ["causal"], value=numpy_helper.from_array(numpy.array([lowest], numpy.float32))
        ),
        helper.make_node("Mul", ["padding", "lowest"], ["padded"]),
        helper.make_node("Add", ["causal", "padded"], ["masks"]),
        helper.make_node("Add", ["scores", "masks"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["y"]),
    ]
    constants = {"shape": numpy.array([4], numpy.int64), "lowest": numpy.float32(lowest / 2)}
    full = graph_file(tmp_path / "full.onnx", nodes, {"scores": [4], "padding": [4]}, {"y": [4]}, constants)
    half, other = tmp_path / "half.onnx", tmp_path / "stand-in.onnx"
    cast(full, half, precision)
    stand_in(half, other)
    found = run(other, scores=numpy.zeros(4, numpy.float32), padding=numpy.ones(4, numpy.float32))[0]
    assert numpy.allclose(found, 0.25)


@pytest.mark.parametrize(
    ("attribute", "value"), [("value_float", 0.5), ("value_floats", [0.5]), ("value", numpy_helper.from_array(numpy.float32(0.5)))]
)
def test_a_constant_is_converted_however_the_exporter_wrote_it(tmp_path: Path, attribute: str, value: Any) -> None:
    nodes = [helper.make_node("Constant", [], ["half"], **{attribute: value}), helper.make_node("Mul", ["x", "half"], ["y"])]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [1]}, {"y": [1]}, {})
    for precision in ("fp16", "bf16"):
        half = tmp_path / f"{precision}.onnx"
        cast(full, half, precision)
        onnx.checker.check_model(str(half), full_check=True)
        stand_in(half, tmp_path / "stand-in.onnx")
        assert run(tmp_path / "stand-in.onnx", x=numpy.ones(1, numpy.float32))[0] == [0.5]


def test_an_operator_that_onnx_has_no_bf16_for_stays_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Softsign", ["square"], ["soft"]),
        helper.make_node("Mul", ["soft", "x"], ["y"]),
    ]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [1]}, {"y": [1]}, {})
    half = tmp_path / "half.onnx"
    cast(full, half, "bf16")
    onnx.checker.check_model(str(half), full_check=True)
    order = operators(half)
    place = order.index("Softsign")
    assert order[place - 1] == order[place + 1] == "Cast"
