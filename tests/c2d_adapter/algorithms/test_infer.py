"""A batch of prompts is answered in its order, the same each time, and what does not fit says so."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.algorithms.evaluate import TooLong
from c2d_adapter.algorithms.infer import AT_ONCE, Made, result_of, work
from c2d_adapter.job_io import RESULT_BYTES, Folder, JobFailed

DRAWN = {"max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 7}


def job(folder: Path, prompts: list[str]) -> Folder:
    (folder / "job.json").write_text(json.dumps({"kind": "infer", "parameters": {"prompts": prompts, **DRAWN}}))
    return Folder(folder)


def echo(fields: Mapping[str, Any]) -> Made:
    return Made(f"{fields['text_input']} {fields['seed']}", "stop", 2, 3)


def said(folder: Folder, name: str) -> dict[str, Any]:
    return dict(json.loads((folder.path / f"{name}.json").read_text()))


def test_each_prompt_is_asked_with_the_jobs_parameters_and_a_seed_of_its_own(tmp_path: Path) -> None:
    asked: list[Mapping[str, Any]] = []
    folder = job(tmp_path, ["a", "b", "c"])
    work(folder, lambda fields: (asked.append(fields), echo(fields))[1])
    expected = [{**DRAWN, "text_input": prompt, "seed": 7 + number} for number, prompt in enumerate("abc")]
    assert sorted(asked, key=lambda fields: fields["seed"]) == expected
    result = said(folder, "result")
    assert [one["text"] for one in json.loads(result["answers"])] == ["a 7", "b 8", "c 9"]
    assert (result["prompt_tokens"], result["tokens"]) == (6, 9)
    assert said(folder, "progress") | {"steps_per_second": 0} == {"step": 3, "steps": 3, "loss": None, "steps_per_second": 0}


def test_prompts_are_asked_together_and_answered_in_order(tmp_path: Path) -> None:
    together = threading.Barrier(AT_ONCE, timeout=20)
    folder = job(tmp_path, [str(number) for number in range(2 * AT_ONCE)])
    work(folder, lambda fields: (together.wait(), echo(fields))[1])
    texts = [one["text"].split()[0] for one in json.loads(said(folder, "result")["answers"])]
    assert texts == [str(number) for number in range(2 * AT_ONCE)]


def test_a_prompt_that_is_too_long_is_refused_by_its_number_and_not_its_words(tmp_path: Path) -> None:
    def answer(fields: Mapping[str, Any]) -> Made:
        if "secret" in fields["text_input"]:
            raise TooLong
        return echo(fields)

    folder = job(tmp_path, ["a", "secret"])
    with pytest.raises(JobFailed) as failed:
        work(folder, answer)
    assert failed.value.code == "sequence_too_long" and "Prompt 2 of 2" in failed.value.sentence
    assert "secret" not in failed.value.sentence and not folder.is_done


def test_one_that_fails_ends_the_batch_and_those_that_wait_are_not_asked(tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(fields: Mapping[str, Any]) -> Made:
        asked.append(fields["seed"])
        raise RuntimeError("the server went away")

    with pytest.raises(RuntimeError, match="went away"):
        work(job(tmp_path, ["x"] * 200), answer)
    assert len(asked) < 200


@pytest.mark.parametrize("letter", ["x", "😀", '"', "\x00"])
def test_answers_that_a_result_cannot_hold_are_refused_and_the_most_that_it_can_are_not(tmp_path: Path, letter: str) -> None:
    with pytest.raises(JobFailed) as failed:
        result_of([Made(letter * RESULT_BYTES, "length", 1, 1)])
    assert failed.value.code == "sequence_too_long"
    size = next(size for size in range(RESULT_BYTES, 0, -512) if len(json.dumps(json.dumps(letter * size))) < RESULT_BYTES - 1200)
    Folder(tmp_path).write_result(result_of([Made(letter * size, "length", 1, 1)]))
    assert (tmp_path / "result.json").stat().st_size <= RESULT_BYTES
