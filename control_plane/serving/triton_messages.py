"""What is said to Triton and what it answers, as bytes and values.

In: fields to send, bodies received. Out: bodies to send, `Generated`, or our errors. This module must never open a connection.

Checked against Triton 2.51: an INT32 that is too large is wrapped around, so the ranges are checked here; an unknown key becomes a
request parameter, so it is refused here; a tensor of one element comes back as a bare value.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from control_plane.errors import BadInput, NotFound, PosthumanError, Unavailable
from control_plane.serving.inference import Generated
from converters.tasks.task import FILES, MESSAGES

_CALLERS_FAULTS = (
    "failed to parse the request JSON",
    "Unable to parse",
    "The schema can not convert",
    "unexpected",
    "HTTP end point doesn't support models with decoupled",
)
"""What Triton's 500 and 501 answers say when only the request was wrong."""

_TOO_MUCH = ("prompt_too_long", "max_tokens_too_large")
"""Codes of our backends' refusals of what is well said and more than the model can hold."""

_SERVERS_FAULTS = {
    "the computation failed": "inference_failed",
    "calls are waiting for this model": "queue_full",
    "has waited for this model": "queue_timeout",
    "the model is being unloaded": "inference_failed",
}
"""What our backends say when the request was right, and our code for it; the generate extension sends it with status 400."""


def _whole(bits: int) -> Callable[[object], bool]:
    limit = 1 << (bits - 1)
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and -limit <= value < limit


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


_FIELDS: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "text_input": ("a text", lambda value: isinstance(value, str)),
    "score": ("true or false", lambda value: isinstance(value, bool)),
    "messages": ("a conversation, written as JSON in a text", lambda value: isinstance(value, str)),
    "audio": ("a file", lambda value: isinstance(value, bytes | str)),
    "image": ("a file", lambda value: isinstance(value, bytes | str)),
    "stream": ("true or false", lambda value: isinstance(value, bool)),
    "max_tokens": ("a whole number that fits into 32 bits", _whole(32)),
    "temperature": ("a finite number", _is_number),
    "top_p": ("a finite number", _is_number),
    "top_k": ("a whole number that fits into 32 bits", _whole(32)),
    "min_p": ("a finite number", _is_number),
    "repetition_penalty": ("a finite number", _is_number),
    "frequency_penalty": ("a finite number", _is_number),
    "presence_penalty": ("a finite number", _is_number),
    "logprobs": ("true or false", lambda value: isinstance(value, bool)),
    "seed": ("a whole number that fits into 64 bits", _whole(64)),
    "stop": ("a list of texts", _is_texts),
}
"""The inputs of the `generate` backend, as `converters/tasks/generation.py` has them."""


