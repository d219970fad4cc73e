"""One task as a value: what its entries offer in Triton, which backend runs them, and how a model of it is loaded.

In: nothing. Out: `Task`. This module must never import anything heavy: backends and the control plane read it too.
"""

from __future__ import annotations

from dataclasses import dataclass

from converters.tensors import Tensor

PARAMETERS = Tensor("parameters", "BYTES", (1,), is_optional=True)
"""Optional input of every `predict` task: a JSON object, the `parameters` of the Hugging Face inference API for that task.
A key the task does not have is refused by name."""

RESULT = Tensor("result", "BYTES", (-1,))
"""Output of every `predict` task but `tensors`: one JSON text an item, as the Hugging Face inference API answers for that item."""

FILES = ("audio", "image")
"""Inputs that hold a file: bytes in a binary tensor, a data URL in JSON."""

MESSAGES = "messages"
"""Input that holds a conversation, instead of `text_input`: a JSON list of objects with `role` and `content`, both texts."""

_TEXTS = frozenset({"text_input", "candidate_labels", "question", "context", "choices"})


@dataclass(frozen=True)
class Task:
    """One row of the table.

    name: ours, unique. pipeline: the Hugging Face name of the task (`pipeline_tag`); several rows may share one.
    kind: who prepares, describes and checks such models in `converters/kinds`: text, image, audio, causal, seq2seq or raw.
    backend: the Triton backend that runs it, also the name of its folder in `model_repository/backends`.
    auto_classes: the transformers classes that can load the PyTorch model, the first that knows the type is taken.
    export_task: the exporter's name of the task; with the key-value cache for generation.
    architectures: endings of the class names in a model's `config.json` that mean this task.
    inputs: what Triton takes; `tensors` takes what its graph takes.
    """

    name: str
    pipeline: str
    kind: str
    backend: str
    auto_classes: tuple[str, ...]
    export_task: str
    architectures: tuple[str, ...]
    inputs: tuple[Tensor, ...]

    @property
    def takes_messages(self) -> bool:
        """May a call give a conversation instead of a text?"""
        return any(tensor.name == MESSAGES for tensor in self.inputs)

    @property
    def main(self) -> tuple[Tensor, ...]:
        """What a call is made of: all that it must give, and the text that a conversation may stand in for."""
        return tuple(
            tensor for tensor in self.inputs if not tensor.is_optional or (tensor.name == "text_input" and self.takes_messages)
        )

    @property
    def reads_text(self) -> bool:
        """Must a caller give a text, so that the model needs a tokenizer?"""
        return any(tensor.name in _TEXTS for tensor in self.main)
