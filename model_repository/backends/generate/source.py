"""What a call gives a model to read: a prompt, or a text, an image or a sound for an encoder.

In: tensors from outside. Out: `Given`, or Refused. This module must never cut what it was given, or run a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from chat.messages import FIELD as MESSAGES
from chat.prompt import Chat
from opening.entry import OpenEntry
from opening.images import read_images
from opening.listening import Listener
from opening.looking import Looker
from opening.refusal import Refused
from opening.texts import read_text

SCORE = "score"
"""The input that asks for the probabilities of the text's own tokens, and for no new ones."""
_NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})
_ENCODER = "encoder_inputs"
"""The detail that lists what the encoder's graph takes."""


@dataclass(frozen=True)
class Given:
    """prompt: tokens that the model reads before its first own; without those that an encoder-decoder model always begins with.

    prompt_tokens: of the texts that the caller sent. feeds: the encoder's inputs by name, each with a batch axis of 1.
    room: most tokens that can be made. begun: tokens that the decoder reads before `prompt`, but for a language it detects itself.
    """

    prompt: tuple[int, ...]
    prompt_tokens: int
    feeds: Mapping[str, np.ndarray]
    room: int
    begun: tuple[int, ...] = ()


class Source(Protocol):
    """One for each entry. context: most tokens that any call may ask for."""

    context: int

    def read(self, tensors: Mapping[str, np.ndarray]) -> Given:
        """Raises Refused for what the model cannot read."""


def source_of(entry: OpenEntry) -> Source:
    """What the entry reads, by its task."""
    if entry.task == "text2text-generation":
        return SourceText(entry)
    if entry.task == "image-to-text":
        return SourceImage(entry)
    return SourceSound(entry) if entry.task == "speech-to-text" else Prompt(entry)


class Prompt:
    """A text that the model goes on with, or a conversation that it answers."""

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self.context = entry, int(entry.detail("context_length"))
        self._chat = Chat(entry)

    def read(self, tensors: Mapping[str, np.ndarray]) -> Given:
        most, why = self.context - 1, ", which leaves room for one more in the context"
        if one_of(tensors, SCORE, False):  # nothing comes after it
            most, why = self.context, ", the context of this model"
        if MESSAGES not in tensors:
            prompt = _tokens(_text(tensors), self._entry, most, why)
        elif "text_input" in tensors:
            raise Refused(MESSAGES, "either text_input or messages", "both")
        else:
            made = self._chat.prompt(bytes(one_of(tensors, MESSAGES, b"")))
            prompt = _tokens(made.text, self._entry, most, why, is_special=made.add_special_tokens, field=MESSAGES)
        return Given(prompt, len(prompt), _NOTHING, self.context - len(prompt))


class SourceText:
    """A text for an encoder."""

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._longest = entry, int(entry.detail("context_length"))
        self._has_mask, self._begun = _is_fed(entry, "attention_mask"), _begun(entry)
        self.context = _room(entry)

    def read(self, tensors: Mapping[str, np.ndarray]) -> Given:
        tokens = _tokens(_text(tensors), self._entry, self._longest, "")
        feeds = {"input_ids": np.asarray([tokens], np.int64)}
        if self._has_mask:
            feeds["attention_mask"] = np.ones((1, len(tokens)), np.int64)
        return Given((), len(tokens), feeds, self.context, self._begun)


class SourceImage:
    """An image for an encoder, and a text that the answer begins with."""

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self.context = entry, _room(entry)
        self._looker, self._begun = Looker(entry, _ENCODER), _begun(entry)
        self._replaced = len(entry.detail("start_tokens")) if entry.detail("does_prompt_replace_start") else 0

    def read(self, tensors: Mapping[str, np.ndarray]) -> Given:
        (image,) = read_images([bytes(one_of(tensors, "image", b""))], "image", most=1)
        feeds = self._looker.look(image)
        if "text_input" not in tensors:
            return Given((), 0, feeds, self.context, self._begun)
        prompt = _tokens(
            _text(tensors), self._entry, self.context + self._replaced - 1, ", which leaves room for one more", is_special=False
        )
        begun = () if self._replaced else self._begun
        return Given(prompt, len(prompt), feeds, self.context + self._replaced - len(prompt), begun)


class SourceSound:
    """A sound for an encoder."""

    def __init__(self, entry: OpenEntry) -> None:
        self._listener, self.context, self._begun = Listener(entry, _ENCODER), _room(entry), _begun(entry)

    def read(self, tensors: Mapping[str, np.ndarray]) -> Given:
        (feeds,) = self._listener.hear([bytes(one_of(tensors, "audio", b""))], most=1)
        return Given((), 0, feeds, self.context, self._begun)


def one_of(tensors: Mapping[str, np.ndarray], name: str, absent: Any) -> Any:
    """The one value of a tensor; `absent` when the caller left it out. Raises Refused for more or fewer."""
    if name not in tensors:
        return absent
    values = tensors[name].reshape(-1)
    if len(values) != 1:
        raise Refused(name, "one value", f"{len(values)} values")
    return values[0]


def _text(tensors: Mapping[str, np.ndarray]) -> str:
    return read_text(bytes(one_of(tensors, "text_input", b"")), "text_input")


def _tokens(
    text: str, entry: OpenEntry, most: int, why: str, *, is_special: bool | None = None, field: str = "text_input"
) -> tuple[int, ...]:
    """is_special: add the tokenizer's special tokens; None: as the entry says. field: what a refusal names."""
    with_special = bool(entry.detail("add_special_tokens")) if is_special is None else is_special
    tokens = tuple(entry.tokenizer.encode(text, add_special_tokens=with_special).ids)
    if not tokens:
        raise Refused(field, "a text with at least one token", "0 tokens")
    if len(tokens) > most:
        raise Refused(field, f"at most {most} tokens{why}", f"{len(tokens)} tokens", "prompt_too_long")
    if max(tokens) >= int(entry.detail("vocabulary")):
        raise Refused(field, f"tokens below {entry.detail('vocabulary')}", f"token {max(tokens)}")
    return tokens


def _room(entry: OpenEntry) -> int:
    return int(entry.detail("decoder_length")) - len(entry.detail("start_tokens"))


def _begun(entry: OpenEntry) -> tuple[int, ...]:
    return tuple(token for token in entry.detail("start_tokens") if isinstance(token, int))


def _is_fed(entry: OpenEntry, name: str) -> bool:
    return any(tensor["name"] == name for tensor in entry.detail(_ENCODER))
