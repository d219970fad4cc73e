"""What every test may use. Fixtures that start a server live in `fixtures_*.py`, each beside the part it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ("tests.fixtures_stack", "tests.fixtures_words")  # here, so that all of a run share one stack

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """WikiText-2 and a small trained GPT-2. Not part of the project: tests that want it skip without it."""
    folder = Path(os.environ.get("POSTHUMAN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder with gpt2-wikitext-mini/: run `POSTHUMAN_TEST_DATA=FOLDER make test`")
    return folder
