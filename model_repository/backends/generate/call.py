"""One call to `generate`: what was asked, checked.

In: tensors from outside. Out: a `Call` that can be computed, or Refused. This module must never start computing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chat.messages import FIELD as MESSAGES
from generate.source import SCORE, Prompt, Source, one_of
from opening.entry import OpenEntry
from opening.refusal import Refused
from opening.texts import read_text

MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_TEMPERATURE = 100.0
LEAST_REPETITION, MOST_REPETITION = 0.0625, 16.0
MOST_PENALTY = 2.0
_LATE = ("min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logprobs", SCORE)
"""Inputs that came after the first release: a model that was loaded as it was then knows no such tensors."""


@dataclass(frozen=True)
class Call:
    """prompt, prompt_tokens, feeds, begun: as `Given` has them. seed: None when the caller left it to us.

    max_tokens: at most what the context has room for after the prompt; a call that asks for more ends there, with reason `length`.
    temperature to min_p: see `sampling.py`. The penalties: see `penalties.py`. has_logprobs: tell each token's logarithm of its
    probability, which changes no token. is_scored: choose no token, but tell how likely those of `prompt` are; see `scoring.py`.
    """

    prompt: tuple[int, ...]
    prompt_tokens: int
    feeds: Mapping[str, np.ndarray]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stops: tuple[str, ...]
    is_streamed: bool
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    has_logprobs: bool = False
    begun: tuple[int, ...] = ()
    is_scored: bool = False


def read_call(tensors: Mapping[str, np.ndarray], entry: OpenEntry, source: Source | None = None) -> Call:
    """source: what the entry reads, a prompt when left out. Raises Refused naming the first field that is not what it should be."""
    source = source or Prompt(entry)
    defaults, context = entry.detail("defaults"), source.context
    is_scored = bool(one_of(tensors, SCORE, False))
    if is_scored and (entry.task != "text-generation" or MESSAGES in tensors):
        found = entry.task if entry.task != "text-generation" else MESSAGES
        raise Refused(SCORE, "a text_input, of a model that goes on with a text", found)
    given = source.read(tensors)
    max_tokens = int(one_of(tensors, "max_tokens", min(int(defaults["max_tokens"]), context)))
    if not 1 <= max_tokens <= context:
        code = "max_tokens_too_large" if max_tokens > context else ""
        raise Refused("max_tokens", f"a number from 1 to {context}, the context of this model", max_tokens, code)
    temperature = float(one_of(tensors, "temperature", defaults["temperature"]))
    if not 0.0 <= temperature <= MAX_TEMPERATURE:  # not a number fails too
        raise Refused("temperature", f"a number from 0 to {MAX_TEMPERATURE:g}", temperature)
    top_p = float(one_of(tensors, "top_p", defaults["top_p"]))
    if not (0.0 < top_p <= 1.0 and math.isfinite(top_p)):
        raise Refused("top_p", "a number above 0 and at most 1", top_p)
    top_k = int(one_of(tensors, "top_k", defaults["top_k"]))
    if top_k < 0:
        raise Refused("top_k", "a number from 0, which means off", top_k)
    min_p = float(one_of(tensors, "min_p", 0.0))
    if not 0.0 <= min_p <= 1.0:
        raise Refused("min_p", "a number from 0, which means off, to 1", min_p)
    repetition = float(one_of(tensors, "repetition_penalty", 1.0))
    if not LEAST_REPETITION <= repetition <= MOST_REPETITION:
        raise Refused("repetition_penalty", f"a number from {LEAST_REPETITION:g} to {MOST_REPETITION:g}; 1 means off", repetition)
    frequency, presence = (float(one_of(tensors, name, 0.0)) for name in ("frequency_penalty", "presence_penalty"))
    for name, value in (("frequency_penalty", frequency), ("presence_penalty", presence)):
        if not -MOST_PENALTY <= value <= MOST_PENALTY:
            raise Refused(name, f"a number from {-MOST_PENALTY:g} to {MOST_PENALTY:g}; 0 means off", value)
    return Call(
        prompt=given.prompt,
        prompt_tokens=given.prompt_tokens,
        feeds=given.feeds,
        max_tokens=0 if is_scored else min(max_tokens, given.room),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=int(one_of(tensors, "seed", 0)) if "seed" in tensors else None,
        stops=_stops(tensors.get("stop")),
        is_streamed=bool(one_of(tensors, "stream", False)),
        min_p=min_p,
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
        has_logprobs=is_scored or bool(one_of(tensors, "logprobs", False)),
        begun=given.begun,
        is_scored=is_scored,
    )


@dataclass(frozen=True)
class Parameters:
    """What a request says beside its tensors. caller: who asks, "" where it does not say. most_wait_s: how long the
    call may wait before it is computed.

    has_beats: send an empty answer now and then before the first one, and between two; only `generate_stream` can carry them.
    """

    caller: str = ""
    has_beats: bool = False
    most_wait_s: float = math.inf


def read_parameters(text: str) -> Parameters:
    """text: as Triton gives them: a JSON object, or nothing.

    Raises Refused for an input of ours among them: Triton read a config.pbtxt from before there was one.
    """
    given = json.loads(text) if text else {}
    if not isinstance(given, dict):
        return Parameters()
    for name in _LATE:
        if name in given:  # Triton makes a parameter of what it does not know, and nobody would look at it
            raise Refused(name, "no such input before this model is loaded anew, by its operator", "one")
    wait_ms = given.get("wait_ms")
    most_wait_s = wait_ms / 1000 if isinstance(wait_ms, int) and wait_ms >= 0 else math.inf
    return Parameters(str(given.get("caller", "")), given.get("beats") is True, most_wait_s)


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
