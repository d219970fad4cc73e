"""The messages of a chat request, as OpenAI's clients write them, for a model's backend.

In: the decoded `messages`. Out: a conversation as JSON, or BadInput naming the place. This module must never drop a part of a
message in silence, or show one in an error.

Source: OpenAI's API reference for chat completions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from control_plane.errors import BadInput
from control_plane.fields import Field, Kind, kind_of, safe_name

MOST_MESSAGES = 2048
"""As the generate backend has it."""
ROLES: Mapping[str, str] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""What a model is told for each. OpenAI's newer models say developer for system; few templates know the word, and one that does not
may leave the message out."""
_ROLES = f"one of {', '.join(ROLES)}"
_CONTENT = "a text, or a list of parts with type text"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_PART: Mapping[str, Any] = {
    "type": "object",
    "required": ["type", "text"],
    "additionalProperties": False,
    "properties": {"type": {"enum": ["text"]}, "text": {"type": "string"}},
}
_MESSAGE: Mapping[str, Any] = {
    "type": "object",
    "required": ["role", "content"],
    "additionalProperties": {"type": "null"},
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {"oneOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]},
    },
}
MESSAGES = Field(
    f"a list of 1 to {MOST_MESSAGES} messages, each with role ({_ROLES}; developer is told to the model as system) and content"
    f" ({_CONTENT})",
    lambda value: isinstance(value, list) and 1 <= len(value) <= MOST_MESSAGES,
    {"type": "array", "items": _MESSAGE, "minItems": 1, "maxItems": MOST_MESSAGES},
    is_required=True,
)


def conversation(messages: list[Any]) -> str:
    """The generate backend's `messages`. Raises BadInput for a message that is not what `MESSAGES` says."""
    return _encode([_message(f"messages[{place}]", message) for place, message in enumerate(messages)])


def _message(where: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise BadInput(where, "an object with role and content", kind_of(message))
    told = {name: value for name, value in message.items() if value is not None}  # answers handed back hold `"tool_calls": null`
    for name in told:
        if name not in ("role", "content"):
            field = f"{where}.{safe_name(name)}" if safe_name(name) == name else where
            raise BadInput(
                field, "role and content, and nothing beside them but null", kind_of(told[name]), code="unknown_parameter"
            )
    role = told.get("role")
    if not isinstance(role, str) or role not in ROLES:
        is_tool = role in ("tool", "function")
        raise BadInput(f"{where}.role", _ROLES, Kind(f"{role}: tools are not supported") if is_tool else kind_of(role))
    return {"role": ROLES[role], "content": _content(f"{where}.content", told.get("content"))}


def _content(where: str, content: Any) -> str:
    if not isinstance(content, list):
        return _text(where, content, _CONTENT)
    if not content:
        raise BadInput(where, _CONTENT, Kind("an empty list"))
    return "".join(_part(f"{where}[{place}]", part) for place, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or set(part) != {"type", "text"}:
        raise BadInput(where, 'a part {"type": "text", "text": ...}; images, sounds and files are not supported', kind_of(part))
    return _text(f"{where}.text", part["text"], "a text")


def _text(where: str, value: Any, expected: str) -> str:
    """An empty one is taken: a model may have answered nothing."""
    if not isinstance(value, str):
        raise BadInput(where, expected, kind_of(value))
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(where, "UTF-8 text", Kind("half of a surrogate pair")) from None
    return value
