"""What both APIs say of a generation: its parameters with their ranges, and which models it is for.

In: parsed fields. Out: the generate backend's inputs. This module must never choose a default that differs from the backend's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from control_plane.errors import BadInput
from control_plane.serving.listing import Listing
from control_plane.web.fields import INT64, Kind, Table, flag, listed, number, texts, whole

GENERATION = "text-generation"
EMBEDDING = "feature-extraction"
MOST_STOPS = 4


def sampling(max_new_tokens: int) -> Table:
    """Parameters that are the same in every API. max_new_tokens: the operator's limit for one call."""
    return {
        "max_tokens": whole(f"a whole number from 1 to {max_new_tokens}", 1, max_new_tokens, 16),
        "temperature": number("a number from 0 (always the likeliest token) to 2", 0, 2, 1.0),
        "top_p": number("a number above 0, at most 1", 0, 1, 1.0, is_low_excluded=True),
        "top_k": whole("a whole number from 0 (off)", 0, 2**31 - 1, 0),
        "seed": whole("a whole number that fits into 64 bits", -INT64, INT64 - 1),
        "stop": texts(f"a text, or a list of 1 to {MOST_STOPS} texts", MOST_STOPS),
        "stream": flag("true or false"),
    }


def backend_fields(prompt: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of the generate backend, by tensor name."""
    inputs: dict[str, Any] = {"text_input": prompt}
    for name in ("max_tokens", "temperature", "top_p", "top_k"):
        inputs[name] = fields[name]
    if fields["seed"] is not None:
        inputs["seed"] = fields["seed"]
    if stops := listed(fields["stop"]):
        inputs["stop"] = stops
    return inputs


def must_serve(listing: Listing, task: str, what: str) -> None:
    """Raises BadInput when the model is for another task than `task`."""
    if listing.task != task:
        raise BadInput("model", f"a model for {task}, which {what}", Kind(f"one for {listing.task}"), code="wrong_task")


@contextmanager
def renamed(ours: str, theirs: str) -> Iterator[None]:
    """A refusal by the backend names its tensor; the caller wrote another name."""
    try:
        yield
    except BadInput as error:
        if error.field != ours:
            raise
        raise BadInput(theirs, error.expected, Kind(error.found.strip("'\"")), code=error.code) from error
