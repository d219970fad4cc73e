"""Evaluate a language model: mean loss and perplexity on texts, or on passages drawn from them.

In: texts, and how to have one scored. Out: the loss of each and of all; of a job's folder, `result.json`. This module must never
hold a weight, or know whom it asks: whoever runs it hands that in, so that a job, a buyer's command and a test compute the same.

What a passage is, and which are drawn, follows from the texts and the seed alone, so that two who have the same texts find the same
loss (`posthuman evaluate` by anybody with an order, the operator's statement by its job):

    passages    lines, of all texts in order, without white space around them, of at least LEAST_LETTERS characters
    drawn       those with the lowest SHA-256 of DRAWN, the seed and the line's number among the passages, lowest first
    taken       of each the first `max_tokens` tokens, and as many as the model reads at once
    loss        minus the mean of the logarithms of their probabilities, over all that have a token before them
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from c2d_adapter.job_io import Folder, JobFailed, rounded

KIND = "evaluate"
LEAST_LETTERS = 200
"""Of WikiText-2's test part two lines in five are shorter: headings, and single sentences, whose loss is mostly chance."""
LETTERS_A_TOKEN = 16
"""A passage is handed over cut to so many characters for each token that is taken: English has four to five."""
DRAWN = b"posthuman/sample/v1\0"
_SHORTER = (3, 4)
"""What is left of a text that the model cannot read at once, each time that it says so."""
_MOST_EXPONENT = 700.0
"""Of a perplexity: e to the 710 is more than a number holds."""


class TooLong(Exception):
    """The model cannot read so many tokens at once. Nothing was computed."""


Score = Callable[[str], Sequence[float]]
"""Logarithms of the probabilities of a text's tokens, from the second. Raises TooLong."""


@dataclass(frozen=True)
class Sample:
    """One text. characters: of it, that were handed over. tokens: that have a probability. loss: their sum's negative, in nats."""

    characters: int
    tokens: int
    loss: float


@dataclass(frozen=True)
class Found:
    """What all samples come to."""

    samples: tuple[Sample, ...]

    @property
    def tokens(self) -> int:
        return sum(sample.tokens for sample in self.samples)

    @property
    def loss(self) -> float:
        """Nats a token, the mean over all tokens."""
        return math.fsum(sample.loss for sample in self.samples) / self.tokens

    @property
    def perplexity(self) -> float:
        return perplexity(self.loss)


def perplexity(loss: float) -> float:
    """loss: nats a token."""
    return math.exp(min(loss, _MOST_EXPONENT))


def passages(texts: Sequence[str]) -> list[str]:
    lines = (line.strip() for text in texts for line in text.splitlines())
    return [line for line in lines if len(line) >= LEAST_LETTERS]


def draw(texts: Sequence[str], samples: int, seed: int) -> list[str]:
    """Raises JobFailed where there are fewer passages than samples."""
    found = passages(texts)
    if len(found) < samples:
        raise JobFailed(
            "dataset_too_small",
            f"{samples} passages were to be drawn, and the data set has {len(found)} lines of {LEAST_LETTERS} characters or more.",
        )
    seeded = DRAWN + seed.to_bytes(8, "big")
    order = sorted(range(len(found)), key=lambda number: hashlib.sha256(seeded + number.to_bytes(8, "big")).digest())
    return [found[number] for number in order[:samples]]


def score_all(texts: Sequence[str], score: Score, max_tokens: int) -> Iterator[Sample]:
    """One after the other. max_tokens: taken of each text; 0: all of them, and one that is too long is refused.

    Raises JobFailed for a text that cannot be scored; its number is told, never its words.
    """
    for number, text in enumerate(texts, start=1):
        handed = text if not max_tokens else cut(text, LETTERS_A_TOKEN * max_tokens)
        while True:
            try:
                logarithms = score(handed)
                break
            except TooLong:
                if not max_tokens or len(handed) < 2:
                    raise JobFailed(
                        "sequence_too_long", f"Text {number} of {len(texts)} has more tokens than the model reads at once."
                    ) from None
                handed = cut(handed, len(handed) * _SHORTER[0] // _SHORTER[1])
        taken = [float(each) for each in logarithms][: max_tokens - 1 if max_tokens else None]
        if not all(map(math.isfinite, taken)):
            raise JobFailed("loss_not_finite", f"The model gives text {number} of {len(texts)} a loss that is no number.")
        yield Sample(len(handed), len(taken), -math.fsum(taken))


def cut(text: str, most: int) -> str:
    """At most so many characters, and whole words where one ends there: a token is not cut in two."""
    if len(text) <= most:
        return text
    kept = text[:most]
    if not text[most].isspace():
        kept = kept[: max((place for place, letter in enumerate(kept) if letter.isspace()), default=most)]
    return kept.rstrip() or text[:most]


def evaluate(
    texts: Sequence[str], score: Score, max_tokens: int, on_sample: Callable[[int, Found], None] = lambda _number, _found: None
) -> Found:
    """on_sample: told how many are done, and what they come to. Raises JobFailed; `dataset_too_small` where no token has one
    before it.
    """
    samples: list[Sample] = []
    for sample in score_all(texts, score, max_tokens):
        samples.append(sample)
        if sum(each.tokens for each in samples):
            on_sample(len(samples), Found(tuple(samples)))
    found = Found(tuple(samples))
    if not found.tokens:
        raise JobFailed("dataset_too_small", "The texts have no token with another before it, which is what a loss is made of.")
    return found


def texts_of(folder: Folder, parameters: dict[str, Any]) -> list[str]:
    """What a job scores, drawn where it is to be. parameters: as `control_plane/jobs/parameters.py` has parsed them."""
    if parameters.get("texts") is not None:
        return [str(text) for text in parameters["texts"]]
    return draw(folder.texts(), int(parameters["samples"]), int(parameters["seed"]))


def work(folder: Folder, score: Score, clock: Callable[[], float] = time.monotonic) -> Found:
    """Do a job: the folder gets its progress. What it found is returned, for its result holds a signature that is not ours to make.

    Raises JobFailed. Again: computes again.
    """
    parameters = folder.parameters(KIND)
    texts, began = texts_of(folder, parameters), clock()

    def told(done: int, found: Found) -> None:
        folder.write_progress(done, len(texts), found.loss, done / max(clock() - began, 1e-3))

    return evaluate(texts, score, int(parameters["max_tokens"]), told)


def result_of(found: Found, statement: str) -> dict[str, str | int | float | bool]:
    """A job's `result.json`. statement: the operator's, signed, as JSON."""
    return {
        "loss": rounded(found.loss),
        "perplexity": round(found.perplexity, 2),
        "tokens": found.tokens,
        "samples": len(found.samples),
        "statement": statement,
    }
