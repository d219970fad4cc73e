"""Prompts for a causal language model as a buyer sends them, with PyTorch's own greedy tokens.

In: the PyTorch model, its tokenizer as transformers loads it, the entry's details. Out: probes. This module must never look at what
ONNX gives, or give a token that is not certain, or that the sequence read without a cache does not give.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from converters.chat_template import CONVERSATIONS, ChatTemplate
from converters.parity.arrays import numbers
from converters.parity.compare import scale_of
from converters.parity.prompts import fitting
from converters.parity.texts import positions_of, reference
from converters.probes import Probe, ProbeTensor, texts
from converters.tasks.task import MESSAGES

GREEDY_TOKENS = 32
_WORDS = (2, 9, 21)
"""Words of each prompt; the exporter traces with 16 tokens and a past of 16."""
_CLEAR = 10
"""A token is certain when the second best logit is more than so many bounds below the best."""
_TRIES = 12
_LONGEST_WORK = 2e12
"""Parameters times tokens of one decoding: some forty seconds on two cores. A larger model is asked for fewer tokens, but once."""
_STEP = 30
"""A step with a cache reads every weight for one token, which takes as long as so many tokens at once."""
_TRIED_WORK = 3e11
"""The same of all tries after the first: some six seconds."""


@dataclass(frozen=True)
class _Greedy:
    """prompt: as a call gives it. tokens: those that are certain; the last may be an end token."""

    prompt: ProbeTensor
    length: int
    tokens: tuple[int, ...]


def causal_probes(
    model: Any, loaded: Any, details: Mapping[str, Any], bound: float, template: ChatTemplate | None = None
) -> tuple[Probe, ...]:
    """One probe for each of three lengths: 32 greedy tokens, or as many as the context holds, a model's end token ends it early.

    Of some prompts the one with most certain tokens is taken. Where not even its first is certain, the probe holds the prompt's
    length and the count of tokens, and no token. A conversation is asked too, where the entry has a template that writes every day
    the same, and the context has room for it.
    """
    chances = numpy.random.default_rng(7)
    with torch.inference_mode():
        probes = [_probe(model, loaded, details, bound, words, chances) for words in _WORDS]
        if template is not None and template.text is not None and not template.tells_time:
            probes += _conversation_probes(model, loaded, details, bound)
        return tuple(probes)


def _conversation_probes(model: Any, loaded: Any, details: Mapping[str, Any], bound: float) -> list[Probe]:
    for messages in CONVERSATIONS:
        try:
            ids = loaded.apply_chat_template(messages, add_generation_prompt=True)
        except Exception:  # noqa: S112  # this one it refuses, as a template may
            continue
        if not 0 < len(ids) < int(details["context_length"]) or max(ids) >= int(details["vocabulary"]):
            continue
        prompt = texts(MESSAGES, [json.dumps(messages)])
        return [_asked(_decoded(model, prompt, ids, details, bound, least=1), bound)]
    return []


def _probe(model: Any, loaded: Any, details: Mapping[str, Any], bound: float, words: int, chances: numpy.random.Generator) -> Probe:
    context = int(details["context_length"])
    room = max(1, context - GREEDY_TOKENS) if context > GREEDY_TOKENS + 8 else max(1, context // 2)
    least = GREEDY_TOKENS if words == _WORDS[0] and details["layers"] else 1

    def decoded() -> _Greedy:
        prompt = fitting(loaded, chances, words, room)
        ids = [int(token) for token in loaded(prompt, verbose=False)["input_ids"]]
        return _decoded(model, texts("text_input", [prompt]), ids, details, bound, least)

    best = decoded()
    for _ in range(min(_TRIES, int(_TRIED_WORK / _work(model, details, best.length, GREEDY_TOKENS)))):
        if len(best.tokens) >= min(_affordable(model, details, best.length, least), context - best.length):
            break
        best = max(best, decoded(), key=lambda one: len(one.tokens))
    return _asked(best, bound)


def _asked(best: _Greedy, bound: float) -> Probe:
    wanted = max(1, len(best.tokens))
    inputs = (
        best.prompt,
        numbers("max_tokens", numpy.array([wanted], numpy.int32)),
        numbers("temperature", numpy.array([0.0], numpy.float32)),
    )
    outputs: list[ProbeTensor] = [numbers("prompt_tokens", numpy.array([best.length], numpy.int32))]
    outputs.append(numbers("completion_tokens", numpy.array([wanted], numpy.int32)))
    if best.tokens:
        outputs.append(numbers("token_ids", numpy.array(best.tokens, numpy.int32)))
    return Probe(inputs, tuple(outputs), bound)


def _decoded(model: Any, prompt: ProbeTensor, ids: list[int], details: Mapping[str, Any], bound: float, least: int) -> _Greedy:
    """The greedy tokens after a prompt's, as long as they are certain. least: as many are tried whatever they cost."""
    most = max(0, min(_affordable(model, details, len(ids), least), int(details["context_length"]) - len(ids)))
    ends = frozenset(int(end) for end in details["eos_token_ids"])
    proposed = _proposed(model, ids, most, int(details["pad_token_id"])) if details["layers"] and most > 1 else []
    tokens = _certain_among(model, ids, proposed, details, bound, ends)
    # Nothing was proposed, or what was proposed was not the best: one by one, each from the whole sequence read anew.
    while len(tokens) < most and not (tokens and tokens[-1] in ends) and len(tokens) >= len(proposed):
        token = _certain(_logits(model, [*ids, *tokens], details)[-1], bound)
        if token is None:
            break
        tokens.append(token)
    return _Greedy(prompt, len(ids), tuple(tokens))


