"""Texts, images and sounds for an encoder-decoder model as a buyer sends them, with PyTorch's own greedy tokens.

In: the PyTorch model, its tokenizer and processor as transformers loads them, the entry's details. Out: probes. This module must
never look at what ONNX gives, or give a token that is not certain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import transformers

from converters.errors import ParityFailed
from converters.export.seq2seq_modules import Parts, parts_of
from converters.parity.arrays import numbers
from converters.parity.compare import scale_of
from converters.parity.generation_settings import plain_settings
from converters.parity.images import SIZES, picture, png
from converters.parity.prompts import fitting, tokens_in
from converters.parity.sounds import heard, melody, wav
from converters.probes import Probe, ProbeTensor, texts

GREEDY_TOKENS = 32
_WORDS = (2, 9, 21)
_SECONDS = (0.41, 0.83, 1.27)
"""Words and seconds of what is sent; the exporter traces with 19 tokens or 0.76 seconds."""
_CLEAR = 10
"""A token is certain when the second best logit is more than so many bounds below the best."""
_TRIES = 12
_WORK = 2e12
"""Parameters times tokens that one probe may cost: some forty seconds on two cores. A larger model is asked for fewer tokens."""


@dataclass(frozen=True)
class _Asked:
    """sent: as a buyer sends it. fed: the encoder's inputs by name. prompt_tokens: of the text that was sent."""

    sent: ProbeTensor
    fed: Mapping[str, torch.Tensor]
    prompt_tokens: int


def seq2seq_probes(model: Any, loaded: Any, processor: Any, details: Mapping[str, Any], bound: float) -> tuple[Probe, ...]:
    """Three probes: 32 greedy tokens each, or as many as the decoder holds; an end token ends one early.

    Of some inputs the one with most certain tokens is taken. Where not even its first is certain, the probe holds the count of
    tokens, and no token.
    """
    parts = parts_of(model)
    with torch.inference_mode():
        return tuple(_probe(parts, number, loaded, processor, details, bound) for number in range(len(_WORDS)))


def _probe(parts: Parts, number: int, loaded: Any, processor: Any, details: Mapping[str, Any], bound: float) -> Probe:
    best: tuple[_Asked, list[int]] | None = None
    most = _affordable(parts, details)
    for asked in _inputs(parts, number, loaded, processor, details):
        tokens = _decoded(parts, asked, details, bound, most)
        if best is None or len(tokens) > len(best[1]):
            best = asked, tokens
        if len(best[1]) >= most or (best[1] and best[1][-1] in details["eos_token_ids"]):
            break
    assert best is not None  # noqa: S101 -- there is at least one try
    asked, tokens = best
    if tokens:
        _compare_with_generate(parts.model, asked, tokens, details)
    wanted = max(1, len(tokens))
    inputs = (asked.sent, numbers("max_tokens", numpy.array([wanted], numpy.int32)), numbers("temperature", numpy.float32([0])))
    outputs = [
        numbers("prompt_tokens", numpy.array([asked.prompt_tokens], numpy.int32)),
        numbers("completion_tokens", numpy.array([wanted], numpy.int32)),
    ]
    if tokens:
        outputs.append(numbers("token_ids", numpy.array(tokens, numpy.int32)))
    return Probe(inputs, tuple(outputs), bound)


def _inputs(parts: Parts, number: int, loaded: Any, processor: Any, details: Mapping[str, Any]) -> Iterator[_Asked]:
    chances = numpy.random.default_rng(7 + number)
    for attempt in range(_TRIES):
        seed = 100 * number + attempt
        if parts.encoder_input == "input_ids":
            text = fitting(loaded, chances, _WORDS[number], int(details["context_length"]))
            fed = dict(loaded(text, return_tensors="pt", verbose=False))
            yield _Asked(texts("text_input", [text]), _taken(fed, details), tokens_in(loaded, text))
        elif parts.encoder_input == "pixel_values":
            image = picture(*SIZES[number], seed)
            made = processor(images=[numpy.asarray(image)], input_data_format="channels_last", return_tensors="np")
            yield _Asked(texts("image", [png(image)]), _taken(made, details), 0)
        else:
            rate = int(details["sampling_rate"])
            length = max(int(details["shortest"]), int(_SECONDS[number] * rate))
            sound = melody(min(length, int(details["longest"]) or length), rate, seed)
            made = processor(heard(sound), sampling_rate=rate, return_tensors="np")
            first = next(iter(made.values()))
            made = {"attention_mask": numpy.ones(first.shape[:2], numpy.int64), **made}
            yield _Asked(texts("audio", [wav(sound, rate)]), _taken(made, details), 0)


