"""Weights in 8 and 4 bits: which are found, how far the result is, and what a broken one gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import helper, numpy_helper

import converters.precision.weights as weights
from converters.parity.compare import BOUNDS
from converters.precision.quantise import quantise
from tests.converters.precision.graphs import graph_file, matrix, operators, run

ROWS = matrix(5, 96, seed=1)


def relative(found: Any, expected: Any) -> float:
    return float(numpy.abs(found - expected).max() / numpy.abs(expected).max())


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_gemm_and_a_tied_head_are_found_and_stay_within_the_bound(tmp_path: Path, precision: str) -> None:
    """GPT-2's two ways: Gemm with a bias, and the embedding transposed. The embedding itself is looked up and stays."""
    embedding = matrix(200, 96)
    nodes = [
        helper.make_node("Gemm", ["x", "weight", "bias"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "across"], ["more"], transB=1),
        helper.make_node("Transpose", ["embedding"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["more", "turned"], ["logits"]),
        helper.make_node("Gather", ["embedding", "one"], ["row"]),
    ]
    constants = {
        "weight": matrix(96, 96, seed=2),
        "bias": matrix(1, 96)[0],
        "across": matrix(96, 96, seed=3),
        "embedding": embedding,
        "one": numpy.int64(1),
    }
    outputs = {"logits": ["rows", 200], "row": [96]}
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": ["rows", 96]}, outputs, constants)
    small = tmp_path / "small.onnx"
    found = quantise(full, small, precision)
    assert (found.matrices, found.weights) == (3, 2 * 96 * 96 + 200 * 96)
    assert found.of_weights == found.weights + 96 + 200 * 96
    assert operators(small) == ["MatMulNBits", "Add", "MatMulNBits", "MatMulNBits", "Gather"]
    logits, row = run(small, x=ROWS)
    assert numpy.array_equal(row, embedding[1])
    assert 0 < relative(logits, run(full, x=ROWS)[0]) < BOUNDS[precision]


def test_a_matrix_under_another_name_is_found(tmp_path: Path) -> None:
    """Exporters write equal weights once, with an Identity for each other name."""
    nodes = [
        helper.make_node("Identity", ["weight"], ["same"]),
        helper.make_node("MatMul", ["x", "weight"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "same"], ["y"]),
    ]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [5, 96]}, {"y": [5, 96]}, {"weight": matrix(96, 96)})
    found = quantise(full, tmp_path / "small.onnx", "int8")
    assert (found.matrices, found.weights, found.of_weights) == (1, 96 * 96, 96 * 96)
    assert operators(tmp_path / "small.onnx") == ["MatMulNBits"] * 2


def test_eight_bits_are_closer_than_four(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [5, 96]}, {"y": [5, 96]}, {"weight": matrix(96, 96)})
    errors = []
    for precision in ("int8", "int4"):
        quantise(full, tmp_path / "small.onnx", precision)
        errors.append(relative(run(tmp_path / "small.onnx", x=ROWS)[0], run(full, x=ROWS)[0]))
    assert errors[0] < 0.02 and 5 * errors[0] < errors[1]


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("part", ["scales", "zero_points"])
def test_a_broken_quantisation_is_beyond_the_bound(tmp_path: Path, precision: str, part: str) -> None:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    # Columns of very different size, as trained models have them.
    weight = matrix(96, 96) * numpy.geomspace(0.1, 10, 96, dtype=numpy.float32)
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [5, 96]}, {"y": [5, 96]}, {"weight": weight})
    small = tmp_path / "small.onnx"
    quantise(full, small, precision)
    model = onnx.load(str(small))
    tensor = next(tensor for tensor in model.graph.initializer if part in tensor.name)
    values = numpy_helper.to_array(tensor)
    broken = numpy.roll(values, values.size // 2) if part == "scales" else numpy.zeros_like(values)
    tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))
    onnx.save(model, str(small))
    assert relative(run(small, x=ROWS)[0], run(full, x=ROWS)[0]) > BOUNDS[precision]


def test_what_is_no_constant_matrix_of_a_whole_block_is_left_alone_and_counted_as_such(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "x"], ["attention"]),
        helper.make_node("MatMul", ["attention", "short"], ["y"]),
        helper.make_node("MatMul", ["y", "thin"], ["z"]),
    ]
    constants = {"short": matrix(16, 16), "thin": matrix(16, 1)}
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [16, 16]}, {"z": [16, 1]}, constants)
    found = quantise(full, tmp_path / "small.onnx", "int8")
    assert (found.matrices, found.weights, found.of_weights) == (0, 0, 16 * 16 + 16)
    assert operators(tmp_path / "small.onnx") == ["MatMul"] * 3


def test_weights_past_the_limit_of_a_message_lie_in_a_file_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    full = graph_file(tmp_path / "full.onnx", nodes, {"x": [5, 96]}, {"y": [5, 96]}, {"weight": matrix(96, 96)})
    model = onnx.load(str(full))
    onnx.save_model(model, str(full), save_as_external_data=True, location="full.onnx_data", size_threshold=0)
    quantise(full, tmp_path / "inside.onnx", "int8")
    monkeypatch.setattr(weights, "INLINE_BYTES", 1000)
    quantise(full, tmp_path / "small.onnx", "int8")
    assert (tmp_path / "small.onnx_data").stat().st_size >= 96 * 96
    assert numpy.array_equal(run(tmp_path / "inside.onnx", x=ROWS)[0], run(tmp_path / "small.onnx", x=ROWS)[0])
