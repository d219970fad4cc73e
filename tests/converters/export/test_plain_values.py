"""What a graph computes from shapes and is always the same becomes a constant; what moves, or comes from values, does not."""

from __future__ import annotations

from typing import Any

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper

from converters.export.observe import Look, Size
from converters.export.plain_values import fix, from_shapes, plain_values
from converters.export.view import View

SIZES = (Size(2, 7, 0), Size(3, 5, 11), Size(2, 1, 29))
SCALED, MOVING, FROM_VALUES = "scaled", "length", "largest"


def model() -> Any:
    """y = x * sqrt(width) + length + largest(x), all but x's own numbers from its shape [batch, length, 4]."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["width"]),
        helper.make_node("Cast", ["width"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Sqrt", ["wide"], [SCALED]),
        helper.make_node("Gather", ["shape", "one"], ["count"]),
        helper.make_node("Cast", ["count"], [MOVING], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["x"], [FROM_VALUES], keepdims=0),
        helper.make_node("Mul", ["x", SCALED], ["first"]),
        helper.make_node("Add", ["first", MOVING], ["second"]),
        helper.make_node("Add", ["second", FROM_VALUES], ["y"]),
    ]
    constants = [helper.make_tensor(name, TensorProto.INT64, [], [number]) for name, number in (("one", 1), ("two", 2))]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "length", 4])]
    graph = helper.make_graph(nodes, "scaled", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(made: Any, names: list[str], size: Size) -> dict[str, Any]:
    """Of ones, so that nothing but their shape differs."""
    watched = onnx.ModelProto.FromString(made.SerializeToString())
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name != "y")
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    given = numpy.ones((size.batch, size.new, 4), numpy.float32)
    return dict(zip(names, session.run(names, {"x": given}), strict=True))


def test_only_what_shapes_alone_decide_is_looked_at_and_only_what_stays_is_fixed() -> None:
    made = model()
    names = from_shapes(View(made))
    assert SCALED in names and MOVING in names and FROM_VALUES not in names and "y" not in names
    looks = [Look(size, answers(made, names, size)) for size in SIZES]
    values = plain_values(names, looks)
    assert SCALED in values and MOVING not in values
    before = [answers(made, ["y"], size)["y"] for size in SIZES]
    nodes = list(made.graph.node)
    fix(made, nodes, values)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    onnx.checker.check_model(made, full_check=True)
    assert SCALED not in {name for node in nodes for name in node.output}
    for size, expected in zip(SIZES, before, strict=True):
        numpy.testing.assert_array_equal(answers(made, ["y"], size)["y"], expected)


def test_one_size_shows_nothing() -> None:
    made = model()
    names = from_shapes(View(made))
    assert plain_values(names, [Look(SIZES[0], answers(made, names, SIZES[0]))]) == {}
