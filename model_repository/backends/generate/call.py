"""One call to `generate`: what was asked, checked.

In: tensors from outside. Out: a `Call` that can be computed, or Refused. This module must never start computing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from opening.entry import OpenEntry
from opening.refusal import Refused
from opening.texts import read_text

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_TEMPERATURE = 100.0


@dataclass(frozen=True)
class Call:
    """prompt: token ids, at least one, and at least one less than the context. seed: None when the caller left it to us.

    max_tokens: at most what the context has room for after the prompt; a call that asks for more ends there, with reason `length`.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stops: tuple[str, ...]
    is_streamed: bool


def read_call(tensors: Mapping[str, np.ndarray], entry: OpenEntry) -> Call:
    """Raises Refused naming the first field that is not what it should be."""
    defaults, context = entry.detail("defaults"), int(entry.detail("context_length"))
    prompt = _prompt(bytes(_one(tensors, "text_input", b"")), entry, context)
    max_tokens = int(_one(tensors, "max_tokens", defaults["max_tokens"]))
    if not 1 <= max_tokens <= context:
        raise Refused("max_tokens", f"a number from 1 to {context}, the context of this model", max_tokens)
    temperature = float(_one(tensors, "temperature", defaults["temperature"]))
    if not 0.0 <= temperature <= MAX_TEMPERATURE:  # not a number fails too
        raise Refused("temperature", f"a number from 0 to {MAX_TEMPERATURE:g}", temperature)
    top_p = float(_one(tensors, "top_p", defaults["top_p"]))
    if not (0.0 < top_p <= 1.0 and math.isfinite(top_p)):
        raise Refused("top_p", "a number above 0 and at most 1", top_p)
    top_k = int(_one(tensors, "top_k", defaults["top_k"]))
    if top_k < 0:
        raise Refused("top_k", "a number from 0, which means off", top_k)
    return Call(
        prompt=prompt,
        max_tokens=min(max_tokens, context - len(prompt)),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=int(_one(tensors, "seed", 0)) if "seed" in tensors else None,
        stops=_stops(tensors.get("stop")),
        is_streamed=bool(_one(tensors, "stream", False)),
    )


def _one(tensors: Mapping[str, np.ndarray], name: str, absent: Any) -> Any:
    if name not in tensors:
        return absent
    values = tensors[name].reshape(-1)
    if len(values) != 1:
        raise Refused(name, "one value", f"{len(values)} values")
    return values[0]


def _prompt(raw: bytes, entry: OpenEntry, context: int) -> tuple[int, ...]:
    text = read_text(raw, "text_input")
    prompt = tuple(entry.tokenizer.encode(text, add_special_tokens=bool(entry.detail("add_special_tokens"))).ids)
    if not prompt:
        raise Refused("text_input", "a text with at least one token", "0 tokens")
    if len(prompt) >= context:
        raise Refused(
            "text_input", f"at most {context - 1} tokens, which leaves room for one more in the context", f"{len(prompt)} tokens"
        )
    if max(prompt) >= int(entry.detail("vocabulary")):
        raise Refused("text_input", f"tokens below {entry.detail('vocabulary')}", f"token {max(prompt)}")
    return prompt


def _stops(raw: np.ndarray | None) -> tuple[str, ...]:
    if raw is None:
        return ()
    values = [bytes(value) for value in raw.reshape(-1)]
    if len(values) > MAX_STOPS:
        raise Refused("stop", f"at most {MAX_STOPS} texts", f"{len(values)} texts")
    longest = max((len(value) for value in values), default=0)
    if longest > MAX_STOP_BYTES:
        raise Refused("stop", f"at most {MAX_STOP_BYTES} bytes each", f"{longest} bytes")
    return tuple(read_text(value, "stop", f" in item {index}") for index, value in enumerate(values))