def _proposed(model: Any, ids: list[int], most: int, pad: int) -> list[int]:
    """Greedy tokens by transformers' `generate`, which keeps keys and values: quick, and only a proposal.

    None where `generate` cannot run a model; each token is then found by reading the sequence anew.
    """
    prompt = torch.tensor([ids])
    try:
        given = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=1, max_new_tokens=most, pad_token_id=pad
        )
    # Whatever a model's own cache provokes; its tokens are found the slow way, and are the same.
    except Exception:
        return []
    return [int(token) for token in given[0, len(ids) :]]


def _certain_among(
    model: Any, ids: list[int], proposed: list[int], details: Mapping[str, Any], bound: float, ends: frozenset[int]
) -> list[int]:
    """The proposed tokens up to the first that is not PyTorch's certain choice, by one reading of the whole sequence.

    A causal model's logits of a place do not see what stands after it, so each token is the best one after those before it.
    """
    if not proposed:
        return []
    logits = _logits(model, [*ids, *proposed[:-1]], details)[len(ids) - 1 :]
    tokens: list[int] = []
    for step, token in zip(logits, proposed, strict=True):
        if _certain(step, bound) != token:
            break
        tokens.append(token)
        if token in ends:
            break
    return tokens


def _logits(model: Any, sequence: list[int], details: Mapping[str, Any]) -> Any:
    """Of each place: float64 [sequence, vocabulary]."""
    read = numpy.array([sequence], numpy.int64)
    mask = numpy.ones_like(read)
    feeds = {"input_ids": read, "attention_mask": mask, "position_ids": positions_of(mask)}
    return reference(model, feeds, details)["logits"][0].astype(numpy.float64)


def _certain(logits: Any, bound: float) -> int | None:
    """The best token, if the second best is far enough below it."""
    second, first = numpy.partition(logits, -2)[-2:]
    is_clear = first - second > _CLEAR * bound * scale_of(logits)
    return int(logits.argmax()) if is_clear else None


def _affordable(model: Any, details: Mapping[str, Any], length: int, least: int) -> int:
    """Steps after a prompt of so many tokens."""
    affordable = (steps for steps in range(2, GREEDY_TOKENS + 1) if _work(model, details, length, steps) <= _LONGEST_WORK)
    return max(affordable, default=1) if least == 1 else least


def _work(model: Any, details: Mapping[str, Any], length: int, steps: int) -> float:
    """Parameters times tokens read: twice the whole and each step where a cache proposes, else the sequence anew at each step."""
    parameters = max(1, sum(weight.numel() for weight in model.parameters()))
    return float(parameters) * (2 * (length + steps) + _STEP * steps if details["layers"] else (length + steps / 2) * steps)
