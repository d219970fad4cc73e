"""What a graph computes from shapes and is always the same: a traced graph asks a layer's width of its tensors at each step.

In: a decoder's graph and what was seen of it. Out: values by name. This module must never name a value that depends on anything but
shapes and constants, or that was not seen at sizes whose numbers are all different.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
from onnx import numpy_helper

from converters.export.observe import Look
from converters.export.view import View

_OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Neg", "Pow", "Reciprocal", "Slice", "Sqrt", "Squeeze", "Sub", "Unsqueeze"}
)
_MOST = 64
"""Numbers of one value; larger ones are tables, which cost time when they are read and not when they are made."""


def from_shapes(view: View) -> list[str]:
    """Tensors that are computed from shapes and constants alone, in the graph's order."""
    found: dict[str, None] = {}
    for node in view.graph.node:  # a graph's nodes stand after those they read
        is_plain = node.op_type == "Shape" or (
            node.op_type in _OPERATORS
            and any(name in found for name in node.input)
            and all(not name or name in found or view.constant(name) is not None for name in node.input)
        )
        if is_plain and len(node.output) == 1:
            found[node.output[0]] = None
    return list(found)


def plain_values(names: Sequence[str], looks: Sequence[Look]) -> dict[str, numpy.ndarray]:
    """Those of `names` that are the same in every look. looks: of one size alone nothing follows."""
    if len(looks) < 2:
        return {}
    first = looks[0].seen
    return {
        name: first[name]
        for name in names
        if first[name].size <= _MOST and all(numpy.array_equal(first[name], look.seen[name]) for look in looks[1:])
    }


def fix(model: Any, nodes: list[Any], values: dict[str, numpy.ndarray]) -> None:
    """Make constants of the values, in place of the nodes that compute them."""
    nodes[:] = [node for node in nodes if node.output[0] not in values]
    read = {name for node in nodes for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items() if name in read)
