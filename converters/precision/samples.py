"""What a model is asked to measure its quality: the fixed text, seeded images and seeded sounds, as the graph takes them.

In: an entry's details and its tokenizer or processor. Out: feeds, one sample each, unpadded. This module must never draw a number
that is not seeded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import tokenizers
import transformers
from PIL import Image

from converters.precision.passage import PARAGRAPHS, PASSAGE, SENTENCES
from converters.tasks.task import Task

WINDOW = 256
"""Tokens read in one go when a text's loss is measured, or as many as the context holds."""
IMAGES = 16
SOUNDS = 8
_TRANSLATED = 12
"""Inputs of an encoder-decoder model: each makes several tokens."""
_CANDIDATES = SENTENCES[:4]


@dataclass(frozen=True)
class Sample:
    """feeds: what the graph takes. rows: which rows of the output count, along the axis after the batch; all when it is None."""

    feeds: Mapping[str, Any]
    rows: Any = None


class Words:
    """An entry's tokenizer, as its backend uses it."""

    def __init__(self, details: Mapping[str, Any], folder: Path) -> None:
        self._details = details
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / details["tokenizer"]))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, pair: str | None = None) -> tuple[list[int], list[int]]:
        """Token ids and type ids, cut to the context; ids that the model does not have are left out."""
        encoded = self._tokenizer.encode(text, pair, add_special_tokens=bool(self._details["add_special_tokens"]))
        kept = [
            (token, kind)
            for token, kind in zip(encoded.ids, encoded.type_ids, strict=True)
            if token < int(self._details["vocabulary"])
        ][: int(self._details["context_length"])]
        return [token for token, _ in kept], [kind for _, kind in kept]

    def feeds(self, text: str, pair: str | None = None) -> dict[str, Any]:
        ids, kinds = self.encode(text, pair)
        return feeds_of([ids], [kinds])

    def padded(self, texts: Sequence[str]) -> dict[str, Any]:
        """A batch, to the length the model wants or to its longest."""
        rows = [self.encode(text)[0] for text in texts]
        longest = int(self._details.get("text_length", 0)) or max(map(len, rows))
        pad = int(self._details["pad_token_id"])
        ids = numpy.array([[*row[:longest], *[pad] * (longest - len(row))] for row in rows], numpy.int64)
        mask = numpy.array([[1] * len(row[:longest]) + [0] * (longest - len(row)) for row in rows], numpy.int64)
        return {"input_ids": ids, "attention_mask": mask}


def feeds_of(ids: list[list[int]], kinds: list[list[int]] | None = None) -> dict[str, Any]:
    """Rows of one length, without padding."""
    tokens: Any = numpy.array(ids, numpy.int64)
    return {
        "input_ids": tokens,
        "attention_mask": numpy.ones_like(tokens),
        "token_type_ids": numpy.zeros_like(tokens) if kinds is None else numpy.array(kinds, numpy.int64),
        "position_ids": numpy.broadcast_to(numpy.arange(tokens.shape[1]), tokens.shape).copy(),
    }


def windows(details: Mapping[str, Any], folder: Path) -> list[list[int]]:
    """The fixed text in pieces that the context holds, none shorter than two tokens."""
    words = Words({**details, "context_length": 1 << 30}, folder)
    ids, length = words.encode(PASSAGE)[0], min(WINDOW, int(details["context_length"]))
    pieces = [ids[start : start + length] for start in range(0, len(ids), length)]
    return [piece for piece in pieces if len(piece) > 1]


