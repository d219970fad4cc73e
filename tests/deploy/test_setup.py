"""Set-up: what is missing is named in one line each, and what is built is not built again."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import setup
from deploy.progress import Steps


def test_this_machine_lacks_nothing() -> None:
    assert setup.missing() == []


@pytest.mark.parametrize(
    ("change", "value", "named"),
    [
        ("_node_version", lambda: None, "nodejs npm"),
        ("_node_version", lambda: 16, "Node.js 18 or newer is needed, found 16"),
        ("_has_libpython", lambda: False, "libpython3.11"),
        ("_glibc", lambda: (2, 31), "glibc 2.35, found 2.31"),
    ],
)
def test_what_is_missing_gets_one_line(monkeypatch: pytest.MonkeyPatch, change: str, value: object, named: str) -> None:
    monkeypatch.setattr(setup, change, value)
    (line,) = setup.missing()
    assert named in line
    assert "\n" not in line


def test_a_part_is_built_once_until_what_it_is_made_from_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    given = tmp_path / "constraints.txt"
    given.write_text("one==1")
    folder = tmp_path / "environment"
    folder.mkdir()
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    monkeypatch.setattr(setup, "parts", lambda: (setup.Part("a part", folder, (given,), lambda _log: built.append("built")),))
    for _ in range(2):
        setup.set_up(Steps(io.StringIO()), setup.parts())
    assert built == ["built"]
    given.write_text("one==2")
    setup.set_up(Steps(io.StringIO()), setup.parts())
    assert built == ["built", "built"]


def test_a_part_that_failed_is_built_again_and_its_output_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "ROOT", tmp_path)
    log = tmp_path / "setup.log"
    with pytest.raises(SystemExit, match=r"set-up failed(.|\n)*no such package"):
        setup._run([sys.executable, "-c", "print('no such package'); raise SystemExit(1)"], log, {})


def test_set_up_imports_nothing_that_it_has_to_install() -> None:
    known = set(sys.stdlib_module_names)
    for module in ("deploy/local/setup.py", "deploy/progress.py"):
        tree = ast.parse((setup.ROOT / module).read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= known | {"deploy"}, module


def test_a_second_set_up_has_nothing_to_do() -> None:
    if not all(setup._is_built(part) for part in setup.parts()):
        pytest.skip("this checkout was not set up by `make setup`")
    done = subprocess.run([sys.executable, "-m", "deploy.local.setup"], cwd=setup.ROOT, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")  # each part that is built is told


def test_steps_tell_their_seconds_and_their_failure() -> None:
    out = io.StringIO()
    steps = Steps(out)
    with steps.step("converting"):
        pass
    with pytest.raises(ValueError, match="broken"), steps.step("loading"):
        raise ValueError("broken")
    first, second = out.getvalue().splitlines()
    assert first.startswith("  converting: 0.")
    assert second.startswith("  loading: failed after 0.")
