"""What is drawn, cut and summed follows from texts and seed alone, and what cannot be evaluated says why."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from c2d_adapter.algorithms.evaluate import (
    LEAST_LETTERS,
    LETTERS_A_TOKEN,
    Found,
    TooLong,
    cut,
    draw,
    evaluate,
    passages,
    work,
)
from c2d_adapter.job_io import Folder, JobFailed

LINE = "the market stands by the harbour and sells what it has " * 4
LINES = [f"{number} {LINE}" for number in range(50)]


class Words:
    """A model whose tokens are words; each costs a nat for each of its letters. most: tokens that it reads."""

    def __init__(self, most: int = 10**9) -> None:
        self.most, self.asked = most, list[str]()

    def __call__(self, text: str) -> Sequence[float]:
        self.asked.append(text)
        words = text.split()
        if len(words) > self.most:
            raise TooLong
        return [-float(len(word)) for word in words[1:]]


def job(folder: Path, texts: Sequence[str] = (), **parameters: Any) -> Folder:
    (folder / "texts").mkdir()
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number:03}.txt").write_text(text, encoding="utf-8")
    (folder / "job.json").write_text(json.dumps({"kind": "evaluate", "parameters": parameters}))
    return Folder(folder)


def failure(ask: Any, *arguments: Any) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        ask(*arguments)
    return failed.value


def test_passages_are_lines_that_are_long_enough() -> None:
    texts = [f" = Heading = \n\n  {LINES[0]}  \nshort\n{'x' * LEAST_LETTERS}", f"{'y' * (LEAST_LETTERS - 1)}\n{LINES[1]}"]
    assert passages(texts) == [LINES[0].strip(), "x" * LEAST_LETTERS, LINES[1].strip()]


def test_the_same_seed_draws_the_same_passages_for_ever() -> None:
    """As long as this is version 1: statements name the seed."""
    drawn = draw(["\n".join(LINES)], 10, 0)
    assert [int(line.split()[0]) for line in drawn] == [17, 13, 39, 26, 48, 29, 28, 24, 21, 22]
    assert draw(["\n".join(LINES[:20]), "\n".join(LINES[20:])], 10, 0) == drawn, "files are one text after the other"
    assert draw(["\n".join(LINES)], 4, 0) == drawn[:4]
    assert draw(["\n".join(LINES)], 10, 1) != drawn
    assert len(set(draw(["\n".join(LINES)], 50, 7))) == 50


def test_more_samples_than_passages_are_refused() -> None:
    failed = failure(draw, ["\n".join(LINES[:9]) + "\nshort"], 10, 0)
    assert failed.code == "dataset_too_small" and "9 lines" in failed.sentence


@given(st.text(st.sampled_from("ab \n\tü😀"), max_size=60), st.integers(1, 60))
def test_what_is_cut_is_the_beginning_and_never_longer(text: str, most: int) -> None:
    kept = cut(text, most)
    assert text.startswith(kept) and len(kept) <= most
    assert kept or not text[:most]


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("one two three", 9, "one two"),
        ("one two three", 7, "one two"),
        ("one two three", 8, "one two"),
        ("one two three", 13, "one two three"),
        ("onetwothree", 5, "onetw"),
    ],
)
def test_words_stay_whole(text: str, most: int, kept: str) -> None:
    assert cut(text, most) == kept


def test_the_loss_is_the_mean_over_all_tokens_and_not_over_texts() -> None:
    found = evaluate(["a bb bb bb", "a dddd"], Words(), 0)
    assert (found.tokens, found.loss) == (4, 2.5)
    assert found.perplexity == pytest.approx(math.exp(2.5))
    assert [(sample.tokens, sample.loss) for sample in found.samples] == [(3, 6.0), (1, 4.0)]


def test_of_each_text_the_first_tokens_are_taken() -> None:
    found = evaluate(["a b cc ddd eeee", "a bb"], Words(), 3)
    assert [(sample.tokens, sample.loss) for sample in found.samples] == [(2, 3.0), (1, 2.0)]


def test_a_long_text_is_not_handed_over_whole_when_few_of_its_tokens_are_taken() -> None:
    words = Words()
    evaluate(["word " * 1_000_000], words, 16)
    assert len(words.asked[0]) <= 16 * LETTERS_A_TOKEN


def test_a_text_that_the_model_cannot_read_at_once_is_cut_until_it_can() -> None:
    words = Words(most=20)
    (sample,) = evaluate(["w " * 400], words, 256).samples
    assert 14 <= sample.tokens <= 19 and sample.characters == len(words.asked[-1])
    assert len(words.asked) < 20


def test_a_whole_text_that_is_too_long_is_refused_by_its_number_and_not_its_words() -> None:
    failed = failure(evaluate, ["a b", "secret " * 30], Words(most=20), 0)
    assert failed.code == "sequence_too_long" and "Text 2 of 2" in failed.sentence and "secret" not in failed.sentence


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_said(loss: float) -> None:
    assert failure(evaluate, ["a b"], lambda _text: [loss], 0).code == "loss_not_finite"


def test_texts_of_one_token_each_have_no_loss() -> None:
    assert failure(evaluate, ["one", "two"], Words(), 0).code == "dataset_too_small"


def test_a_perplexity_that_no_number_holds_is_the_largest() -> None:
    assert math.isfinite(evaluate(["a " + "x" * 2000], Words(), 0).perplexity)


def test_a_job_scores_what_its_parameters_say_and_tells_its_progress(tmp_path: Path) -> None:
    folder = job(tmp_path, ["\n".join(LINES)], dataset="wikitext-2", samples=5, seed=3, max_tokens=8)
    told: list[dict[str, Any]] = []
    words = Words()

    def score(text: str) -> Sequence[float]:
        if (folder.path / "progress.json").exists():
            told.append(json.loads((folder.path / "progress.json").read_text()))
        return words(text)

    found = work(folder, score)
    assert found == evaluate(draw(["\n".join(LINES)], 5, 3), Words(), 8)
    assert [(each["step"], each["steps"]) for each in told] == [(1, 5), (2, 5), (3, 5), (4, 5)]
    assert all(each["loss"] > 0 for each in told)
    assert isinstance(found, Found) and not folder.is_done


def test_a_job_with_texts_reads_no_data_set(tmp_path: Path) -> None:
    words = Words()
    (tmp_path / "job.json").write_text(
        json.dumps({"kind": "evaluate", "parameters": {"texts": ["a b c", "d e"], "max_tokens": 16}})
    )
    work(Folder(tmp_path), words)
    assert words.asked == ["a b c", "d e"]


def test_a_job_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = job(tmp_path, max_tokens=16)
    (tmp_path / "job.json").write_text(json.dumps({"kind": "infer", "parameters": {}}))
    assert failure(work, folder, Words()).code == "internal"


def test_a_data_set_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = job(tmp_path, ["x"], samples=1, seed=0, max_tokens=16)
    (tmp_path / "texts" / "000.txt").write_bytes(bytes(range(256)))
    assert failure(work, folder, Words()).code == "dataset_not_text"
