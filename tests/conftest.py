"""What every test may use. Fixtures that start a server live in `fixtures_*.py`, each beside the part it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ("tests.fixtures_database", "tests.fixtures_stack", "tests.fixtures_words")
"""Here, so that all of a run share one stack and one server."""

REPOSITORY = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("no clock", deadline=None)  # how long an example takes is the machine's affair
hypothesis.settings.load_profile("no clock")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """WikiText-2 and a small trained GPT-2. Not part of the project: tests that want it skip without it."""
    folder = Path(os.environ.get("POSTHUMAN_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder with gpt2-wikitext-mini/: run `POSTHUMAN_TEST_DATA=FOLDER make test`")
    return folder


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion in the tests' own process switches the hub's library off for good, its client for our market with it.

    So each test begins with the library on, whatever ran before; sessions that it made while it was off are dropped.
    """
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None and constants.HF_HUB_OFFLINE:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        if (http := sys.modules.get("huggingface_hub.utils._http")) is not None:
            http.reset_sessions()
