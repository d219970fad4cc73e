"""What the process that speaks to Ray keeps ready, with crews that are counted instead of started."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter import ray_driver
from c2d_adapter.ray_driver import Driver, Shape

SHAPE = vars(Shape())


class Crews:
    """Stands in for `Crew`: each has its room from the moment that it is made until it is closed."""

    def __init__(self) -> None:
        self.holding = 0

    def __call__(self, shape: Shape, _scratch: Path) -> Any:
        self.holding += 1
        return _Crew(self, shape)


class _Crew:
    processes = (1,)
    said = ()

    def __init__(self, crews: Crews, shape: Shape) -> None:
        self._crews, self.shape = crews, shape

    def is_ready(self) -> bool:
        return True

    def begin(self, _order: Any) -> None:
        """Nothing runs."""

    def ended(self) -> dict[str, str]:
        return {"ended": "done"}

    def close(self) -> None:
        self._crews.holding -= 1


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> Crews:
    made = Crews()
    monkeypatch.setattr(ray_driver, "Crew", made)
    monkeypatch.setattr(ray_driver, "_fits_one_machine", lambda _shape: True)
    monkeypatch.setattr(ray_driver, "_lacking", lambda _shape: "")
    return made


@pytest.mark.parametrize(("keeps_idle", "held"), [(True, 1), (False, 0)])
def test_no_room_of_a_shared_cluster_is_held_without_a_job(keeps_idle: bool, held: int, crews: Crews, tmp_path: Path) -> None:
    """Of a Ray of one's own it is: the next job begins at once."""
    lines = io.StringIO()
    driver = Driver(tmp_path, lines, keeps_idle=keeps_idle)
    driver.take({"do": "warm", "shape": SHAPE})
    driver.look()
    assert crews.holding == held
    driver.take({"do": "begin", "job": "a", "shape": SHAPE, "order": {}})
    assert crews.holding == 1
    for _ in range(3):
        driver.look()
    assert [told["ended"] for told in map(json.loads, lines.getvalue().splitlines()) if "ended" in told] == ["done"]
    assert crews.holding == held
    driver.close()
    assert crews.holding == 0
