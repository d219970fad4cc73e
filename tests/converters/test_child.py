"""What a conversion's process may see of its parent."""

from __future__ import annotations

from pathlib import Path

from converters.child import child_environment, conversion_command


def test_no_secret_reaches_the_child_whatever_its_name(tmp_path: Path) -> None:
    parent = {
        "PATH": "/bin",
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "HF_TOKEN": "secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "POSTHUMAN_KEY": "secret",
        "A_VARIABLE_NOBODY_KNOWS_YET": "secret",
        "LD_PRELOAD": "secret",
        "PYTHONPATH": "secret",
        "HOME": "secret",
    }
    child = child_environment(parent, tmp_path)
    assert "secret" not in child.values()
    assert (child["PATH"], child["HF_ENDPOINT"], child["HOME"], child["TMPDIR"]) == (
        "/bin",
        "http://127.0.0.1:1",
        str(tmp_path),
        str(tmp_path),
    )


def test_a_model_named_like_an_option_is_still_a_model(tmp_path: Path) -> None:
    command = conversion_command("--json", tmp_path, task="text-generation", name="x")
    assert command[-2:] == ["--", "--json"] and "--task=text-generation" in command and "--name=x" in command
