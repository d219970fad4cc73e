"""What the bench of derivations makes of a worker's log."""

from __future__ import annotations

from typing import Any

import pytest

from bench.derived import STAGES, chart, stages_of, table

STEPS = [name for name in STAGES if name not in ("stored", "rest", "order", "answer")]


def lines_of(job: str, began: float = 100.0) -> list[dict[str, Any]]:
    """A job whose training ended at `began`: stored in 2 s, each step of its derivation takes 1 s, and 0.5 s pass between them."""
    over = began + 2.0 + len(STEPS) + 0.5
    return [
        {"at": began - 50.0, "job": job, "state": "running"},
        {"at": began, "job": job, "state": "storing"},
        {"at": began + 2.0, "job": job, "state": "deriving"},
        *({"at": began + 3.0, "job": job, "convert": part, "seconds": 0.25} for part in ("export", "parity", "parity")),
        *({"at": began + 4.0, "job": job, "derive": step, "seconds": 1.0} for step in STEPS),
        {"at": over, "job": job, "state": "finished", "reason": None},
    ]


def test_the_stages_are_those_of_one_job_and_add_up_to_its_time() -> None:
    mixed = [line for pair in zip(lines_of("one"), lines_of("other", 500.0), strict=True) for line in pair]
    told = stages_of("one", [{"at": 1.0, "step": "start"}, *mixed])
    assert told["conversion"] == {"export": 0.25, "parity": 0.5}
    assert told["stages"]["stored"] == 2.0 and told["stages"]["rest"] == pytest.approx(0.5)
    assert sum(told["stages"].values()) == pytest.approx(2.5 + len(STEPS))


@pytest.mark.parametrize("lost", ["asset", "finished"])
def test_a_log_that_lacks_a_stage_is_no_measurement(lost: str) -> None:
    left = [line for line in lines_of("one") if lost not in (line.get("derive"), line.get("state"))]
    with pytest.raises(RuntimeError, match=f"does not tell of {lost}"):
        stages_of("one", left)


def test_the_table_has_every_stage_and_the_whole() -> None:
    told: dict[str, Any] = stages_of("one", lines_of("one"))
    told["stages"] |= {"order": 0.3, "answer": 0.1}
    rounds = {"small": [{**told, "all_s": 14.0}, {**told, "all_s": 16.0}, {**told, "all_s": 15.0}]}
    shown = table(rounds)
    assert all(f"| {said} | " in shown for said in STAGES.values())
    assert "| **all** | **15.00 (14.00 to 16.00)** |" in shown and "small: fetch 0.0" in shown
    assert [group.heading for group in chart(rounds).groups] == ["small"]
