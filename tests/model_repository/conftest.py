"""Our Triton backends import each other from their own folder; so do their tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "model_repository" / "backends"))


@pytest.fixture(scope="session")
def text_entry(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], object]:
    """The entry of a task that reads texts, made when it is first asked for."""
    from tests.model_repository.text_entries import make_entry

    made: dict[str, object] = {}

    def entry(task: str) -> object:
        if task not in made:
            made[task] = make_entry(tmp_path_factory.mktemp(task), task)
        return made[task]

    return entry
