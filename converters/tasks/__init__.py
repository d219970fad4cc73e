"""The tasks we serve: what each offers in Triton, which backend runs it, and what its entry tells that backend.

In: a task's name, or what a model's config.json says. Out: its `Task`, inputs and outputs. This module must never import anything
heavy: backends and the control plane read it too. What `Entry.details` holds stands at the top of the file that has the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from converters.entry import Entry
from converters.errors import ModelRefused
from converters.tasks import audio, generation, image, raw, text
from converters.tasks.task import Task
from converters.tensors import Tensor

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (*generation.TASKS, *text.TASKS, *image.TASKS, *audio.TASKS, *raw.TASKS)}
)

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "sentence-similarity": "feature-extraction",
        "summarization": "text2text-generation",
        "translation": "text2text-generation",
        "text-to-text": "text2text-generation",
        "semantic-segmentation": "image-segmentation",
        "sentiment-analysis": "text-classification",
        "ner": "token-classification",
        "visual-question-answering": "tensors",
    }
)
"""Other names that the Hugging Face hub uses for what one of our tasks does."""


def task_named(name: str, architectures: tuple[str, ...] = ()) -> Task:
    """The task of that name, of the Hugging Face's name, or an alias. Where several share a name, `architectures` decides.

    Raises ModelRefused for a task we do not serve; the publisher names another.
    """
    name = ALIASES.get(name, name)
    shared = [task for task in TASKS.values() if task.pipeline == name]
    if len(shared) > 1:
        return _matching(shared, architectures) or shared[0]
    if name in TASKS:
        return TASKS[name]
    raise ModelRefused(f"task: expected one of {', '.join(TASKS)}; found {name!r}")


def task_of(architectures: tuple[str, ...], reads: str = "texts") -> Task:
    """The task that a model's `architectures` name; the longest ending wins, so `GPT2LMHeadModel` is not a bare `Model`.

    reads: "texts", "images", "sounds" or "others"; it decides what a bare model, one without a head, is good for, and which
    classifier listens. A head that no task names is served as raw `tensors`. Raises ModelRefused when there are no architectures at
    all.
    """
    if not architectures:
        raise ModelRefused("config.json: expected architectures, found none: name the task yourself")
    found = _matching(list(TASKS.values()), architectures) or TASKS["tensors"]
    if found.name == "text-classification" and reads == "sounds":
        return TASKS["audio-classification"]  # wav2vec2 and its relatives name a classifier of sounds `ForSequenceClassification`
    if found.name != "feature-extraction" or reads == "texts":
        return found
    return TASKS["image-feature-extraction"] if reads == "images" else TASKS["tensors"]


def _matching(tasks: list[Task], architectures: tuple[str, ...]) -> Task | None:
    endings = [
        (len(ending), -index, task)
        for index, task in enumerate(tasks)
        for ending in task.architectures
        if any(architecture.endswith(ending) for architecture in architectures)
    ]
    return max(endings, key=lambda match: match[:2])[2] if endings else None


def inputs_of(task: Task, details: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """What Triton takes for an entry of the task."""
    return raw.tensors(details["graph_inputs"]) if task.kind == "raw" else task.inputs


def outputs_of(task: Task, details: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """What Triton offers for an entry of the task. Axes that `details` do not fix are -1."""
    if task.backend == "generate":
        return generation.GENERATED
    if task.kind == "raw":
        return raw.tensors(details["graph_outputs"])
    return {"text": text, "image": image, "audio": audio}[task.kind].outputs(task.name, dict(details))


def offered_inputs(entry: Entry) -> tuple[Tensor, ...]:
    """What Triton takes for an entry, whenever it was made: an entry from before knows less than its backend, which is ours."""
    known = TASKS.get(entry.task)
    return known.inputs if known is not None and known.backend == entry.backend == "generate" else entry.inputs


def offered_outputs(entry: Entry) -> tuple[Tensor, ...]:
    """What Triton offers for an entry, whenever it was made."""
    return generation.GENERATED if entry.backend == "generate" else entry.outputs
