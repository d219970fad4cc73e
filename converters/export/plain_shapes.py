"""What a graph's Reshapes come to: a traced graph computes most of their targets anew at each step, though they never change.

In: a decoder's graph and what was seen of it. Out: targets by the Reshape's output. This module must never name a target that it
has not seen hold at sizes whose numbers are all different.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.export.observe import Look, Size
from converters.export.view import View


def moving(view: View) -> list[Any]:
    """The Reshapes whose target is computed."""
    return [node for node in view.graph.node if node.op_type == "Reshape" and view.constant(node.input[1]) is None]


def plain_shapes(reshapes: Sequence[Any], looks: Sequence[Look]) -> dict[str, tuple[int | str, ...]]:
    """Target shapes as Reshape takes them (0: as it was, -1: the rest), or ("batch", "new", ...) of constants after those two.

    looks: with the first two inputs of each. A Reshape that is neither is left out.
    """
    found = {}
    for node in reshapes:
        shapes = [(look.size, look.seen[node.input[0]].shape, [int(dim) for dim in look.seen[node.input[1]]]) for look in looks]
        if (target := _target(shapes)) is not None:
            found[node.output[0]] = target
    return found


def _target(looks: Sequence[tuple[Size, Sequence[int], Sequence[int]]]) -> tuple[int | str, ...] | None:
    target = looks[0][2]
    if any(len(after) != len(target) for _, _, after in looks):
        return None
    dims: list[int | str] = []
    for axis in range(len(target)):
        values = [after[axis] for _, _, after in looks]
        if len(set(values)) == 1 and values[0] != 0:
            dims.append(values[0])
        elif all(axis < len(was) and value in (was[axis], 0) for value, (_, was, _) in zip(values, looks, strict=True)):
            dims.append(0)
        else:
            dims.append("?")
    unknown = [axis for axis, dim in enumerate(dims) if dim == "?"]
    if not unknown:
        return tuple(dims)
    if len(unknown) == 1 and -1 not in dims:
        return tuple(-1 if dim == "?" else dim for dim in dims)
    begins = all((after[0], after[1]) == (size.batch, size.new) for size, _, after in looks)
    if begins and all(isinstance(dim, int) and dim > 0 for dim in dims[2:]):
        return ("batch", "new", *dims[2:])
    return None
