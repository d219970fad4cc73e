"""What a program may say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from c2d_adapter.job_io import CODES, Folder, JobFailed


@pytest.mark.parametrize(
    "result",
    [
        {"loss": float("nan")},
        {"weights": [0.1]},
        {"weights": {"a": 1}},
        {"weights": b"1"},
        {"weights": None},
        {"Not plain": 1},
        {"../name": 1},
        {"text": "x" * (64 << 10)},
    ],
)
def test_a_result_that_is_more_than_plain_values_is_refused(result: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="result"):
        Folder(tmp_path).write_result(result)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_loss_is_shown_with_four_decimals(tmp_path: Path) -> None:
    Folder(tmp_path).write_progress(1, 2, 1.23456789, 0.1)
    assert json.loads((tmp_path / "progress.json").read_text())["loss"] == 1.2346


def test_a_loss_that_is_no_number_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Folder(tmp_path).write_progress(1, 2, float("inf"), 0.1)


def test_a_failure_has_a_known_code() -> None:
    assert "internal" in CODES
    with pytest.raises(ValueError, match="expected a code among"):
        JobFailed("whatever", "It failed.")


def test_a_job_of_another_kind_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"kind": "infer", "parameters": {}}))
    with pytest.raises(JobFailed, match="of another"):
        Folder(tmp_path).parameters("train")
