"""Does the ONNX graph give PyTorch's answers, at sizes it was not traced with?

In: the PyTorch model, the graph, the entry's details. Out: one line per output for `entry.json`, or ParityFailed.
This module must never widen a bound because a model missed it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import torch

from converters.errors import ParityFailed
from converters.pooling import Pooling, pool
from converters.tasks import Task

BOUNDS = {"fp32": 1e-4}
"""Largest difference, as a part of the largest reference value of that output.

Two float32 programs that sum in another order drift apart like a random walk: 2**-24 times the square root of layers * 2 * width,
so 3e-5 for GPT-J (28 layers, 4096 wide) and 8e-6 for GPT-2; the bound leaves room for three times GPT-J's. Measured with ONNX
Runtime 1.31 and torch 2.13: 5e-6 for GPT-2 with 124 M parameters at 1,024 tokens, 2e-6 for a trained one of 4 M, 5e-7 for
all-MiniLM-L6-v2. A wrong position, a cut cache or 8-bit weights give 1e-3 and more.
"""

_SMALLEST_SCALE = 0.1
"""Outputs that cancel out to almost nothing keep the rounding of the large numbers they came from."""
GREEDY_TOKENS = 32
_SIZES = ((1, 1), (1, 7), (2, 33), (3, 19))
"""Batch and sequence; the exporter traces with batch 2, sequence 16 and past 16."""
_LONGEST_WORK = 2e11
"""Parameters times tokens: about four seconds of one forward pass on two cores. A longer context is tried up to this work."""
_LONGEST_LOGITS = 1 << 27


class _Worst:
    """The worst difference of one output so far."""

    def __init__(self, output: str, bound: float) -> None:
        self.output, self.bound = output, bound
        self.absolute = self.relative = 0.0
        self.sizes: list[list[int]] = []

    def compare(self, found: Any, expected: Any, size: tuple[int, int]) -> None:
        """Both float32; padded positions have been taken out. Raises ParityFailed past the bound, or for NaN or another shape."""
        if found.shape != expected.shape:
            raise ParityFailed(f"ONNX gives {self.output!r} of shape {found.shape} where PyTorch gives {expected.shape}, at {size}")
        scale = max(_SMALLEST_SCALE, float(numpy.abs(expected).max()))
        difference = float(numpy.abs(found - expected).max())
        self._note(difference, difference / scale, size)

    def regret(self, regret: float, scale: float, size: tuple[int, int]) -> None:
        """How far below PyTorch's best logit the chosen token's lies."""
        self._note(regret, regret / max(_SMALLEST_SCALE, scale), size)

    def _note(self, absolute: float, relative: float, size: tuple[int, int]) -> None:
        if not relative <= self.bound:  # also refuses NaN
            raise ParityFailed(
                f"ONNX differs from PyTorch by {relative:.1e} of the largest value at output {self.output!r},"
                f" batch {size[0]}, sequence {size[1]}; bound is {self.bound:.1e}"
            )
        self.absolute, self.relative = max(self.absolute, absolute), max(self.relative, relative)
        if list(size) not in self.sizes:
            self.sizes.append(list(size))

    def line(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "worst_absolute": round_up(self.absolute),
            "worst_relative": round_up(self.relative),
            "bound": self.bound,
            "sizes": self.sizes,
        }


def round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten: a measured difference that stays the same from run to run."""
    if value == 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{next(step for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-12)) * power:.0e}")


