"""From a label for each token to the entities in a text.

In: an encoded text and the labels' probabilities. Out: what the Hugging Face inference API answers for token classification.
This module must never run a graph.

Source of the rules: transformers' token-classification pipeline; labels may begin with B- or I- (Ramshaw and Marcus, 1995).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tokenizers

STRATEGIES = ("none", "simple", "first", "average", "max")
"""none: each token alone. simple: neighbours of one label together. The others first agree on one label for each word: that of its
first token, of its tokens' mean, or of its surest token."""


@dataclass(frozen=True)
class _Part:
    """A token, or a word of several. scores: float32 [labels]. start, end: in characters, end exclusive."""

    text: tuple[str, ...]
    scores: np.ndarray
    start: int
    end: int
    index: int
    continues: bool


class Entities:
    """A tokenizer and the labels of a model."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, labels: Sequence[str]) -> None:
        self._tokenizer, self._labels = tokenizer, labels
        self._knows_words = bool(getattr(tokenizer.model, "continuing_subword_prefix", None))
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown = None if unknown is None else tokenizer.token_to_id(unknown)

    def of(
        self, encoding: tokenizers.Encoding, scores: np.ndarray, text: str, strategy: str, ignored: Sequence[str]
    ) -> list[dict[str, Any]]:
        """scores: float32 [tokens or more, labels], probabilities. Entities in their order, those of `ignored` labels left out."""
        parts = self._parts(encoding, scores, text)
        if strategy == "none":
            found = [self._alone(part) for part in parts]
            return [entity for entity in found if entity["entity"] not in ignored]
        if strategy != "simple":
            parts = _words(parts, strategy)
        return [entity for entity in self._groups(parts) if entity["entity_group"] not in ignored]

    def _parts(self, encoding: tokenizers.Encoding, scores: np.ndarray, text: str) -> list[_Part]:
        parts = []
        for place, token in enumerate(encoding.ids):
            if encoding.special_tokens_mask[place]:
                continue
            start, end = encoding.offsets[place]
            word, written = encoding.tokens[place], text[start:end]
            if token == self._unknown:
                word, continues = written, False
            elif self._knows_words:
                continues = len(word) != len(written)
            else:
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            parts.append(_Part((word,), scores[place], start, end, place, continues))
        return parts

    def _alone(self, part: _Part) -> dict[str, Any]:
        label = int(part.scores.argmax())
        return {
            "entity": self._labels[label],
            "score": float(part.scores[label]),
            "index": part.index,
            "word": part.text[0],
            "start": part.start,
            "end": part.end,
        }

    def _groups(self, parts: Sequence[_Part]) -> list[dict[str, Any]]:
        """Neighbours of one label are one entity, unless the second says that it begins one."""
        groups: list[tuple[str, list[_Part]]] = []
        for part in parts:
            begins, tag = _tag(self._labels[int(part.scores.argmax())])
            if groups and groups[-1][0] == tag and not begins:
                groups[-1][1].append(part)
            else:
                groups.append((tag, [part]))
        return [
            {
                "entity_group": tag,
                "score": float(np.mean([part.scores.max() for part in group])),
                "word": self._joined([word for part in group for word in part.text]),
                "start": group[0].start,
                "end": group[-1].end,
            }
            for tag, group in groups
        ]

    def _joined(self, words: list[str]) -> str:
        decoder = self._tokenizer.decoder
        return str(decoder.decode(words)) if decoder is not None else " ".join(words)


def _words(parts: Sequence[_Part], strategy: str) -> list[_Part]:
    groups: list[list[_Part]] = []
    for part in parts:
        if groups and part.continues:
            groups[-1].append(part)
        else:
            groups.append([part])
    return [_word(group, strategy) for group in groups]


def _word(group: list[_Part], strategy: str) -> _Part:
    if strategy == "average":
        scores = np.mean([part.scores for part in group], axis=0)
    else:
        scores = (group[0] if strategy == "first" else max(group, key=lambda part: float(part.scores.max()))).scores
    text = tuple(word for part in group for word in part.text)
    return _Part(text, scores, group[0].start, group[-1].end, group[0].index, False)


def _tag(label: str) -> tuple[bool, str]:
    """Does the label say that an entity begins here, and of which kind?"""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
