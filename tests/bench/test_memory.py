"""What counts as memory that grows."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.memory import Held, Watch


@pytest.mark.parametrize("megabytes", [[100.0] * 30, [100.0, 107.0] * 15, [100.0] * 15 + [104.0] * 15, [100.0] * 29 + [400.0]])
def test_a_level_a_wave_a_small_step_and_one_peak_are_flat(megabytes: list[float]) -> None:
    assert Held("web 1", megabytes).is_flat


@pytest.mark.parametrize("megabytes", [[100.0 + 0.5 * second for second in range(30)], [400.0] * 10 + [440.0] * 20])
def test_a_steady_rise_and_a_step_beyond_the_limit_are_growth(megabytes: list[float]) -> None:
    assert not Held("web 1", megabytes).is_flat


def test_what_is_not_there_is_not_taken_for_flat(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="found none of"), Watch(tmp_path):
        pass