class _Session:
    """The graph on ONNX Runtime, fed by name."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        # ONNX Runtime's errors have no class in common.
        except Exception as error:
            raise ParityFailed(f"ONNX Runtime cannot load the graph: {error}") from error
        self._inputs = {tensor.name for tensor in self._session.get_inputs()}
        self._outputs = [tensor.name for tensor in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in feeds.items() if name in self._inputs}
        try:
            return dict(zip(self._outputs, self._session.run(None, given), strict=True))
        # A size that was fixed by tracing shows here, as a Reshape that does not fit.
        except Exception as error:
            raise ParityFailed(f"ONNX Runtime cannot run the graph at size {given['input_ids'].shape}: {error}") from error


def check_parity(model: Any, path: Path, task: Task, details: Mapping[str, Any], precision: str) -> tuple[Mapping[str, Any], ...]:
    """Compare the graph at `path` with the model; the lines state what was found, rounded up to 1, 2 or 5.

    Raises ParityFailed naming output, difference and bound.
    """
    session, bound = _Session(path), BOUNDS[precision]
    chances = numpy.random.default_rng(0)
    with torch.inference_mode():
        if task.name == "text-generation":
            return _check_generation(model, session, details, bound, chances)
        return _check_prediction(model, session, task, details, bound, chances)


def sizes_for(model: Any, details: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Batch and sequence of each comparison, the longest sequence that is affordable among them."""
    context = int(details["context_length"])
    parameters = max(1, sum(weight.numel() for weight in model.parameters()))
    longest = min(context, max(64, int(_LONGEST_WORK / parameters)), max(64, _LONGEST_LOGITS // int(details["vocabulary"])))
    sizes = [(batch, min(length, context)) for batch, length in _SIZES]
    return [*sizes, (1, longest)]


def _check_prediction(
    model: Any, session: _Session, task: Task, details: Mapping[str, Any], bound: float, chances: numpy.random.Generator
) -> tuple[Mapping[str, Any], ...]:
    names = [details[key] for key in ("output", "start_output", "end_output") if key in details]
    worst = {name: _Worst(name, bound) for name in names}
    embedding = _Worst("embedding", bound)
    for size in sizes_for(model, details):
        feeds = _batch(details, size, chances)
        feeds["token_type_ids"][:, size[1] // 2 :] = int(getattr(model.config, "type_vocab_size", 1) > 1)
        found, expected = session.run(feeds), _reference(model, feeds, details)
        mask = feeds["attention_mask"]
        for name in names:
            # Of a per-token output only the tokens count; what stands at padding is nobody's answer.
            rows = mask.astype(bool) if found[name].shape[:2] == mask.shape and task.name != "text-classification" else slice(None)
            worst[name].compare(found[name][rows], expected[name][rows], size)
        if task.name == "feature-extraction":
            pooling = Pooling(details["pooling"], details["normalize"], None)
            embedding.compare(pool(found[names[0]], mask, pooling), pool(expected[names[0]], mask, pooling), size)
    lines = [worst[name].line() for name in names]
    return (*lines, embedding.line()) if task.name == "feature-extraction" else tuple(lines)


def _check_generation(
    model: Any, session: _Session, details: Mapping[str, Any], bound: float, chances: numpy.random.Generator
) -> tuple[Mapping[str, Any], ...]:
    logits, greedy = _Worst("logits", bound), _Worst("greedy", 2 * bound)
    for size in sizes_for(model, details):
        feeds = _batch(details, size, chances)
        mask = feeds["attention_mask"].astype(bool)
        expected = _reference(model, feeds, details)["logits"]
        logits.compare(session.run({**feeds, **_empty_cache(details, size[0])})["logits"][mask], expected[mask], size)
        if 1 < size[1] <= 64:
            logits.compare(_in_pieces(session, feeds, details)[mask], expected[mask], size)
    for batch in (1, 3):
        length = min(12, max(1, int(details["context_length"]) - GREEDY_TOKENS))
        _check_greedy(model, session, details, (batch, length), greedy, chances)
    return logits.line(), greedy.line()


def _in_pieces(session: _Session, feeds: Mapping[str, Any], details: Mapping[str, Any]) -> Any:
    """Logits of a prefill of half the tokens, then a piece of several, then one by one: what serving does with the cache."""
    length = feeds["input_ids"].shape[1]
    ends = sorted({length // 2, length // 2 + 3, *range(length // 2 + 4, length + 1), length} - {0})
    ends = [end for end in ends if end <= length]
    cache, begin, parts = _empty_cache(details, len(feeds["input_ids"])), 0, []
    for end in ends:
        step = {
            "input_ids": feeds["input_ids"][:, begin:end],
            "position_ids": feeds["position_ids"][:, begin:end],
            "attention_mask": feeds["attention_mask"][:, :end],
        }
        given = session.run({**step, **cache})
        parts.append(given["logits"])
        cache, begin = _next_cache(details, given), end
    return numpy.concatenate(parts, axis=1)


def _check_greedy(
    model: Any,
    session: _Session,
    details: Mapping[str, Any],
    size: tuple[int, int],
    greedy: _Worst,
    chances: numpy.random.Generator,
) -> None:
    """Decode greedily with the cache in a left-padded batch; then ask PyTorch, per row and without padding, for its own choice.

    Each token is PyTorch's best after the same prefix, so by induction PyTorch's greedy text is the same. Where two tokens are as
    good as equal either may be chosen; `regret` is then above 0, and within the bound.
    """
    feeds = _batch(details, size, chances)
    prompt, mask = feeds["input_ids"], feeds["attention_mask"]
    ids, cache, tokens = prompt, _empty_cache(details, size[0]), []
    for _ in range(min(GREEDY_TOKENS, int(details["context_length"]) - size[1])):
        positions = _positions(mask)[:, -ids.shape[1] :]
        given = session.run({"input_ids": ids, "position_ids": positions, "attention_mask": mask, **cache})
        ids = given["logits"][:, -1].argmax(axis=-1)[:, None].astype(numpy.int64)
        tokens.append(ids)
        cache, mask = _next_cache(details, given), numpy.concatenate([mask, numpy.ones_like(ids)], axis=1)
    if not tokens:
        return
    chosen = numpy.concatenate(tokens, axis=1)
    for row, kept in enumerate(feeds["attention_mask"].astype(bool)):
        whole = numpy.concatenate([prompt[row][kept], chosen[row]])[None, :]
        ones = numpy.ones_like(whole)
        reference = _reference(model, {"input_ids": whole, "attention_mask": ones, "position_ids": _positions(ones)}, details)
        steps = reference["logits"][0, kept.sum() - 1 : -1]
        regrets = steps.max(axis=-1) - steps[numpy.arange(len(steps)), chosen[row]]
        greedy.regret(float(regrets.max()), float(numpy.abs(steps).max()), (size[0], size[1] + chosen.shape[1]))


def _batch(details: Mapping[str, Any], size: tuple[int, int], chances: numpy.random.Generator) -> dict[str, Any]:
    """Random tokens; in a batch the second row is two thirds full and the third holds one token, padded on the model's side."""
    batch, length = size
    pad, vocabulary = int(details["pad_token_id"]), int(details["vocabulary"])
    ids = chances.integers(0, vocabulary, size=size, dtype=numpy.int64)
    # Some models find a row's last token by looking for padding, so padding's id may not stand inside the text.
    ids[ids == pad] = (pad + 1) % vocabulary
    mask: Any = numpy.zeros(size, dtype=numpy.int64)
    for row, kept in enumerate((length, max(1, length * 2 // 3), 1)[:batch]):
        mask[row, slice(length - kept, None) if details["padding_side"] == "left" else slice(0, kept)] = 1
    ids[mask == 0] = pad
    kinds: Any = numpy.zeros(size, dtype=numpy.int64)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": _positions(mask), "token_type_ids": kinds}


def _positions(mask: Any) -> Any:
    positions = mask.cumsum(axis=1) - 1
    positions[mask == 0] = 1
    return positions


def _reference(model: Any, feeds: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """PyTorch's outputs by name, given just what the graph is given."""
    names: Sequence[str] = [tensor["name"] for tensor in details["graph_inputs"]]
    given = {name: torch.from_numpy(numpy.ascontiguousarray(feeds[name])) for name in feeds if name in names}
    try:
        outputs = model(**given, return_dict=True, **({"use_cache": False} if "layers" in details else {}))
    # A context that is longer than the model's tables shows here, as an index out of range.
    except (IndexError, RuntimeError) as error:
        raise ParityFailed(f"PyTorch cannot run the model at size {feeds['input_ids'].shape}: {error}") from error
    return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def _empty_cache(details: Mapping[str, Any], batch: int) -> dict[str, Any]:
    nothing = numpy.zeros((batch, details["kv_heads"], 0, details["head_size"]), dtype=numpy.float32)
    return {layer[kind]: nothing for layer in details["layers"] for kind in ("past_key", "past_value")}


def _next_cache(details: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {layer[f"past_{kind}"]: given[layer[f"present_{kind}"]] for layer in details["layers"] for kind in ("key", "value")}
