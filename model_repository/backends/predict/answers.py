"""The task that finds the answer to a question in a context.

In: questions, and a context for each. Out: answers with their place in characters. This module must never know of Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np
import tokenizers

from opening.entry import OpenEntry
from opening.refusal import Refused
from opening.texts import read_texts
from predict.encode import MAX_ITEMS, prompt_tokens
from predict.parameters import Parameters
from predict.reading import Reader
from predict.scores import best
from predict.task import RESULT, Arrays, Task, items_of, results_of

MAX_TOP = 100
_KEYS = ("align_to_words", "handle_impossible_answer", "max_answer_len", "top_k")


@dataclass(frozen=True)
class Answer:
    """answer: `context[start:end]`. score: its probability. start, end: characters of the context, end exclusive."""

    answer: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Asked:
    """top: answers wanted. longest: tokens of an answer. to_words: widen it to whole words. may_be_none: "" is an answer too."""

    top: int
    longest: int
    to_words: bool
    may_be_none: bool


class QuestionAnswering:
    def __init__(self, entry: OpenEntry) -> None:
        self._reader = Reader(entry, [entry.detail("start_output"), entry.detail("end_output")], is_per_token=True)
        self._context_length = int(entry.detail("context_length"))
        self._max_answer_tokens = int(entry.detail("max_answer_tokens"))

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        asked = self._asked(Parameters(tensors, _KEYS))
        questions = read_texts(items_of(tensors, "question"), "question", most=MAX_ITEMS)
        contexts = read_texts(items_of(tensors, "context"), "context", most=MAX_ITEMS)
        if len(questions) != len(contexts):
            raise Refused("context", f"one context for each of the {len(questions)} questions", f"{len(contexts)} contexts")
        encodings = self._reader.encode(list(zip(questions, contexts, strict=True)), "context", until)
        for index, encoding in enumerate(encodings):
            if 1 not in encoding.sequence_ids:
                raise Refused("context", "a text with at least one token", f"0 tokens in item {index}")
        found: list[list[Answer]] = [[] for _ in encodings]
        for rows in self._reader.read(encodings, until):
            starts, ends = rows.outputs
            for row, index in enumerate(rows.indices):
                tokens = rows.mask[row] == 1
                found[index] = answers_in(starts[row][tokens], ends[row][tokens], encodings[index], contexts[index], asked)
        likeliest = [answers[0] for answers in found]
        answer: Arrays = {
            "answer": np.array([one.answer.encode() for one in likeliest], object),
            "score": np.array([one.score for one in likeliest], np.float32),
            "start": np.array([one.start for one in likeliest], np.int32),
            "end": np.array([one.end for one in likeliest], np.int32),
            "prompt_tokens": prompt_tokens(encodings),
        }
        if RESULT in wanted:
            told = [[asdict(one) for one in answers] for answers in found]
            answer[RESULT] = results_of(answers if asked.top > 1 else answers[0] for answers in told)
        return answer

    def _asked(self, parameters: Parameters) -> Asked:
        return Asked(
            top=parameters.count("top_k", 1, most=MAX_TOP),
            longest=parameters.count(
                "max_answer_len", self._max_answer_tokens, most=max(self._context_length, self._max_answer_tokens)
            ),
            to_words=parameters.flag("align_to_words", True),
            may_be_none=parameters.flag("handle_impossible_answer", False),
        )


def answers_in(starts: np.ndarray, ends: np.ndarray, encoding: tokenizers.Encoding, context: str, asked: Asked) -> list[Answer]:
    """At least one answer, the likeliest first, each text once.

    starts, ends: float32 [tokens], no padding. Probabilities are taken over the context's tokens and a special token at position 0,
    which stands for "no answer". As in transformers' question-answering pipeline, spans that give the same text when they are
    widened to words add up; of more spans than asked are looked at for this, and only for this.
    """
    is_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
    is_counted = is_context.copy()
    is_counted[0] |= encoding.special_tokens_mask[0] == 1  # a tokenizer without special tokens has no such position
    start_chance, end_chance = _chances(starts, is_counted), _chances(ends, is_counted)
    # Only spans that may be an answer are multiplied and sorted: of 512 tokens these are 1 in 35.
    firsts, lasts = np.nonzero(np.tril(np.triu(np.outer(is_context, is_context)), asked.longest - 1))
    chances = start_chance[firsts] * end_chance[lasts]
    looked_at = asked.top * 2 + 10 if asked.to_words else asked.top
    found: dict[str, Answer] = {}
    for place in best(chances, looked_at):
        first, last = int(firsts[place]), int(lasts[place])
        start, end = _characters(encoding, first, last, asked.to_words)
        text, start = _stripped(context[start:end], start)
        one = Answer(text, float(chances[place]), start, start + len(text))
        before = found.get(text.lower())
        found[text.lower()] = one if before is None else replace(before, score=before.score + one.score)
    answers = list(found.values())
    if asked.may_be_none:
        answers.append(Answer("", 0.0 if is_context[0] else float(start_chance[0] * end_chance[0]), 0, 0))
    return sorted(answers, key=lambda one: -one.score)[: asked.top]


def _chances(scores: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
    raised = np.where(is_counted, np.exp(scores.astype(np.float64) - scores[is_counted].max()), 0.0)
    return raised / raised.sum()


def _characters(encoding: tokenizers.Encoding, first: int, last: int, to_words: bool) -> tuple[int, int]:
    if to_words:
        words = encoding.token_to_word(first), encoding.token_to_word(last)
        spans = [None if word is None else encoding.word_to_chars(word, 1) for word in words]
        if spans[0] is not None and spans[1] is not None:  # some tokenizers know no words
            return spans[0][0], spans[1][1]
    return encoding.offsets[first][0], encoding.offsets[last][1]


def _stripped(text: str, start: int) -> tuple[str, int]:
    """Without the spaces that some tokenizers count to a word."""
    return text.strip(), start + len(text) - len(text.lstrip())


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType({"question-answering": QuestionAnswering})