def _taken(made: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What the encoder takes of what a tokenizer or processor gives."""
    kinds = {"FP32": torch.float32, "INT64": torch.int64}
    return {
        tensor["name"]: torch.as_tensor(made[tensor["name"]]).to(kinds[tensor["dtype"]]) for tensor in details["encoder_inputs"]
    }


def _decoded(parts: Parts, asked: _Asked, details: Mapping[str, Any], bound: float, most: int) -> list[int]:
    """Greedy tokens one by one, each from all tokens so far read anew without a cache, as long as they are certain."""
    hidden, seen = parts.encode(asked.fed[parts.encoder_input], asked.fed.get("attention_mask"))
    sequence: list[int] = []
    for item in details["start_tokens"]:
        if isinstance(item, list):
            logits = _last(parts, sequence, hidden, seen)
            chosen = numpy.array(item)[numpy.argsort(-logits[item], kind="stable")]
            if len(item) > 1 and not _is_clear(logits, logits[chosen[0]], logits[chosen[1]], bound):
                return []
            item = int(chosen[0])
        sequence.append(item)
    start, forced = len(sequence), details["forced_first_token"]
    while len(sequence) - start < most:
        place = len(sequence) - start
        if forced is not None and place == 0:
            sequence.append(int(forced))
            continue
        logits = _last(parts, sequence, hidden, seen)[: int(details["vocabulary"])]
        allowed = logits.copy()
        allowed[details["suppress_tokens"]] = -numpy.inf
        if place == int(forced is not None):
            allowed[details["begin_suppress_tokens"]] = -numpy.inf
        second, first = numpy.partition(allowed, -2)[-2:]
        if not _is_clear(logits, first, second, bound):
            break
        sequence.append(int(allowed.argmax()))
        if sequence[-1] in details["eos_token_ids"]:
            break
    return sequence[start:]


def _last(parts: Parts, sequence: list[int], hidden: torch.Tensor, seen: torch.Tensor | None) -> Any:
    return parts.step(torch.tensor([sequence]), hidden, seen, None)[0, -1].numpy().astype(numpy.float64)


def _is_clear(logits: Any, first: float, second: float, bound: float) -> bool:
    return bool(first - second > _CLEAR * bound * scale_of(logits))


def _compare_with_generate(model: Any, asked: _Asked, tokens: list[int], details: Mapping[str, Any]) -> None:
    """Our reading of the generation settings is transformers': its own `generate` must make the same tokens."""
    settings = plain_settings(model)
    settings.max_new_tokens = len(tokens)
    options: dict[str, Any] = {}
    if isinstance(model, transformers.BlipForConditionalGeneration):
        # Its `generate` hands these on to a decoder that has settings of its own.
        options |= {"max_new_tokens": len(tokens), "do_sample": False, "num_beams": 1}
    else:
        options["generation_config"] = settings
    # In the model's place too: what a setting leaves at its default, `generate` takes from there, a forced last token among it.
    stated, model.generation_config = model.generation_config, settings
    try:
        made = model.generate(**asked.fed, **options)
    finally:
        model.generation_config = stated
    found = [int(token) for token in (made if isinstance(made, torch.Tensor) else made.sequences)[0]]
    ends = set(details["eos_token_ids"]) | {int(details["pad_token_id"])}
    wanted = tokens[:-1] if tokens[-1] in ends else tokens
    # Whisper's gives neither start nor end.
    beginning = next((place for place in (len(details["start_tokens"]), 0) if found[place : place + len(wanted)] == wanted), None)
    if beginning is None:
        raise ParityFailed(f"transformers' generate makes {found}, where its model's greedy tokens are {tokens}")


def _affordable(parts: Parts, details: Mapping[str, Any]) -> int:
    """Steps of one probe; each reads all tokens again."""
    parameters = max(1, sum(weight.numel() for weight in parts.model.parameters()))
    room = int(details["decoder_length"]) - len(details["start_tokens"])
    return max(1, min(GREEDY_TOKENS, room, int(_WORK / (parameters * GREEDY_TOKENS))))
