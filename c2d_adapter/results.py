"""A job's result, as its program left it: read once, and let through only in its kind's fixed form.

In: a job's folder. Out: plain values by name. This module must never let through a name or a type that is not on the list: what is
in the folder was written beside a private model.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from c2d_adapter.faults import GOOD_FOR_ANOTHER, JobOver
from control_plane.jobs.job import MOST_RESULT_BYTES, Reason
from control_plane.jobs.states import Kind, State

Value = str | int | float | bool

FIELDS: Mapping[Kind, Mapping[str, type]] = {
    Kind.TRAIN: {
        "objective": str,
        "steps": int,
        "first_loss": float,
        "last_loss": float,
        "tokens": int,
        "rounds_over_texts": float,
        "seconds": float,
        "steps_per_second": float,
        "parameters": int,
        "trained_parameters": int,
        "workers": int,
    },
    Kind.EVALUATE: {"loss": float, "perplexity": float, "tokens": int, "samples": int, "statement": str},
    Kind.INFER: {"answers": str, "prompt_tokens": int, "tokens": int},
}
"""What each kind's program writes, in `c2d_adapter/algorithms`."""


def read_result(folder: Path, kind: Kind) -> dict[str, Value]:
    """Raises JobOver for a result that is too long (`result_too_long`), or is none of this kind's."""
    try:
        descriptor = os.open(folder / "result.json", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise _none("left no result") from error
    with os.fdopen(descriptor, "rb") as stream:
        content = stream.read(MOST_RESULT_BYTES + 1)
    if len(content) > MOST_RESULT_BYTES:
        why = f"the result is longer than {MOST_RESULT_BYTES >> 10} KiB: ask for less; {GOOD_FOR_ANOTHER}"
        raise JobOver(State.FAILED, Reason("result_too_long", why))
    try:
        found = json.loads(content)
    except ValueError as error:
        raise _none("left a result that cannot be read") from error
    fields = FIELDS[kind]
    if not isinstance(found, dict) or set(found) != set(fields) or not all(_is(found[name], fields[name]) for name in fields):
        raise _none(f"left a result that is none of the kind {kind.value!r}")
    return found


def _is(value: object, expected: type) -> bool:
    if expected is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # just looked at
    return type(value) is expected


def _none(what: str) -> JobOver:
    return JobOver(State.FAILED, Reason("internal", f"the program {what}; {GOOD_FOR_ANOTHER}"))
