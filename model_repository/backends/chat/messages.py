"""A conversation as a call gives it, and the prompt that we make of one where the model has no template.

In: bytes from outside. Out: messages, or Refused; a text. This module must never change what a message says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from opening.refusal import Refused
from opening.texts import read_text

FIELD = "messages"
MOST_MESSAGES = 2048
_MOST_ROLE = 64
_EXPECTED = "a JSON list of objects with role and content, both texts"

Message = Mapping[str, str]


def read_messages(raw: bytes) -> list[Message]:
    """Raises Refused for anything but a list of messages with a role and a content each."""
    try:
        found = json.loads(read_text(raw, FIELD))
    except (ValueError, RecursionError):
        raise Refused(FIELD, _EXPECTED, "no JSON") from None
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_MESSAGES:
        raise Refused(FIELD, f"{_EXPECTED}, 1 to {MOST_MESSAGES}", f"{len(found)}" if isinstance(found, list) else "no list")
    for number, message in enumerate(found):
        is_right = isinstance(message, dict) and set(message) == {"role", "content"}
        if not is_right or not all(isinstance(value, str) for value in message.values()):
            raise Refused(FIELD, _EXPECTED, f"another thing in item {number}")
        if not (message["role"].isidentifier() and len(message["role"]) <= _MOST_ROLE):
            raise Refused(FIELD, f"a role that is one word of at most {_MOST_ROLE} letters", f"another in item {number}")
    return found


def plain(messages: Sequence[Message]) -> str:
    """Lines of `role: content`, and `assistant:` for the model to go on with."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"
