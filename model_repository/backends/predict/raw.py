"""The task `tensors`: the graph as it stands.

In: the graph's inputs. Out: the graph's outputs that were asked for. This module must never know of Triton, or what a tensor means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType

import numpy as np
import onnxruntime

from opening.entry import OpenEntry
from opening.feeds import DTYPES, check_dtype
from opening.refusal import Refused
from predict.task import Arrays, Task

MAX_ELEMENTS = 1 << 26
"""Of one input."""


class Tensors:
    def __init__(self, entry: OpenEntry) -> None:
        """Raises EntryUnusable for a dtype that numpy lacks, such as BF16."""
        self._entry = entry
        self._inputs = {str(tensor["name"]): tensor for tensor in entry.detail("graph_inputs")}
        self._outputs = [str(tensor["name"]) for tensor in entry.detail("graph_outputs")]
        for tensor in (*entry.detail("graph_inputs"), *entry.detail("graph_outputs")):
            check_dtype(tensor)
        entry.graph_input_names(frozenset(self._inputs))

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        lengths: dict[str, tuple[str, int]] = {}
        feeds = {name: self._fed(name, tensors, lengths) for name in self._inputs}
        names = [name for name in self._outputs if name in wanted]
        try:
            given = self._entry.session.run(names, feeds)
        # ONNX Runtime's errors have no class in common. An index beyond a table, or lengths that do not fit.
        except Exception as error:
            if _is_the_callers(error):
                shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
                raise Refused("inputs", "lengths and values that this graph can compute with", shapes) from error
            raise
        # A scalar gets one axis: Triton offers no tensor without axes.
        return {name: np.ascontiguousarray(value) for name, value in zip(names, given, strict=True)}

    def _fed(self, name: str, tensors: Mapping[str, np.ndarray], lengths: dict[str, tuple[str, int]]) -> np.ndarray:
        """One input, checked. lengths: of the axes named so far, since axes of one name are of one length."""
        described = self._inputs[name]
        if name not in tensors:
            raise Refused(name, f"a tensor of {described['dtype']} {described['axes']}", "none")
        value = tensors[name]
        if value.dtype != DTYPES[described["dtype"]]:
            raise Refused(name, f"a tensor of {described['dtype']}", value.dtype.name)
        axes = described["axes"]
        if not axes:
            value = value.reshape(()) if value.size == 1 else value
        if value.ndim != len(axes) or not 1 <= value.size <= MAX_ELEMENTS:
            raise Refused(name, f"{len(axes)} axes and 1 to {MAX_ELEMENTS} elements", list(value.shape))
        for axis, length in zip(axes, value.shape, strict=True):
            if isinstance(axis, int) and axis > 0 and axis != length:
                raise Refused(name, f"axes {axes}", list(value.shape))
            if isinstance(axis, str) and axis:
                first, wanted = lengths.setdefault(axis, (name, length))
                if wanted != length:
                    raise Refused(name, f"{axis} of {wanted}, as {first} has", length)
        return value


def _is_the_callers(error: Exception) -> bool:
    kinds = onnxruntime.capi.onnxruntime_pybind11_state
    return isinstance(error, kinds.InvalidArgument | kinds.RuntimeException)


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType({"tensors": Tensors})
