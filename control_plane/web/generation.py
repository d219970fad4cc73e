"""What both APIs say of a generation: its parameters with their ranges, and which models it is for.

In: parsed fields. Out: the generate backend's inputs. This module must never choose a default that differs from the backend's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from control_plane.errors import BadInput
from control_plane.fields import INT64, Field, Kind, Table, flag, is_text, listed, number, text, texts, whole
from control_plane.serving.listing import Listing
from converters.tasks import TASKS
from converters.tasks.generation import SCORE
from converters.tasks.task import FILES, MESSAGES, Task

TEXT_TO_TEXT = ("text-generation", "text2text-generation")
CHATTING = ("text-generation",)
SCORING = ("text-generation",)
EMBEDDING = ("feature-extraction",)
DRAWING = ("temperature", "top_p", "top_k", "min_p")
"""Parameters of how a token is drawn: one of them asks for drawing."""
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
MOST_STOPS = 4
_OFF = {"min_p": 0, "repetition_penalty": 1, "frequency_penalty": 0, "presence_penalty": 0}
"""What the backend takes where it is told nothing, whatever the entry: see `generate/call.py`."""
_LONGEST_URL = 1 << 27


def is_generating(listing: Listing) -> bool:
    """Whether the model makes tokens one after the other; every other answers in one pass."""
    return TASKS[listing.task].backend == "generate"


def generating_tasks() -> tuple[str, ...]:
    return tuple(task.name for task in TASKS.values() if task.backend == "generate")


def prompt(task: Task) -> Table:
    """What a generation is made from: a text or a conversation, a file, or a text and a file."""
    taken = {tensor.name: tensor for tensor in task.inputs}
    fields: dict[str, Field] = {}
    if "text_input" in taken:
        fields["text_input"] = text("a text that is not empty", is_required=not taken["text_input"].is_optional)
    if task.takes_messages:
        fields[MESSAGES] = text("a conversation instead of text_input: a JSON list of objects with role and content, in a text")
    for name in FILES:
        if name in taken:
            fields[name] = Field(
                "a file: bytes in a binary tensor, or a data URL (data:;base64,...)",
                lambda value: (isinstance(value, bytes) and bool(value)) or is_text(value, _LONGEST_URL),
                {"type": "string", "format": "uri"},
                is_required=True,
            )
    return fields


def asked_for(task: Task, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `prompt` that a call gives. Raises BadInput where it gives both of two that exclude each other, or neither."""
    asked = {name: fields[name] for name in prompt(task) if fields[name] is not None}
    if task.takes_messages and len(asked) != 1:
        raise BadInput(
            "text_input" if not asked else MESSAGES,
            f"either text_input or {MESSAGES}",
            Kind("both" if asked else "neither"),
            code="bad_input" if asked else "missing_parameter",
        )
    return asked


def scoring(task: Task) -> Table:
    """Whether a text is only to be scored, of a model that can."""
    if not any(tensor.name == SCORE for tensor in task.inputs):
        return {}
    return {SCORE: flag("true (generate nothing, but tell how likely the text's own tokens are) or false")}


def sampling(max_new_tokens: int) -> Table:
    """Parameters that are the same in every API, by the names of the backend's inputs; what each means exactly stands in
    `model_repository/backends/generate/sampling.py` and `penalties.py`. max_new_tokens: the operator's limit for one call.
    """
    return {
        "max_tokens": whole(f"a whole number from 1 to {max_new_tokens}", 1, max_new_tokens, 16),
        "temperature": number("a number from 0 (always the likeliest token) to 2", 0, 2, 1.0),
        "top_p": number("a number above 0, at most 1", 0, 1, 1.0, is_low_excluded=True),
        "top_k": whole("a whole number from 0 (off)", 0, 2**31 - 1, 0),
        "min_p": number("a number from 0 (off) to 1", 0, 1, 0.0),
        "repetition_penalty": number("a number from 0.0625 to 16; 1 is off", 0.0625, 16, 1.0),
        "frequency_penalty": number("a number from -2 to 2; 0 is off", -2, 2, 0.0),
        "presence_penalty": number("a number from -2 to 2; 0 is off", -2, 2, 0.0),
        "seed": whole("a whole number that fits into 64 bits", -INT64, INT64 - 1),
        "stop": texts(f"a text, or a list of 1 to {MOST_STOPS} texts", MOST_STOPS),
        "stream": flag("true or false"),
        "logprobs": flag("true (tell the logarithm of each chosen token's probability) or false"),
    }


def backend_fields(asked: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of the generate backend, by tensor name. asked: what `prompt` lists. fields: of `sampling`, and of `scoring`. Null
    is left out, and what is off: it costs a tensor a call. Of a text that is only scored nothing is said of choosing tokens.
    """
    if fields.get(SCORE):
        if "text_input" not in asked:
            raise BadInput(SCORE, "true only with text_input", True)
        return {**asked, SCORE: True}
    given = {**asked, **{name: fields[name] for name in ("max_tokens", *DRAWING, *PENALTIES, "seed")}}
    inputs: dict[str, Any] = {name: value for name, value in given.items() if value is not None and value != _OFF.get(name)}
    if stops := listed(fields["stop"]):
        inputs["stop"] = stops
    if fields["logprobs"]:
        inputs["logprobs"] = True
    return inputs


def must_serve(listing: Listing, tasks: Collection[str], what: str) -> None:
    """Raises BadInput when the model is for none of `tasks`."""
    if listing.task not in tasks:
        expected = f"a model for {' or '.join(tasks)}, which {what}"
        raise BadInput("model", expected, Kind(f"one for {listing.task}"), code="wrong_task")


@contextmanager
def renamed(theirs: Mapping[str, str]) -> Iterator[None]:
    """A refusal by the backend names its tensor; the caller wrote another name. theirs: by tensor."""
    try:
        yield
    except BadInput as error:
        if error.field not in theirs:
            raise
        found = Kind(error.found.strip("'\""))
        raise BadInput(theirs[error.field], error.expected, found, status=error.status, code=error.code) from error
