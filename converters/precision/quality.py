"""What a shortcut in precision costs, measured: one line a measure for `Entry.quality`.

In: an entry's details, its graphs in full precision and in the smaller one. Out: lines. This module must never judge them: the
buyer does.

A line: {"measure", "unit", "value", "full_precision", "samples", "on"}: what is measured, its value with this entry's graph and
with the float32 graph on the same samples, how many there were, and which.

    loss            nats a token    text generation: mean loss on the fixed text
    agreement       share           answers (labels, tokens, spans, pixels) that are the same
    probability     mean difference of the probability that the float32 graph gives its answer
    mean cosine, worst cosine       of an embedding, or of a whole output without labels, with float32's
    worst difference                of any output from PyTorch, as a part of its largest value: tasks without a measure of their own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy

from converters.parity.session import Session
from converters.pooling import Pooling, pool
from converters.precision.decoded import scores_of
from converters.precision.passage import VERSION
from converters.precision.samples import Sample, empty_cache, feeds_of, samples_of, windows
from converters.tasks.task import Task

_ON = {
    "text": f"the sentences of {VERSION}",
    "image": "seeded pictures",
    "audio": "seeded sounds",
}
_READ = {"text2text-generation": _ON["text"], "image-to-text": _ON["image"], "speech-to-text": _ON["audio"]}
_NUMBERS = ("depth-estimation", "object-detection", "image-feature-extraction")
"""Tasks whose outputs have no labels on their last axis that could agree, or more than labels."""


def measure(
    task: Task, details: Mapping[str, Any], folder: Path, full: Mapping[str, Path], reduced: Mapping[str, Path]
) -> tuple[Mapping[str, Any], ...]:
    """Measure both graphs on the same samples. folder: the entry's, for its tokenizer or processor. full, reduced: graphs by role.

    Both take and give float32. Raises ParityFailed when a graph cannot be run.
    """
    if task.kind == "causal":
        losses = [_losses(Session(graphs["model"]), details, folder) for graphs in (full, reduced)]
        mean, full_mean = float(numpy.mean(losses[1])), float(numpy.mean(losses[0]))
        return (_line("loss", "nats a token", mean, full_mean, len(losses[0]), VERSION, digits=3),)
    if task.kind == "seq2seq":
        on = "next tokens after float32's own, for " + _READ[task.name]
        return _agreements(*scores_of(task, details, folder, full, reduced), "softmax", on)
    samples = samples_of(task, details, folder)
    if not samples:
        return ()
    before, after = (_answers(graphs["model"], details, samples) for graphs in (full, reduced))
    on = _ON[task.kind]
    if task.name == "feature-extraction":
        return _cosines([_pooled(answer, sample, details) for answer, sample in zip(before, samples, strict=True)],
                        [_pooled(answer, sample, details) for answer, sample in zip(after, samples, strict=True)], on)  # fmt: skip
    if task.name in _NUMBERS or details.get("form") == "queries":
        return _cosines([answer[0] for answer in before], [answer[0] for answer in after], on)
    if task.name == "question-answering":
        return _spans(before, after, on)
    axis = 1 if task.name == "image-segmentation" else -1
    return _agreements(
        [_scores(answer[0], sample, axis) for answer, sample in zip(before, samples, strict=True)],
        [_scores(answer[0], sample, axis) for answer, sample in zip(after, samples, strict=True)],
        str(details.get("activation", "softmax")),
        on,
    )


def worst_of(parity: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """For a task without a measure of its own: the worst that the comparison with PyTorch found."""
    worst = max(line["worst_relative"] for line in parity)
    sizes = sum(len(line["sizes"]) for line in parity)
    return (_line("worst difference", "part of the largest value", worst, 0.0, sizes, "seeded tensors", digits=6),)


def _losses(session: Session, details: Mapping[str, Any], folder: Path) -> list[float]:
    """Of each token of the fixed text but the first of each window: minus the logarithm of its probability."""
    found: list[float] = []
    for ids in windows(details, folder):
        logits = session.run({**feeds_of([ids]), **empty_cache(details["graph_inputs"])})["logits"][0, :-1].astype(numpy.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = logits[numpy.arange(len(ids) - 1), ids[1:]]
        found += (numpy.log(numpy.exp(logits).sum(axis=-1)) - chosen).tolist()
    return found


def _answers(path: Path, details: Mapping[str, Any], samples: Sequence[Sample]) -> list[list[Any]]:
    """Per sample, the outputs that the details name, in float32."""
    session = Session(path)
    names = [details[key] for key in ("output", "start_output", "end_output") if key in details]
    return [[given[name] for name in names] for given in (session.run(sample.feeds) for sample in samples)]


def _pooled(answer: list[Any], sample: Sample, details: Mapping[str, Any]) -> Any:
    return pool(answer[0], sample.feeds["attention_mask"], Pooling(details["pooling"], details["normalize"], None))


def _scores(output: Any, sample: Sample, axis: int) -> Any:
    """Rows of scores, float32 [answers, labels]."""
    kept = output if sample.rows is None else output[:, sample.rows]
    return numpy.moveaxis(kept, axis, -1).reshape(-1, kept.shape[axis])


def _agreements(before: list[Any], after: list[Any], activation: str, on: str) -> tuple[Mapping[str, Any], ...]:
    full, reduced = numpy.concatenate(before), numpy.concatenate(after)
    if activation == "none":
        difference = float(numpy.abs(full - reduced).mean())
        return (_line("difference", "mean absolute, of the number itself", difference, 0.0, len(full), on, digits=4),)
    chances, others = _chances(full, activation), _chances(reduced, activation)
    if activation == "sigmoid":  # each label is an answer of its own
        same, moved = (chances > 0.5) == (others > 0.5), numpy.abs(chances - others)
    else:
        rows, best = numpy.arange(len(full)), full.argmax(axis=-1)
        same, moved = reduced.argmax(axis=-1) == best, numpy.abs(chances[rows, best] - others[rows, best])
    return (
        _line("agreement", "share of answers", float(same.mean()), 1.0, same.size, on, digits=4),
        _line("probability", "mean absolute difference", float(moved.mean()), 0.0, same.size, on, digits=4),
    )


def _chances(scores: Any, activation: str) -> Any:
    scores = scores.astype(numpy.float64)
    if activation == "sigmoid":
        return 1.0 / (1.0 + numpy.exp(-scores))
    raised = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _spans(before: list[list[Any]], after: list[list[Any]], on: str) -> tuple[Mapping[str, Any], ...]:
    """Start and end together are the answer, so both must be the same."""
    same, moved = [], []
    for full, reduced in zip(before, after, strict=True):
        ends = [int(output.argmax()) for output in full]
        same.append(ends == [int(output.argmax()) for output in reduced])
        chances = [
            [float(_chances(output, "softmax")[0, end]) for output, end in zip(outputs, ends, strict=True)]
            for outputs in (full, reduced)
        ]
        moved.append(abs(float(numpy.prod(chances[0])) - float(numpy.prod(chances[1]))))
    return (
        _line("agreement", "share of answers", float(numpy.mean(same)), 1.0, len(same), on, digits=4),
        _line("probability", "mean absolute difference", float(numpy.mean(moved)), 0.0, len(same), on, digits=4),
    )


def _cosines(before: list[Any], after: list[Any], on: str) -> tuple[Mapping[str, Any], ...]:
    found = []
    for full, reduced in zip(before, after, strict=True):
        left, right = full.reshape(-1).astype(numpy.float64), reduced.reshape(-1).astype(numpy.float64)
        found.append(float(left @ right / max(1e-30, float(numpy.linalg.norm(left) * numpy.linalg.norm(right)))))
    return (
        _line("mean cosine", "1 is equal", float(numpy.mean(found)), 1.0, len(found), on, digits=5),
        _line("worst cosine", "1 is equal", min(found), 1.0, len(found), on, digits=5),
    )


def _line(measure: str, unit: str, value: float, full: float, samples: int, on: str, *, digits: int) -> dict[str, Any]:
    """Rounded, so that the same model measured again on the same machine gives the same entry."""
    return {
        "measure": measure,
        "unit": unit,
        "value": round(value, digits),
        "full_precision": round(full, digits),
        "samples": samples,
        "on": on,
    }
