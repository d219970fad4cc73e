"""Quality figures: what they are on graphs whose answers are known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from onnx import helper

from converters.precision.passage import PARAGRAPHS, PASSAGE, SENTENCES
from converters.precision.quality import measure, worst_of
from converters.precision.samples import images, sounds
from converters.tasks import TASKS
from tests.converters.precision.graphs import graph_file, matrix
from tests.converters.tiny_models import write_tokenizer

WORDS = 320


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An entry's folder with a tokenizer of 320 tokens."""
    (tmp_path / "1").mkdir()
    write_tokenizer(tmp_path / "1")
    return tmp_path


def details(**more: Any) -> dict[str, Any]:
    inputs = [{"name": name, "dtype": "INT64", "axes": ["batch", "sequence"]} for name in ("input_ids", "attention_mask")]
    told = {
        "tokenizer": "1/tokenizer.json",
        "add_special_tokens": True,
        "context_length": 64,
        "vocabulary": WORDS,
        "pad_token_id": 1,
    }
    return {**told, "graph_inputs": inputs, **more}


def table(path: Path, values: Any, output: str = "logits", *, mean: bool = False) -> Mapping[str, Path]:
    """A model that knows one row of scores a token, whatever stands before it."""
    rows = [helper.make_node("Gather", ["table", "input_ids"], ["rows" if mean else output])]
    axes: list[Any] = ["batch", "sequence", values.shape[1]]
    if mean:
        rows.append(helper.make_node("ReduceMean", ["rows", "axis"], [output], keepdims=0))
        axes = ["batch", values.shape[1]]
    constants = {"table": values, **({"axis": numpy.array([1], numpy.int64)} if mean else {})}
    inputs = {"input_ids": ["batch", "sequence"]}
    return {"model": graph_file(path, rows, inputs, {output: axes}, constants, integers=["input_ids"])}


def by_name(lines: tuple[Mapping[str, Any], ...]) -> dict[str, Mapping[str, Any]]:
    return {line["measure"]: line for line in lines}


def test_the_fixed_text_is_the_one_its_version_names() -> None:
    """Figures on another text cannot be compared: a change here needs a new version."""
    assert hashlib.sha256(PASSAGE.encode()).hexdigest()[:16] == "6af49e40403ea509"
    assert len(SENTENCES) == 39 and " ".join(SENTENCES) == " ".join(PARAGRAPHS)


def test_pictures_and_sounds_are_the_same_each_time_and_all_of_another_size() -> None:
    first, second = images(), images()
    assert all(left.tobytes() == right.tobytes() for left, right in zip(first, second, strict=True))
    assert len({image.size for image in first}) == len(first)
    assert all(numpy.array_equal(left, right) for left, right in zip(sounds(16_000), sounds(16_000), strict=True))
    assert all(float(numpy.abs(sound).max()) < 1 for sound in sounds(16_000))


def test_a_model_that_knows_nothing_loses_the_logarithm_of_its_vocabulary(folder: Path) -> None:
    full = table(folder / "full.onnx", numpy.zeros((WORDS, WORDS), numpy.float32))
    sure = numpy.zeros((WORDS, WORDS), numpy.float32)
    sure[:, 0] = 50  # certain of a token that never comes
    (line,) = measure(TASKS["text-generation"], details(), folder, full, table(folder / "small.onnx", sure))
    assert line["measure"] == "loss" and line["samples"] > 500
    assert line["full_precision"] == round(float(numpy.log(WORDS)), 3) and line["value"] == 50.0


def test_the_same_graph_twice_costs_nothing(folder: Path) -> None:
    full = table(folder / "full.onnx", matrix(WORDS, 5), mean=True)
    lines = by_name(measure(TASKS["text-classification"], details(output="logits", activation="softmax"), folder, full, full))
    assert {name: line["value"] for name, line in lines.items()} == {"agreement": 1.0, "probability": 0.0}
    assert lines["agreement"]["samples"] == len(SENTENCES)


def test_agreement_counts_answers_and_probability_that_of_the_full_answer(folder: Path) -> None:
    scores = numpy.zeros((WORDS, 2), numpy.float32)
    full = table(folder / "full.onnx", scores + numpy.float32([3, 0]), mean=True)
    small = table(folder / "small.onnx", scores + numpy.float32([0, 3]), mean=True)
    lines = by_name(measure(TASKS["text-classification"], details(output="logits", activation="softmax"), folder, full, small))
    chance = float(numpy.exp(3) / (1 + numpy.exp(3)))
    assert lines["agreement"]["value"] == 0.0
    assert lines["probability"]["value"] == round(2 * chance - 1, 4)


