"""A graph's nodes by what they make and who reads it, and the few edits that keep it whole.

In: an ONNX model. Out: the same model. This module must never know what a node computes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import onnx


class View:
    """makers: by tensor, the node that makes it. readers: by tensor, the nodes that take it, in the graph's order."""

    def __init__(self, model: Any) -> None:
        self.model, self.graph = model, model.graph
        self.makers: dict[str, Any] = {}
        self.readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.output:
                self.makers[name] = node
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}

    def constant(self, name: str) -> Any | None:
        """The tensor that `name` always is, or None."""
        if name in self.weights:
            return self.weights[name]
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "Constant":
            return None
        return next((attribute.t for attribute in maker.attribute if attribute.name == "value"), None)


def needed(view: View, outputs: Iterable[str], given: Collection[str] = ()) -> list[Any]:
    """The nodes that `outputs` need, each after those it reads. given: tensors that come from outside instead."""
    order: list[Any] = []
    seen: set[int] = set()
    # Depth first, without Python's own stack: a graph of a hundred layers is thousands of nodes deep.
    stack = [(name, False) for name in reversed(list(outputs))]
    while stack:
        name, is_done = stack.pop()
        node = view.makers.get(name)
        if name in given or node is None or (id(node) in seen and not is_done):
            continue
        if is_done:
            order.append(node)
            continue
        seen.add(id(node))
        stack.append((name, True))
        stack += [(read, False) for read in reversed([*node.input, *_captured(node)])]
    return order


def _captured(node: Any) -> list[str]:
    """What the branches of an If or a Loop read from outside; names of their own are looked up in vain."""
    names: list[str] = []
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
            for within in inner.node:
                names += [*within.input, *_captured(within)]
    return names


def replace_nodes(model: Any, nodes: Sequence[Any]) -> None:
    """Give the graph these nodes; drop the inputs and initializers that none of them reads, and the types between them."""
    graph = model.graph
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    read = {name for node in copied for name in [*node.input, *_captured(node)]} | {value.name for value in graph.output}
    inputs = [value for value in graph.input if value.name in read]
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.input[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copied)
    graph.input.extend(inputs)
    graph.initializer.extend(weights)
