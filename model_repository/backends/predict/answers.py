"""Where in its context a question is answered.

In: scores of each token as a start and as an end. Out: the best span as text and character offsets. This module must never run a
graph.
"""

from __future__ import annotations

import numpy as np
import tokenizers


def best_span(
    starts: np.ndarray, ends: np.ndarray, encoding: tokenizers.Encoding, context: str, longest: int
) -> tuple[str, float, int, int]:
    """The likeliest answer: its text, its probability, and its place in `context` in characters, end exclusive.

    starts, ends: float32 [tokens], no padding. longest: in tokens. Probabilities are taken over the context's tokens and a special
    token at position 0, which stands for "no answer" and is never given as one. So does transformers' question-answering pipeline,
    which then widens a span to whole words; that is not done here.
    """
    is_context = np.array([sequence == 1 for sequence in encoding.sequence_ids])
    is_counted = is_context.copy()
    is_counted[0] |= encoding.special_tokens_mask[0] == 1  # a tokenizer without special tokens has no such position
    start_chance, end_chance = _chances(starts, is_counted), _chances(ends, is_counted)
    is_allowed = np.tril(np.triu(np.outer(is_context, is_context)), longest - 1)
    spans = np.where(is_allowed, np.outer(start_chance, end_chance), -1.0)
    first, last = np.unravel_index(spans.argmax(), spans.shape)
    start, end = encoding.offsets[first][0], encoding.offsets[last][1]
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return text, float(spans[first, last]), start, start + len(text)


def _chances(scores: np.ndarray, is_counted: np.ndarray) -> np.ndarray:
    raised = np.where(is_counted, np.exp(scores.astype(np.float64) - scores[is_counted].max()), 0.0)
    return raised / raised.sum()
