"""The task `tensors`: a model whose task has no wrapper of ours is served as its graph stands.

In: nothing. Out: the `Task` row, and inputs and outputs read from an entry's details. This module must never import anything heavy.

`Entry.details`: `model`, `graph_inputs` and `graph_outputs` as in `tasks/generation.py`, and nothing else. Triton's tensors are the
graph's; an axis that varies is -1, and a tensor without axes has one element. FP16 stays what it is.
"""

from __future__ import annotations

from typing import Any

from converters.tasks.task import Task
from converters.tensors import Tensor

DTYPES = frozenset({"BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64"})
"""What the backend can pass on. BF16 is not among them: a Python backend gets no array of it."""

TASKS = (
    Task(
        name="tensors",
        pipeline="tensors",
        kind="raw",
        backend="predict",
        auto_classes=(),  # the class that config.json names, else AutoModel
        export_task="auto",
        architectures=(),
        inputs=(),
    ),
)


def tensors(listed: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    """`graph_inputs` or `graph_outputs` as Triton offers them."""
    return tuple(
        Tensor(
            str(tensor["name"]),
            str(tensor["dtype"]),
            tuple(axis if isinstance(axis, int) and axis > 0 else -1 for axis in tensor["axes"]) or (1,),
        )
        for tensor in listed
    )
