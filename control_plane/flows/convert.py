"""Convert a stranger's model in a child process that holds no key.

In: a model folder or hub id. Out: an entry's folder, and its weights. This module must never open a model's file, and the
child must never see this process's secrets.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from control_plane.errors import PosthumanError, Refused, Unavailable
from control_plane.flows.entries import Made
from converters.child import child_environment, conversion_command
from converters.errors import ConversionFailed, EntryBroken, ModelRefused, ParityFailed

PACKAGES = Path(__file__).resolve().parent.parent.parent
"""The folder that holds `converters`."""

CODES = {
    2: "bad_input",
    ModelRefused.exit_code: "model_refused",
    ConversionFailed.exit_code: "conversion_failed",
    ParityFailed.exit_code: "parity_failed",
    EntryBroken.exit_code: "entry_broken",
}
"""What each exit code of `python -m converters` means; 2 is a wrong command line."""

Report = Callable[[str, float], None]
"""Called as each stage of a conversion ends: its name and its seconds."""


class ConversionCrashed(PosthumanError):
    """The operator must act: the converter ended without saying why (no memory, a killed process, a broken installation)."""

    code = "conversion_crashed"


def convert_in_child(
    model: str,
    out: Path,
    *,
    task: str | None,
    revision: str | None,
    name: str | None,
    precision: str | None = None,
    parents: Sequence[str] = (),
    environ: Mapping[str, str],
    scratch: Path,
    timeout_s: float,
    report: Report,
) -> Made:
    """Make the entry of `model` below the folder `out`, and keep beside it the checked copy that it was made from.

    environ: this process's environment; only what `child_environment` allows is passed on. scratch: the child's home.
    Raises Refused with the converter's reason, Unavailable when it took longer than `timeout_s`, ConversionCrashed otherwise.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    errors = scratch / f"{out.name}.stderr"  # several conversions have one scratch
    is_late = threading.Event()
    with (
        errors.open("w", encoding="utf-8") as stderr,
        subprocess.Popen(
            conversion_command(
                model,
                out,
                task=task,
                revision=revision,
                name=name,
                precision=precision,
                cache=scratch / "hub",
                parents=parents,
                keep_weights=out / "weights",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=PACKAGES,
            env=child_environment(environ, scratch),
            start_new_session=True,
        ) as child,
    ):

        def stop() -> None:
            is_late.set()
            _end(child)

        timer = threading.Timer(timeout_s, stop)
        timer.start()
        try:
            last = _follow(child, report)
            code = child.wait()
        except BaseException:
            _end(child)
            raise
        finally:
            timer.cancel()
    said = _last_line(errors)
    errors.unlink()
    if is_late.is_set():
        raise Unavailable(f"{model}: the conversion took longer than {timeout_s:g} s", code="conversion_timeout")
    reason = str(last.get("message") or said)
    if code in CODES:
        raise Refused(f"{model}: {reason}", code=CODES[code])
    if code != 0 or "folder" not in last:
        raise ConversionCrashed(f"{model}: the converter ended with {code}: {reason}")
    kept = last.get("weights")
    weights = _below(out, str(kept["folder"]), model) if isinstance(kept, Mapping) else None
    return Made(_below(out, str(last["folder"]), model), weights)


def _below(out: Path, said: str, model: str) -> Path:
    folder = Path(said).resolve()
    if out.resolve() not in folder.parents:
        raise ConversionCrashed(f"{model}: expected a folder below {out}, the converter says {folder}")
    return folder


def _end(child: subprocess.Popen[str]) -> None:
    """Kill the child and whatever it started: they are a process group of their own."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _follow(child: subprocess.Popen[str], report: Report) -> Mapping[str, Any]:
    """Read the child's lines to their end; returns the last one, which says how it went."""
    last: Mapping[str, Any] = {}
    for line in child.stdout or ():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # not one of the converter's lines
        if isinstance(record, dict):
            last = record
            if "stage" in record:
                report(str(record["stage"]), float(record.get("seconds", 0.0)))
            elif "note" in record:
                report(str(record["note"]), 0.0)  # what whoever waits must know, such as a lock that did not close
    return last


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:400] if lines else "it said nothing"
