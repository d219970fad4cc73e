"""Tasks that say something of single tokens: what each is, or what stands behind a mask.

In: texts. Out: one array per output tensor. This module must never know of Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

import numpy as np
import tokenizers

from opening.entry import OpenEntry
from opening.refusal import Refused
from opening.texts import read_texts
from predict.encode import MAX_ITEMS, prompt_tokens
from predict.entities import STRATEGIES, Entities
from predict.parameters import Parameters
from predict.reading import Reader
from predict.scores import best, softmax
from predict.task import RESULT, Arrays, Task, items_of, results_of

MAX_TOP = 100
MAX_TARGETS = 1000
MAX_MASKS = 256
"""Masks in one call."""
MAX_WRITTEN = 1 << 23
"""Tokens of all filled sequences that a call is told: each mask's each candidate is written into the whole text."""
_DEFAULT_TOP = 5
_MOST_LOGITS = 1 << 26
"""Numbers that one forward pass may give back: 256 MiB. A vocabulary of 250,000 would reach 4 GiB in a full batch."""
_MAX_IGNORED = 1000


class TokenClassification:
    def __init__(self, entry: OpenEntry) -> None:
        self._reader = Reader(entry, [entry.detail("output")], is_per_token=True)
        self._labels = list(entry.detail("labels"))
        self._entities = Entities(entry.tokenizer, self._labels)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        parameters = Parameters(tensors, ("aggregation_strategy", "ignore_labels"))
        strategy = parameters.choice("aggregation_strategy", "simple", STRATEGIES)
        ignored = parameters.texts("ignore_labels", _MAX_IGNORED) if parameters.has("ignore_labels") else ("O",)
        texts = read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS)
        encodings = self._reader.encode(texts, "text_input", until)
        shape = (len(encodings), max(len(encoding.ids) for encoding in encodings))
        scores: np.ndarray
        starts: np.ndarray
        ends: np.ndarray
        scores, starts, ends = (
            np.zeros((*shape, len(self._labels)), np.float32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
        )
        for rows in self._reader.read(encodings, until):
            for row, index in enumerate(rows.indices):
                tokens = rows.outputs[0][row, : rows.mask.shape[1]][rows.mask[row] == 1]
                scores[index, : len(tokens)] = softmax(tokens)
        for index, encoding in enumerate(encodings):
            for place, (start, end) in enumerate(encoding.offsets):
                if not encoding.special_tokens_mask[place]:
                    starts[index, place], ends[index, place] = start, end
        answer: Arrays = {"scores": scores, "start": starts, "end": ends, "prompt_tokens": prompt_tokens(encodings)}
        if RESULT in wanted:
            found = zip(encodings, scores, texts, strict=True)
            answer[RESULT] = results_of(self._entities.of(*item, strategy, ignored) for item in found)
        return answer


class FillMask:
    def __init__(self, entry: OpenEntry) -> None:
        self._tokenizer, self._vocabulary = entry.tokenizer, int(entry.detail("vocabulary"))
        self._mask, self._mask_id = entry.detail("mask_token"), entry.detail("mask_token_id")
        most = max(1, _MOST_LOGITS // self._vocabulary)
        self._reader = Reader(entry, [entry.detail("output")], is_per_token=True, most_tokens=most)

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        parameters = Parameters(tensors, ("targets", "top_k"))
        targets = self._targets(parameters.texts("targets", MAX_TARGETS))
        count = min(parameters.count("top_k", _DEFAULT_TOP, most=MAX_TOP), len(targets) or self._vocabulary)
        texts = read_texts(items_of(tensors, "text_input"), "text_input", most=MAX_ITEMS)
        encodings = self._reader.encode(texts, "text_input", until)
        places = [self._places(encoding, index) for index, encoding in enumerate(encodings)]
        if (masks := sum(map(len, places))) > MAX_MASKS:
            raise Refused("text_input", f"at most {MAX_MASKS} masks in all texts", masks)
        written = count * sum(len(each) * len(encoding.ids) for each, encoding in zip(places, encodings, strict=True))
        if RESULT in wanted and written > MAX_WRITTEN:
            raise Refused("parameters.top_k", f"at most {MAX_WRITTEN} tokens in all filled texts together", written)
        found: list[list[tuple[list[int], list[float]]]] = [[] for _ in encodings]
        for rows in self._reader.read(encodings, until):
            for row, index in enumerate(rows.indices):
                # Only the masks' rows are copied: all of a long text's may be gigabytes.
                chances = softmax(rows.outputs[0][row, np.flatnonzero(rows.mask[row])[places[index]]])
                found[index] = [_likeliest(one, targets, count) for one in chances]
        filled = [(index, *one) for index, item in enumerate(found) for one in item]
        answer: Arrays = {
            "item": np.array([index for index, _, _ in filled], np.int32),
            "scores": np.array([scores for _, _, scores in filled], np.float32),
            "token_ids": np.array([tokens for _, tokens, _ in filled], np.int32),
            "prompt_tokens": prompt_tokens(encodings),
        }
        if RESULT in wanted:
            told = zip(encodings, places, found, strict=True)
            answer[RESULT] = results_of(self._told(*item) for item in told)
        return answer

    def _places(self, encoding: tokenizers.Encoding, index: int) -> list[int]:
        places = [place for place, token in enumerate(encoding.ids) if token == self._mask_id]
        if not places:
            raise Refused("text_input", f"a text with {self._mask} in it", f"none in item {index}")
        return places

    def _targets(self, targets: tuple[str, ...]) -> list[int]:
        """Token ids, each once. Of a target of several tokens transformers takes the first; we do not answer for half a word."""
        ids: list[int] = []
        for index, target in enumerate(targets):
            alone = self._tokenizer.token_to_id(target)
            found = [alone] if alone is not None else self._tokenizer.encode(target, add_special_tokens=False).ids
            if len(found) != 1 or found[0] >= self._vocabulary:
                raise Refused(
                    "parameters.targets", "words that are one token of this model", f"{len(found)} tokens in item {index}"
                )
            ids.append(int(found[0]))
        return list(dict.fromkeys(ids))

    def _told(self, encoding: tokenizers.Encoding, places: list[int], found: list[tuple[list[int], list[float]]]) -> list[Any]:
        """One list for a text with one mask; with several masks one list each, where the other masks stay in the sequence."""
        decode = self._tokenizer.decode
        answers = []
        for place, (tokens, scores) in zip(places, found, strict=True):
            filled = [[*encoding.ids[:place], token, *encoding.ids[place + 1 :]] for token in tokens]
            answers.append(
                [
                    {
                        "score": score,
                        "token": token,
                        "token_str": decode([token], skip_special_tokens=False),
                        "sequence": decode(ids, skip_special_tokens=len(places) == 1),
                    }
                    for token, score, ids in zip(tokens, scores, filled, strict=True)
                ]
            )
        return answers[0] if len(places) == 1 else answers


def _likeliest(chances: np.ndarray, targets: list[int], count: int) -> tuple[list[int], list[float]]:
    if targets:
        order = best(chances[targets], count)
        tokens = [targets[place] for place in order]
    else:
        tokens = best(chances, count)
    return tokens, [float(chances[token]) for token in tokens]


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType(
    {"token-classification": TokenClassification, "fill-mask": FillMask}
)
