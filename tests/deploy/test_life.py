"""The log keeper's sign of life, and what it clears away."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from control_plane.receipts.keeper import Step
from control_plane.receipts.workers import Worker
from deploy.keeper import SWEEP_EVERY_S, sweep
from deploy.local.life import WITHIN_S, alive_file, shows_life, with_sign_of_life


def test_a_keeper_that_never_ran_shows_no_life(tmp_path: Path) -> None:
    assert not shows_life(alive_file(tmp_path))


def test_each_step_is_a_sign_of_life_for_half_a_minute(tmp_path: Path) -> None:
    file = alive_file(tmp_path)
    file.parent.mkdir()
    (step,) = with_sign_of_life([Step("integrate", 1.0, lambda: {"size": 3})], file)
    assert step.run() == {"size": 3}
    now = time.time()
    assert shows_life(alive_file(tmp_path), lambda: now)
    assert not shows_life(alive_file(tmp_path), lambda: now + WITHIN_S + 1)


def test_a_step_that_fails_is_one_too(tmp_path: Path) -> None:
    file = alive_file(tmp_path)
    file.parent.mkdir()

    def fails() -> None:
        os.utime(file, (0, 0))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with_sign_of_life([Step("anchor", 1.0, fails)], file)[0].run()
    assert shows_life(alive_file(tmp_path))


def test_the_signs_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    living, gone = Worker(tmp_path), Worker(tmp_path)
    os.close(gone._file)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2, "too young: it might not have locked its sign yet"
    sweep(tmp_path, lambda: time.time() + SWEEP_EVERY_S + 1)
    assert [path.name for path in tmp_path.iterdir()] == [living.name]
    living.leave()
