"""The model the demo sells: a tiny one trained here, or the one the caller names.

In: nothing, or a folder or hub id. Out: a model folder. This module must never import PyTorch: training and reference answers are
child processes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from control_plane.errors import PosthumanError
from deploy.local.environment import component_environment
from deploy.progress import Steps

OWN_NAME = "Tiny storyteller"
"""Of the model that is trained here."""
_HERE = Path(__file__).resolve().parent
_SOURCES = (_HERE / "tiny_model.py", _HERE / "corpus.txt")


class ChildFailed(PosthumanError):
    """Training or the reference ended badly; the message has its last line."""

    code = "child_failed"


@dataclass(frozen=True)
class DemoModel:
    """model: what `posthuman publish` gets. is_local: a folder that the reference can open too. licence: None for its own."""

    name: str
    model: str
    is_local: bool
    licence: str | None = None


def choose_model(named: str | None, home: Path, steps: Steps, licence: str | None = None) -> DemoModel:
    """Train the tiny model once and keep it, or take the named one. licence: where its files state none.

    Again: finds the trained one.
    """
    if named is not None:
        folder = Path(named)
        if folder.is_dir():
            return DemoModel(folder.resolve().name, str(folder.resolve()), True, licence)
        return DemoModel(named, named, False, licence)
    fingerprint = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()[:12]
    folder = home / "demo" / f"tiny-gpt2-{fingerprint}"
    if not (folder / "config.json").is_file():
        part = folder.with_name(folder.name + ".part")
        with steps.step("training a tiny GPT-2 on our own text (2 layers, 128 wide)"):
            _child(["-m", "deploy.demo.tiny_model", str(part)], home, report=steps.say)
        part.rename(folder)
    return DemoModel(OWN_NAME, str(folder), True, "apache-2.0")


def greedy_tokens(folder: str, prompts: Sequence[str], count: int, home: Path) -> list[list[int]]:
    """The token ids that `transformers` generates greedily after each prompt."""
    answers: list[list[int]] = json.loads(_child(["-m", "deploy.demo.greedy", folder, str(count)], home, json.dumps(prompts)))
    return answers


def _child(arguments: Sequence[str], home: Path, stdin: str = "", report: Callable[[str], None] | None = None) -> str:
    """Run a module of ours and return its last line; `report` gets each line in which it says how far it is."""
    (home / "demo").mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_HERE.parent.parent,
        env={
            **component_environment(home),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait by spinning take a busy machine's cores from each other
        },
    )
    assert child.stdin and child.stdout and child.stderr  # noqa: S101  # asked for above
    try:
        child.stdin.write(stdin)
        child.stdin.close()
        last = ""
        for line in child.stderr:
            last = line.strip() or last
            if report is not None and line.startswith("step "):
                report(f"  {line.strip()}")
        said = child.stdout.read().strip()
    finally:
        if child.poll() is None and sys.exc_info()[0] is not None:
            child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()
    if child.returncode != 0 or not said:
        raise ChildFailed(f"{arguments[1]}: ended with {child.returncode}: {last or 'it said nothing'}")
    return said.splitlines()[-1]