def generate_body(
    fields: Mapping[str, Any], *, is_streamed: bool, caller: str = "", request_id: str = "", wait_ms: int | None = None
) -> bytes:
    """The JSON for Triton's generate extension. Raises BadInput for a field that is unknown, missing, or not of its type.

    Whether a value is sensible is the backend's to say. Files are given as bytes or as data URLs.
    `stream` is set from `is_streamed`, whatever `fields` says. caller, wait_ms (how long the call may wait; None: any time): go to
    the backend as parameters of the request; so does that it shall send empty answers while there is nothing to say (`is_beat`).
    request_id: names the call in Triton's log; Triton hands it to the backend as the request's own id.
    """
    for name, value in fields.items():
        if name not in _FIELDS:
            raise BadInput(name, f"one of {', '.join(_FIELDS)}", "an unknown field")
        expected, is_right = _FIELDS[name]
        if not is_right(value):
            # A text may be a prompt, which no message may show.
            raise BadInput(name, expected, value if isinstance(value, int | float) else type(value).__name__)
    if not any(name in fields for name in ("text_input", MESSAGES, *FILES)):
        raise BadInput("text_input", "a text", "nothing")
    written = {name: data_url(value) if isinstance(value, bytes) else value for name, value in fields.items()}
    beside = (("id", request_id or None), ("caller", caller or None), ("beats", True), ("wait_ms", wait_ms))
    named = {name: value for name, value in beside if value is not None}
    try:
        return json.dumps({**written, **named, "stream": is_streamed}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput("text_input", "UTF-8 text, in the prompt and in the stop texts", "a lone surrogate") from None


def data_url(file: bytes) -> str:
    """A file as JSON can hold it (RFC 2397); the backends read it back in `opening/files.py`."""
    return "data:;base64," + b64encode(file).decode("ascii")


def is_beat(record: Mapping[str, Any]) -> bool:
    """Whether an event only says that the computation goes on."""
    return record.keys() <= {"id", "model_name", "model_version"}


def generated_from(record: Mapping[str, Any]) -> Generated:
    """One answer of the generate extension. Raises Unavailable when it is not what our backend sends."""
    try:
        made = Generated(
            text=str(record["text_output"]),
            token_ids=_elements(record["token_ids"], int),
            prompt_tokens=int(record["prompt_tokens"]),
            completion_tokens=int(record["completion_tokens"]),
            finish_reason=str(record["finish_reason"]) or None,
            token_logprobs=_elements(record.get("token_logprobs", []), float),
            token_texts=_elements(record.get("token_texts", []), str),
        )
        if {len(made.token_logprobs), len(made.token_texts)} - {len(made.token_ids), 0}:
            raise ValueError("another number of probabilities or texts than of tokens")
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable("the inference server gave an answer that is not one of the generate backend") from error
    return made


def _elements(value: Any, kind: Callable[[Any], Any]) -> tuple[Any, ...]:
    """A tensor's elements: Triton writes a tensor of one as a bare value."""
    return tuple(map(kind, value)) if isinstance(value, list) else (kind(value),)


def json_object(body: bytes) -> Mapping[str, Any]:
    """Raises Unavailable when a body that must be a JSON object is none."""
    try:
        record = json.loads(body)
    except ValueError as error:
        raise Unavailable("the inference server gave an answer that is not JSON") from error
    if not isinstance(record, dict):
        raise Unavailable("the inference server gave an answer that is not a JSON object")
    return record


def error_text(body: bytes) -> str:
    """The message of an error answer; the start of the body when it has no such form."""
    try:
        record = json.loads(body)
    except ValueError:
        record = None
    if isinstance(record, dict) and "error" in record:
        return str(record["error"])
    return body[:200].decode("utf-8", "replace")


def error_from(status: int, text: str, name: str) -> PosthumanError:
    """Our error for one of Triton's. status: of the HTTP answer; 200 where the error came inside a body or an event."""
    if refusal := _refusal_in(text):
        said = (refusal["field"], refusal["expected"], refusal["found"])
        return BadInput(*said, status=422, code=refusal["code"]) if refusal["code"] in _TOO_MUCH else BadInput(*said)
    if status == 403:
        return Unavailable("the inference server does not know the management key we send", code="management_key_refused")
    if "is not healthy" in text:
        return Unavailable(f"{name}: the process that computes it has died: unload and load it", code="backend_crashed")
    if fault := next((fault for fault in _SERVERS_FAULTS if fault in text), None):
        return Unavailable(f"{name}: {text[:200]}", code=_SERVERS_FAULTS[fault])
    if "has no available versions" in text or "is not at ready state" in text:
        return Unavailable(f"{name}: the entry is not loaded")
    if status == 404 or "unknown model" in text:
        return NotFound(f"{name}: the inference server has no such entry")
    if status == 400 or any(fault in text for fault in _CALLERS_FAULTS):
        return BadInput("request", f"what the model takes ({text[:200]})", "something else")
    return Unavailable(f"{name}: the inference server failed with status {status}: {text[:200]}", code="inference_failed")


def management_error_from(status: int, text: str, name: str) -> PosthumanError:
    """Our error where loading, unloading or listing went wrong: no caller's fault, whatever the status says."""
    if status == 403:
        return error_from(status, text, name)
    if "failed to poll from model repository" in text:
        return NotFound(f"{name}: the repository has no such entry")
    return Unavailable(f"{name}: the inference server could not do it: {text[:400]}", code="load_failed")


def _refusal_in(text: str) -> Mapping[str, str] | None:
    """Our backends' JSON, also when Triton has put words around it."""
    start, end = text.find("{"), text.rfind("}")
    try:
        record = json.loads(text[start : end + 1]) if start >= 0 else None
    except ValueError:
        return None
    if not isinstance(record, dict) or not {"field", "expected", "found"} <= set(record):
        return None
    return {key: str(record.get(key, "")) for key in ("field", "expected", "found", "code")}
