"""The stand-in rounds where a GPU rounds, and so sees what ONNX Runtime's CPU provider does not show."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from onnx import helper

from converters.precision.cast import cast
from converters.precision.stand_in import stand_in
from tests.converters.precision.graphs import graph_file, matrix, run


def test_an_overflow_that_the_cpu_hides_shows(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "thousand"], ["large"]), helper.make_node("Div", ["large", "thousand"], ["y"])]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [2]}, {"y": [2]}, {"thousand": numpy.float32(1000)})
    half, other = tmp_path / "half.onnx", tmp_path / "stand-in.onnx"
    cast(full, half, "fp16")
    stand_in(half, other)
    values = numpy.array([3, 200], numpy.float32)
    assert run(half, x=values)[0].tolist() == [3, 200]
    assert run(other, x=values)[0].tolist() == [3, numpy.inf]


@pytest.mark.parametrize(("precision", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_each_result_is_rounded_as_torch_rounds_it(tmp_path: Path, precision: str, kind: torch.dtype) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Add", ["square", "x"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["y"]),
    ]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [500]}, {"y": [500]}, {})
    half, other = tmp_path / "half.onnx", tmp_path / "stand-in.onnx"
    cast(full, half, precision)
    stand_in(half, other)
    values = matrix(1, 500)[0]
    x = torch.from_numpy(values).to(kind)
    rounded = (x.float() * x.float()).to(kind)
    expected = (rounded.float() + x.float()).to(kind).float().tanh().to(kind).float().numpy()
    # One rounding unit, where the two libraries' tanh differ in float32 and a result lies between two half numbers.
    assert numpy.abs(run(other, x=values)[0] - expected).max() <= torch.finfo(kind).eps
    assert (run(other, x=values)[0] == expected).mean() > 0.99


def test_a_stand_in_lies_beside_its_graph_since_they_share_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shares its graph's weights"):
        stand_in(tmp_path / "half.onnx", tmp_path / "elsewhere" / "stand-in.onnx")
