"""Prompts for a causal language model as a buyer sends them, with PyTorch's own greedy tokens.

In: the PyTorch model, its tokenizer as transformers loads it, the entry's details. Out: probes. This module must never look at what
ONNX gives, use a cache of keys and values, or give a token that is not certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from converters.parity.arrays import numbers
from converters.parity.prompts import fitting
from converters.parity.texts import positions_of, reference
from converters.probes import Probe, ProbeTensor, texts

GREEDY_TOKENS = 32
_WORDS = (2, 9, 21)
"""Words of each prompt; the exporter traces with 16 tokens and a past of 16."""
_CLEAR = 10
"""A token is certain when the second best logit is more than so many bounds below the best."""
_TRIES = 12
_LONGEST_WORK = 2e12
"""Parameters times tokens of one decoding: some forty seconds on two cores. A larger model is asked for fewer tokens."""
_TRIED_WORK = 3e11
"""The same of all tries after the first: some six seconds."""


@dataclass(frozen=True)
class _Greedy:
    """tokens: those that are certain; the last may be an end token."""

    prompt: str
    length: int
    tokens: tuple[int, ...]


def causal_probes(model: Any, loaded: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
    """One probe for each of three lengths: 32 greedy tokens, or as many as the context holds, a model's end token ends it early.

    Of some prompts the one with most certain tokens is taken. Where not even its first is certain, the probe holds the prompt's
    length and the count of tokens, and no token.
    """
    chances = numpy.random.default_rng(7)
    with torch.inference_mode():
        return tuple(_probe(model, loaded, details, bound, words, chances) for words in _WORDS)


def _probe(model: Any, loaded: Any, details: Mapping[str, Any], bound: float, words: int, chances: numpy.random.Generator) -> Probe:
    context = int(details["context_length"])
    room = max(1, context - GREEDY_TOKENS) if context > GREEDY_TOKENS + 8 else max(1, context // 2)
    best = _decoded(model, loaded, fitting(loaded, chances, words, room), details, bound)
    for _ in range(min(_TRIES, int(_TRIED_WORK / _work(model, best.length, GREEDY_TOKENS)))):
        if len(best.tokens) >= min(_affordable(model, best.length), context - best.length):
            break
        found = _decoded(model, loaded, fitting(loaded, chances, words, room), details, bound)
        best = max(best, found, key=lambda one: len(one.tokens))
    wanted = max(1, len(best.tokens))
    inputs = (
        texts("text_input", [best.prompt]),
        numbers("max_tokens", numpy.array([wanted], numpy.int32)),
        numbers("temperature", numpy.array([0.0], numpy.float32)),
    )
    outputs: list[ProbeTensor] = [numbers("prompt_tokens", numpy.array([best.length], numpy.int32))]
    outputs.append(numbers("completion_tokens", numpy.array([wanted], numpy.int32)))
    if best.tokens:
        outputs.append(numbers("token_ids", numpy.array(best.tokens, numpy.int32)))
    return Probe(inputs, tuple(outputs), bound)


def _decoded(model: Any, loaded: Any, prompt: str, details: Mapping[str, Any], bound: float) -> _Greedy:
    """Greedy tokens one by one, each from the whole sequence read anew, as long as they are certain."""
    ids = [int(token) for token in loaded(prompt, verbose=False)["input_ids"]]
    length, tokens = len(ids), list[int]()
    ends = frozenset(int(end) for end in details["eos_token_ids"])
    for _ in range(max(0, min(_affordable(model, length), int(details["context_length"]) - length))):
        sequence = numpy.array([[*ids, *tokens]], numpy.int64)
        mask = numpy.ones_like(sequence)
        feeds = {"input_ids": sequence, "attention_mask": mask, "position_ids": positions_of(mask)}
        logits = reference(model, feeds, details)["logits"][0, -1].astype(numpy.float64)
        second, first = numpy.partition(logits, -2)[-2:]
        if not first - second > _CLEAR * bound * max(0.1, float(numpy.abs(logits).max())):
            break
        tokens.append(int(logits.argmax()))
        if tokens[-1] in ends:
            break
    return _Greedy(prompt, length, tuple(tokens))


def _affordable(model: Any, length: int) -> int:
    """Steps after a prompt of so many tokens."""
    return max(1, min(GREEDY_TOKENS, int(_LONGEST_WORK / _work(model, length, 1))))


def _work(model: Any, length: int, steps: int) -> float:
    """Each step reads the sequence again."""
    return float(max(1, sum(weight.numel() for weight in model.parameters())) * (length + GREEDY_TOKENS / 2) * steps)
