"""The story of the trainings, as `make demo-train` tells it: a market of its own, three models, six buyers' orders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.held_out import TEST, TRAIN, held_out_text, write_own_texts

REPOSITORY = Path(__file__).resolve().parents[2]


def test_no_held_out_passage_is_trained_on_and_all_are_long_enough(tmp_path: Path) -> None:
    folder = write_own_texts(tmp_path)
    trained, held = (set((folder / name).read_text().splitlines()) for name in (TRAIN, TEST))
    assert not trained & held
    assert len(held) >= 10 and all(len(passage) >= 200 for passage in held)
    assert held_out_text(folder) == folder / TEST


@pytest.mark.live
@pytest.mark.long
def test_every_check_of_the_trainings_holds(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTHUMAN_")}
    command = [str(Path(sys.executable).parent / "posthuman"), "demo-train", "--steps", "60", "--json"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**environment, "POSTHUMAN_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=900
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert [check for check in told["checks"] if not check["holds"]] == []
    assert (told["verified"], done.returncode) == (True, 0)
    assert {check["chapter"] for check in told["checks"]} == set(range(1, 9))
