"""The kinds of models, by what must be prepared, described and compared.

In: a task and a staged source. Out: its `Kind`. This module must never decide which task a model has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from converters.errors import ModelRefused
from converters.kinds.audio import Audio
from converters.kinds.causal import Causal
from converters.kinds.image import Image
from converters.kinds.kind import Kind
from converters.kinds.raw import Raw
from converters.kinds.seq2seq import Seq2Seq
from converters.kinds.text import Text
from converters.source import Source
from converters.tasks.task import Task

_KINDS: Mapping[str, Callable[[Source, Task, Path], Kind]] = {
    "causal": Causal,
    "text": Text,
    "image": Image,
    "audio": Audio,
    "raw": Raw,
    "seq2seq": Seq2Seq,
}


def open_kind(source: Source, task: Task, folder: Path) -> Kind:
    """Read what the model has beside its weights, and write the backend's part of it into `folder/1`.

    Raises ModelRefused when the source lacks what the task needs, such as a tokenizer.
    """
    if task.kind not in _KINDS:
        raise ModelRefused(f"task: {task.name} is not served yet")
    return _KINDS[task.kind](source, task, folder)
