"""The import contracts cover every module: a new one cannot slip past them."""

from __future__ import annotations

import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LIGHT = {"child", "confine", "entry", "errors", "manifest", "pbtxt", "probes", "tasks", "tensorrt", "tensors", "weights_folder"}
"""What the packages above the converters may import; none of it imports a heavy library."""


def test_every_module_of_the_converters_is_light_or_closed_to_the_packages_above() -> None:
    linter = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(one for one in linter["contracts"] if one["name"].startswith("Above the converters"))
    closed = {name.removeprefix("converters.") for name in contract["forbidden_modules"]}
    modules = {path.stem for path in (REPOSITORY / "converters").glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in (REPOSITORY / "converters").glob("*/__init__.py")}
    assert closed | LIGHT == modules
    assert closed & LIGHT == set()


def test_every_package_is_under_the_contracts() -> None:
    linter = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    outside = {"bench", "docs", "model_repository", "node_modules", "tests"}
    packages = {path.parent.name for path in REPOSITORY.glob("*/*.py")} - outside
    assert set(linter["root_packages"]) == packages
