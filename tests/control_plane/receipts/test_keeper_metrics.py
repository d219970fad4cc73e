"""The keeper's file tells of each step when it last succeeded and how often it failed, and no more than that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from control_plane.errors import Unavailable
from control_plane.receipts.keeper import Keeper, Step
from control_plane.receipts.keeper_metrics import WRITE_EVERY_S, KeeperMetrics, keeper_metrics_file


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def told(file: Path) -> dict[str, float]:
    families = text_string_to_metric_families(file.read_text())
    return {
        "|".join((sample.name.removeprefix("posthuman_keeper_"), *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_success_and_failure_of_each_step_are_told(tmp_path: Path) -> None:
    clock, file = Clock(), keeper_metrics_file(tmp_path)
    file.parent.mkdir()
    faults: list[Exception | None] = [None, Unavailable("the node does not answer"), ValueError("0xsecret")]

    def watch() -> Mapping[str, object] | None:
        fault = faults.pop(0)
        if fault is not None:
            raise fault
        return None

    metrics = KeeperMetrics(file, clock)
    keeper = Keeper(metrics.watched([Step("watch chain", 1, watch), Step("reap", 1, lambda: None)]), lambda _: None, clock)
    for _ in range(3):
        keeper.tick()
        clock.now += 10
    found = told(file)
    assert found["step_last_success_timestamp_seconds|watch_chain"] == 1_700_000_000
    assert found["step_last_success_timestamp_seconds|reap"] == 1_700_000_010, "written after the first step that was due"
    assert found["step_failures_total|unavailable|watch_chain"] == 1
    assert found["step_failures_total|internal_error|watch_chain"] == 1
    assert found["step_seconds_count|reap"] == 2
    assert found["last_sign_timestamp_seconds"] == 1_700_000_020
    assert "secret" not in file.read_text()


def test_it_is_written_now_and_then_and_not_at_every_step(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "keeper.prom"
    (step,) = KeeperMetrics(file, clock).watched([Step("reap", 1, lambda: None)])
    step.run()
    written = file.read_bytes()
    clock.now += WRITE_EVERY_S / 2
    step.run()
    assert file.read_bytes() == written
    clock.now += WRITE_EVERY_S
    step.run()
    assert file.read_bytes() != written


def test_a_file_that_cannot_be_written_fails_no_step(tmp_path: Path) -> None:
    (step,) = KeeperMetrics(tmp_path / "nowhere" / "keeper.prom").watched([Step("reap", 1, lambda: {"released": 1})])
    assert step.run() == {"released": 1}


def test_an_error_passes_through_unchanged(tmp_path: Path) -> None:
    error = Unavailable("later", retry_after_s=30)

    def failing() -> None:
        raise error

    (step,) = KeeperMetrics(tmp_path / "keeper.prom").watched([Step("anchor", 1, failing)])
    with pytest.raises(Unavailable) as raised:
        step.run()
    assert raised.value is error