def test_several_labels_at_once_are_judged_one_by_one(folder: Path) -> None:
    scores = numpy.zeros((WORDS, 4), numpy.float32)
    full = table(folder / "full.onnx", scores + numpy.float32([1, 1, -1, -1]), mean=True)
    small = table(folder / "small.onnx", scores + numpy.float32([1, 1, -1, 1]), mean=True)
    lines = by_name(measure(TASKS["text-classification"], details(output="logits", activation="sigmoid"), folder, full, small))
    assert lines["agreement"]["value"] == 0.75 and lines["agreement"]["samples"] == 4 * len(SENTENCES)


def test_a_regression_is_measured_by_its_number(folder: Path) -> None:
    full = table(folder / "full.onnx", numpy.ones((WORDS, 1), numpy.float32), mean=True)
    small = table(folder / "small.onnx", numpy.full((WORDS, 1), 1.5, numpy.float32), mean=True)
    (line,) = measure(TASKS["text-classification"], details(output="logits", activation="none"), folder, full, small)
    assert (line["measure"], line["value"]) == ("difference", 0.5)


def test_each_token_of_a_sentence_is_an_answer_of_its_own(folder: Path) -> None:
    scores = matrix(WORDS, 3)
    (full, small) = (
        table(folder / f"{name}.onnx", values)
        for name, values in (("full", scores), ("small", scores + 0.3 * matrix(WORDS, 3, seed=1)))
    )
    lines = by_name(measure(TASKS["token-classification"], details(output="logits"), folder, full, small))
    assert lines["agreement"]["samples"] > 500 and 0.5 < lines["agreement"]["value"] < 1


def test_only_the_mask_is_an_answer_of_a_masked_model(folder: Path) -> None:
    full, other = matrix(WORDS, WORDS), matrix(WORDS, WORDS, seed=1)
    other[7] = full[7]
    graphs = [table(folder / f"{name}.onnx", values) for name, values in (("full", full), ("small", other))]
    lines = by_name(measure(TASKS["fill-mask"], details(output="logits", mask_token_id=7), folder, graphs[0], graphs[1]))
    assert lines["agreement"]["samples"] == len(SENTENCES) and lines["agreement"]["value"] == 1.0


def test_an_answer_is_a_start_and_an_end_together(folder: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["start", "input_ids"], ["starts"]),
        helper.make_node("Gather", ["end", "input_ids"], ["ends"]),
    ]
    axes = {name: ["batch", "sequence"] for name in ("starts", "ends")}
    first, second, third = (matrix(1, WORDS, seed=seed)[0] for seed in range(3))
    inputs = {"input_ids": ["batch", "sequence"]}
    graphs = [
        {"model": graph_file(folder / f"{name}.onnx", nodes, inputs, axes, {"start": start, "end": end}, integers=["input_ids"])}
        for name, start, end in (("full", first, second), ("small", first, third))
    ]
    told = details(start_output="starts", end_output="ends")
    same = by_name(measure(TASKS["question-answering"], told, folder, graphs[0], graphs[0]))
    other = by_name(measure(TASKS["question-answering"], told, folder, graphs[0], graphs[1]))
    assert same["agreement"]["value"] == 1.0 and other["agreement"]["value"] < 0.2


def test_an_embedding_is_measured_by_its_angle_and_not_by_its_length(folder: Path) -> None:
    values = matrix(WORDS, 16)
    graphs = [table(folder / f"{name}.onnx", part, "hidden") for name, part in (("full", values), ("small", 2 * values))]
    told = details(output="hidden", pooling="mean", normalize=False)
    lines = by_name(measure(TASKS["feature-extraction"], told, folder, graphs[0], graphs[1]))
    assert lines["mean cosine"]["value"] == lines["worst cosine"]["value"] == 1.0
    turned = table(folder / "turned.onnx", values[:, ::-1].copy(), "hidden")
    assert by_name(measure(TASKS["feature-extraction"], told, folder, graphs[0], turned))["worst cosine"]["value"] < 0.9


def test_a_task_without_samples_states_its_worst_difference(folder: Path) -> None:
    assert measure(TASKS["tensors"], details(), folder, {}, {}) == ()
    parity = (
        {"output": "a", "worst_relative": 0.002, "sizes": [[1], [2]]},
        {"output": "b", "worst_relative": 0.05, "sizes": [[1]]},
    )
    (line,) = worst_of(parity)
    assert (line["measure"], line["value"], line["samples"]) == ("worst difference", 0.05, 3)
