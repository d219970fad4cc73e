"""The tasks of `predict`, by the name that an entry gives.

In: an opened entry. Out: its `Task`. This module must never know of Triton, or what a task makes of the graph's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opening.entry import EntryUnusable, OpenEntry
from predict import answers, choices, detection, images, maps, raw, sounds, texts, tokens
from predict.task import Task

_OF_TEXTS: Mapping[str, Callable[[OpenEntry], Task]] = {**texts.TASKS, **tokens.TASKS, **answers.TASKS, **choices.TASKS}
_TASKS: Mapping[str, Callable[[OpenEntry], Task]] = {
    **_OF_TEXTS,
    **images.TASKS,
    **detection.TASKS,
    **maps.TASKS,
    **sounds.TASKS,
    **raw.TASKS,
}
"""A module of another modality has such a table too, and imports its libraries when a task of it is opened."""

_TEXTS_AT_ONCE = 16
"""As many short texts fill a pass."""
_OTHERS_AT_ONCE = 2
"""While one is decoded the other is computed; each may hold 600 MB of pixels."""


def task_of(entry: OpenEntry) -> Task:
    """Raises EntryUnusable for a task that is not one of `predict`."""
    if entry.task not in _TASKS:
        raise EntryUnusable(f"entry.json: task for predict must be one of {sorted(_TASKS)}, found {entry.task!r}")
    return _TASKS[entry.task](entry)


def at_once(entry: OpenEntry) -> int:
    """How many calls of an entry may be under way together."""
    return _TEXTS_AT_ONCE if entry.task in _OF_TEXTS else _OTHERS_AT_ONCE
