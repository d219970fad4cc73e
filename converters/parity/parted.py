"""A graph run in parts, one after the other, for a model whose float32 weights do not fit into memory at once.

In: the graph's file and arrays. Out: its outputs by name, or ParityFailed. This module must never change what a node computes.

ONNX Runtime's CPU provider computes fp16 in float32, and widens every weight of a session before the first node runs, or keeps
it so: 4 bytes a parameter, where the file has 2. Cut into parts of so many parameters, only one part's weights are wide at a time;
narrow ones are the mapped file. It rounds after every node, as a GPU does, since nothing is fused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime

from converters.errors import ParityFailed

PART_PARAMETERS = 1 << 28
"""1 GiB of float32; a larger single tensor is a part of its own."""


@dataclass(frozen=True)
class _Part:
    """nodes: of the graph, in its order. needs, gives: names of tensors that pass between parts."""

    nodes: tuple[Any, ...]
    needs: tuple[str, ...]
    gives: tuple[str, ...]


class PartedSession:
    """Stands for `Session` where memory is short: the same `run`. Sessions of parts stay open; their weights are mapped."""

    def __init__(self, path: Path, part_parameters: int = PART_PARAMETERS) -> None:
        self._model = onnx.load(str(path), load_external_data=False)
        self._folder = path.parent
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._inputs = {value.name for value in self._model.graph.input}
        self._outputs = [value.name for value in self._model.graph.output]
        self._parts = _cut(self._model.graph, self._weights, part_parameters)
        self._sessions: dict[tuple[int, tuple[str, ...]], Any] = {}

    @property
    def parts(self) -> int:
        return len(self._parts)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: value for name, value in feeds.items() if name in self._inputs}
        for number, part in enumerate(self._parts):
            given = {name: known[name] for name in part.needs}
            try:
                found = self._session(number, given).run(list(part.gives), given)
            # ONNX Runtime's errors have no class in common.
            except Exception as error:
                raise ParityFailed(f"ONNX Runtime cannot run part {number} of the graph: {error}") from error
            known |= dict(zip(part.gives, found, strict=True))
            later = {name for after in self._parts[number + 1 :] for name in after.needs} | set(self._outputs)
            known = {name: value for name, value in known.items() if name in later}
        return {name: known[name] for name in self._outputs}

    def _session(self, number: int, given: Mapping[str, Any]) -> Any:
        kinds = tuple(str(value.dtype) for value in given.values())
        if (number, kinds) not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.enable_cpu_mem_arena = False  # it would keep the widened weights for the next run
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(self._folder))
            made = self._part_model(self._parts[number], given)
            self._sessions[number, kinds] = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
        return self._sessions[number, kinds]

    def _part_model(self, part: _Part, given: Mapping[str, Any]) -> bytes:
        used = {name for node in part.nodes for name in _names_within(node)}
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(numpy.asarray(value).dtype), None)
            for name, value in given.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in part.gives]
        weights = [tensor for name, tensor in self._weights.items() if name in used]
        graph = onnx.helper.make_graph(list(part.nodes), "part", inputs, outputs, initializer=weights)
        made = onnx.helper.make_model(graph, opset_imports=list(self._model.opset_import), ir_version=self._model.ir_version)
        return bytes(made.SerializeToString())


def _cut(graph: Any, weights: Mapping[str, Any], most: int) -> tuple[_Part, ...]:
    """The nodes in their order, which is topological, cut wherever the next weight would be too much."""
    groups: list[list[Any]] = [[]]
    held: set[str] = set()
    for node in graph.node:
        new = {name for name in _names_within(node) if name in weights} - held
        if held and sum(math.prod(weights[name].dims) for name in held | new) > most:
            groups.append([])
            held = set()
            new = {name for name in _names_within(node) if name in weights}
        groups[-1].append(node)
        held |= new
    makers = {name: number for number, group in enumerate(groups) for node in group for name in node.output}
    needed = [
        {name for node in group for name in _names_within(node) if name and name not in weights and makers.get(name) != number}
        for number, group in enumerate(groups)
    ]
    last = {value.name for value in graph.output}
    return tuple(
        _Part(
            tuple(group),
            tuple(sorted(needed[number] & (makers.keys() | {value.name for value in graph.input}))),
            tuple(sorted({name for node in group for name in node.output} & (last.union(*needed[number + 1 :])))),
        )
        for number, group in enumerate(groups)
    )


def _names_within(node: Any) -> set[str]:
    """Names a node uses, those of its branches included."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for nested in inner.node:
                names |= _names_within(nested)
            names |= {value.name for value in inner.output}
    return names
