"""Which route takes a model to ONNX: chosen here, and said.

In: a loaded model and its task. Out: `Exported`. This module must never fall back without saying so.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from optimum.exporters.tasks import TasksManager

from converters.errors import ConversionFailed, ModelRefused
from converters.export import decoder_route, optimum_route, plain_route, seq2seq_route
from converters.export.graphs import Exported, Graph
from converters.export.recurrences import has_recurrences
from converters.tasks.task import Task


class _Route(NamedTuple):
    """name: as the entry states it. why: one line, when nothing was tried before. run: scratch, into -> graphs."""

    name: str
    why: str
    run: Callable[[Path, Path], Exported | Mapping[str, Graph]]


class Attempts:
    """The routes of one model, one after the other, until the graphs of one are accepted."""

    def __init__(self, model: Any, model_type: str, task: Task, scratch: Path, into: Path) -> None:
        """scratch: a new folder on the same file system as `into`, where the graphs are written."""
        self._scratch, self._into = scratch, into
        self._routes = _routes(model, model_type, task)
        self._failures: list[tuple[str, Exception]] = []

    def export(self) -> Exported:
        """The graphs of the next route that gives any; `why` names those that failed before, and so did a line on stderr.

        Raises what the only route raised, or ConversionFailed with the cause of each.
        """
        while True:
            route = self._routes[len(self._failures)]
            _empty(self._into, self._scratch)
            try:
                exported = route.run(self._scratch, self._into)
            except (ConversionFailed, ModelRefused) as error:
                self.refuse(error)
                continue
            why = exported.why if isinstance(exported, Exported) else route.why
            graphs = exported.graphs if isinstance(exported, Exported) else exported
            failed = "; ".join(_failed(*failure) for failure in self._failures)
            return Exported(route.name, f"{failed}; so {route.name}" if failed else why, graphs)

    def refuse(self, error: Exception) -> None:
        """The graphs that `export` gave last cannot be served, or are not equal: let it try the next route.

        Raises as `export` does when there is none.
        """
        failed = self._routes[len(self._failures)].name
        self._failures.append((failed, error))
        if len(self._failures) < len(self._routes):
            print(f"export: {_failed(failed, error)}; trying {self._routes[len(self._failures)].name}", file=sys.stderr)
        elif len(self._failures) == 1:
            raise error
        else:
            raise ConversionFailed("; ".join(_failed(*failure, length=400) for failure in self._failures)) from error


def _routes(model: Any, model_type: str, task: Task) -> Sequence[_Route]:
    if task.kind == "seq2seq":
        return [_Route(seq2seq_route.ROUTE, seq2seq_route.WHY, functools.partial(seq2seq_route.export, model))]
    routes = []
    known = _optimum_task(model, model_type, task)
    if known is not None:
        why = f"optimum has a configuration for {model_type} with {known.export_task}"
        routes.append(_Route("optimum", why, functools.partial(optimum_route.export, model, known)))
    lacks = f"optimum has no configuration for {model_type} with {task.export_task}"
    if task.kind == "causal":
        routes.append(_Route("optimum, our configuration", lacks, functools.partial(decoder_route.export, model)))
    if has_recurrences(model):
        lacks += ", and the dynamo exporter fixes how many steps a recurrent layer takes"
    else:
        routes.append(_Route("dynamo", lacks, functools.partial(plain_route.export_with_dynamo, model, task)))
    routes.append(_Route("torchscript", lacks, functools.partial(plain_route.export_with_torchscript, model, task)))
    return routes


def _optimum_task(model: Any, model_type: str, task: Task) -> Task | None:
    """The task as optimum can export it; for raw tensors the first of the type's tasks that the model's class is made for."""
    if task.export_task != "auto":
        return task if optimum_route.knows(model_type, task) else None
    try:
        supported = TasksManager.get_supported_tasks_for_model_type(model_type, exporter="onnx", library_name="transformers")
        inferred = TasksManager.infer_task_from_model(model)
    # A type or a class that optimum has never heard of.
    except (KeyError, ValueError):
        return None
    return replace(task, export_task=inferred) if inferred in supported else None


def _empty(*folders: Path) -> None:
    """What a route that failed has left: graphs and weights; a tokenizer that stands in the entry's folder stays."""
    for folder in folders:
        for path in folder.glob("*.onnx*") if folder.is_dir() else ():
            path.unlink()


def _failed(name: str, error: Exception, length: int = 160) -> str:
    text = " ".join(str(error).split())
    return f"{name} failed: {text if len(text) <= length else text[:length] + '...'}"
