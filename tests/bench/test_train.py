"""What the training bench makes of its figures."""

from __future__ import annotations

from typing import Any

import pytest

from bench.summary import promises
from bench.train import ahead, charts, table

REPORT: dict[str, Any] = {
    "when": "2026-11-28",
    "machine": "2 cores",
    "rounds": 3,
    "cpus": 1,
    "note": "Other work was running.",
    "load": [0.5, 2.0],
    "rates": {"small": {"posthuman": [4.0, 9.0, 5.0], "Trainer": [5.0, 10.0, 4.0]}},
    "worked_s": {"small": {"posthuman": [0.2, 0.2, 0.3], "Trainer": [0.1, 0.25, 0.3]}},
    "first_step_s": {"warm": [0.4, 12.0, 0.2], "cold": [7.0]},
}


def test_a_side_is_ahead_by_the_median_of_the_rounds_and_not_by_its_best() -> None:
    assert ahead(REPORT, "small") == pytest.approx(0.9)
    text = table(REPORT)
    assert "| small | 5.00 (4.00 to 9.00) | 5.00 (4.00 to 10.00) | 0.90 | 0.200 | 0.250 |" in text
    assert "0.4 (0.2 to 12.0)" in text and "Other work was running." in text
    assert [chart.name for chart in charts(REPORT)] == ["train", "train-first-step"]


def test_the_summary_holds_it_against_both_bars() -> None:
    rows = {one.what: one for one in promises({"train": REPORT})}
    ratio = rows["training, steps a second over those of transformers' Trainer, small"]
    assert ratio.measured is not None and "held" in ratio.row()
    assert rows["from a job's order to its first step, warm"].measured == 0.4
