"""`python -m converters` as a process: lines, exit codes, and an environment without keys."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from converters.child import child_environment, conversion_command
from converters.entry import model_digest
from converters.pipeline import Converted
from converters.weights_folder import weights_digest, weights_name
from tests.converters import poisons, sources


def run(model: str, out: Path, **options: str) -> subprocess.CompletedProcess[str]:
    environment = child_environment({"PATH": "/usr/bin:/bin"}, out.parent)
    command = conversion_command(model, out, **options)
    # Any folder will do to stand in, the one of a stranger too.
    return subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_conversion_prints_stages_and_then_the_entry_and_nothing_else(
    tiny_gpt2: Path, gpt2_entry: Converted, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    done = run(str(tiny_gpt2), tmp_path / "out", keep_weights=kept)
    assert (done.returncode, done.stderr) == (0, "")
    *stages, result = [json.loads(line) for line in done.stdout.splitlines()]
    assert [stage["stage"] for stage in stages] == ["fetch", "scan", "start", "load", "export", "parity", "probes", "entry"]
    assert all(stage["seconds"] >= 0 for stage in stages)
    assert set(result) == {"folder", "digest", "name", "is_new", "entry", "stages", "weights"}
    weights = weights_digest(next(kept.iterdir()))
    assert result["weights"] == {"folder": str(kept / weights_name(weights)), "digest": weights}
    # Another process, with another hash seed and another folder: the same model.
    assert result["digest"] == gpt2_entry.digest == model_digest(Path(result["folder"]))
    assert result["entry"] == json.loads((Path(result["folder"]) / "entry.json").read_text())


@pytest.mark.slow
def test_a_name_and_a_task_of_the_publishers_choice_are_in_the_entry(tiny_bert: Path, tmp_path: Path) -> None:
    done = run(str(tiny_bert), tmp_path / "out", name="my-model", task="feature-extraction")
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["name"], result["entry"]["task"]) == ("my-model", "feature-extraction")


def test_a_refusal_is_exit_code_3_with_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    folder = sources.sound(tmp_path / "model")
    poisons.POISONS["pickle-weights-only"][0](folder, tmp_path / "canary")
    done = run(str(folder), tmp_path / "out")
    assert done.returncode == 3
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["error"] == "ModelRefused" and "pytorch_model.bin" in last["message"]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_safe_model_whose_weights_fit_nothing_is_refused_by_the_loader(tmp_path: Path) -> None:
    done = run(str(sources.sound(tmp_path / "model")), tmp_path / "out")
    assert done.returncode in (3, 4) and "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["error"] in ("ModelRefused", "ConversionFailed")


@pytest.mark.parametrize("arguments", [[], ["model"], ["model", "--out", "x", "--task", "mind-reading"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    command = [*conversion_command("model", tmp_path)[:3], *arguments]
    environment = child_environment({"PATH": "/usr/bin:/bin"}, tmp_path)
    assert subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=60, check=False).returncode == 2


def test_people_get_the_reason_on_stderr_and_an_empty_stdout(tmp_path: Path) -> None:
    command = [part for part in conversion_command("no-such-folder", tmp_path / "out") if part != "--json"]
    environment = child_environment({"PATH": "/usr/bin:/bin"}, tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "") and "expected a folder, or a hub id" in done.stderr
