"""The prompt that an entry makes of a conversation.

In: an entry, a call's messages. Out: `ChatPrompt`. This module must never guess at a template that the entry does not have.
"""

from __future__ import annotations

from dataclasses import dataclass

from chat.messages import plain, read_messages
from chat.renderer import Renderer
from opening.entry import EntryUnusable, OpenEntry, inside


@dataclass(frozen=True)
class ChatPrompt:
    """add_special_tokens: pass it to the tokenizer. A model's template has written them itself."""

    text: str
    add_special_tokens: bool


class Chat:
    """One for each entry. An entry from before templates were taken, or whose model has none, gets ours."""

    def __init__(self, entry: OpenEntry) -> None:
        """Raises EntryUnusable for a template that is not there."""
        self._add_special_tokens = bool(entry.detail("add_special_tokens"))
        stated = entry.details.get("chat_template") or {}
        self._renderer: Renderer | None = None
        if file := stated.get("file"):
            try:
                template = inside(entry.folder, file).read_bytes().decode("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise EntryUnusable(f"{file}: expected a readable chat template, found {error}") from error
            self._renderer = Renderer(template, stated["special_tokens"])

    def prompt(self, raw: bytes) -> ChatPrompt:
        """Raises Refused for what is no conversation, or none that the model's template takes. Not for several threads at once."""
        messages = read_messages(raw)
        if self._renderer is None:
            return ChatPrompt(plain(messages), self._add_special_tokens)
        return ChatPrompt(self._renderer.render(messages), add_special_tokens=False)