def empty_cache(inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A cache of no tokens for a batch of one: every axis the graph leaves open but the first is 0."""
    return {
        tensor["name"]: numpy.zeros(
            [axis if isinstance(axis, int) and axis > 0 else int(place == 0) for place, axis in enumerate(tensor["axes"])],
            numpy.float32,
        )
        for tensor in inputs
        if tensor["name"].startswith("past")
    }


def samples_of(task: Task, details: Mapping[str, Any], folder: Path) -> list[Sample]:
    """Samples of a task that answers in one pass; none for a task that has no samples of ours."""
    if task.kind == "text":
        return _texts(task, details, Words(details, folder))
    if task.kind == "image":
        texts = Words(details, folder).padded(_CANDIDATES) if "tokenizer" in details else {}
        processor = _processor(folder / details["processor"], "image_processor_type")
        return [Sample({**processor(images=image, return_tensors="np"), **texts}) for image in images()]
    if task.kind == "audio":
        extractor, rate = _processor(folder / details["processor"], "feature_extractor_type"), int(details["sampling_rate"])
        return [Sample(dict(extractor(sound, sampling_rate=rate, return_tensors="np"))) for sound in sounds(rate)]
    return []


def inputs_of(task: Task, details: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """What an encoder-decoder model's encoder is given: sentences, pictures or sounds, one at a time."""
    if task.name == "text2text-generation":
        words = Words(details, folder)
        for sentence in SENTENCES[:_TRANSLATED]:
            yield words.feeds(sentence)
        return
    if task.name == "image-to-text":
        processor = _processor(folder / details["processor"], "image_processor_type")
        given = [processor(images=image, return_tensors="np") for image in images()[:_TRANSLATED]]
    else:
        extractor, rate = _processor(folder / details["processor"], "feature_extractor_type"), int(details["sampling_rate"])
        given = [extractor(sound, sampling_rate=rate, return_tensors="np") for sound in sounds(rate)]
    for tensors in given:
        mask = {"attention_mask": numpy.ones(tensors[details["encoder_input"]].shape[:2], numpy.int64)}
        yield {**mask, **tensors}


def _texts(task: Task, details: Mapping[str, Any], words: Words) -> list[Sample]:
    if task.name == "question-answering":
        questions = [sentence.rstrip(".") + "?" for sentence in SENTENCES]
        return [Sample(words.feeds(question, PARAGRAPHS[index % len(PARAGRAPHS)])) for index, question in enumerate(questions)]
    if task.name == "multiple-choice":
        return [_choice(words, SENTENCES[index : index + 3]) for index in range(len(SENTENCES) - 2)]
    found = []
    for index, sentence in enumerate(SENTENCES):
        feeds = words.feeds(sentence)
        rows = None
        if task.name == "fill-mask":
            rows = numpy.array([(index * 7) % feeds["input_ids"].shape[1]])
            feeds["input_ids"][0, rows] = int(details["mask_token_id"])
        found.append(Sample(feeds, rows))
    return found


def _choice(words: Words, sentences: Sequence[str]) -> Sample:
    """The first sentence, and which of the others follows; cut to one length."""
    rows = [words.encode(sentences[0], choice) for choice in sentences[1:]]
    length = min(len(ids) for ids, _ in rows)
    feeds = feeds_of([ids[:length] for ids, _ in rows], [kinds[:length] for _, kinds in rows])
    return Sample({name: value[None] for name, value in feeds.items()})


def images() -> list[Any]:
    """Seeded pictures of soft colours, no two of one size."""
    chances = numpy.random.default_rng(0)
    coarse = chances.integers(0, 256, size=(IMAGES, 6, 6, 3), dtype=numpy.uint8)
    return [
        Image.fromarray(pixels).resize((240 + 16 * index, 400 - 8 * index), Image.Resampling.BICUBIC)
        for index, pixels in enumerate(coarse)
    ]


def sounds(rate: int) -> list[Any]:
    """Seeded chords with noise, float32, half a second to two seconds at `rate` samples a second."""
    chances = numpy.random.default_rng(0)
    found = []
    for index in range(SOUNDS):
        times = numpy.arange(int(rate * (0.5 + 0.2 * index))) / rate
        tones = sum(numpy.sin(2 * numpy.pi * pitch * times) for pitch in chances.uniform(80, 2000, size=4))
        found.append((0.1 * tones + 0.02 * chances.normal(size=times.shape)).astype(numpy.float32))
    return found


def _processor(path: Path, key: str) -> Any:
    """The processor that the converter wrote into the entry: its file names a class of transformers."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return getattr(transformers, document[key]).from_dict(document)
