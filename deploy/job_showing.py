"""A job as its owner sees it: a bar while it lasts, lines of JSON for a program, lines of text at its end.

In: what the market says of a job, again and again. Out: lines, and the last of what was said. This module must never ask the
market itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import click

_AGAIN = {"train": "train {did}", "evaluate": "evaluate {did} --as-job", "infer": "infer {did}"}
"""Which command has each kind of job for a payment that is there."""


def print_changes(shown: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """One line of JSON for each state, place in the queue or step that is new; the last one is the whole job."""
    seen: object = None
    last: dict[str, Any] = {}
    for last in shown:
        now = (last["state"], last["queue_position"], last["progress"])
        if now != seen:
            seen = now
            click.echo(json.dumps(last, sort_keys=True))
    return last


def show_bar(shown: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A bar as long as the program runs; without a terminal, click writes its label alone."""
    last = next(shown)
    while last["progress"] is None or last["progress"]["steps"] < 1:
        click.echo(
            f"\r\033[K{last['status_text']}" if sys.stderr.isatty() else last["status_text"], err=True, nl=not sys.stderr.isatty()
        )
        following = _changed(last, shown)
        if following is None:
            return last
        last = following
    steps = int(last["progress"]["steps"])
    with click.progressbar(length=steps, label=last["kind"], file=sys.stderr, item_show_func=lambda each: each or "") as bar:
        while True:
            progress = last["progress"] or {"step": bar.pos}
            bar.update(max(int(progress["step"]) - bar.pos, 0), progress_text(last))
            following = next(shown, None)
            if following is None:
                return last
            last = following


def _changed(before: dict[str, Any], shown: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The next that says something else, or has begun; None at the end."""
    for each in shown:
        if each["status_text"] != before["status_text"] or each["progress"] is not None:
            return each
    return None


def job_lines(job: dict[str, Any]) -> list[str]:
    lines = [f"job {job['job_id']}: {job['kind']} of {job['did']}", job["status_text"]]
    if progress := progress_text(job):
        lines.append(progress)
    if job["result"] is not None:
        lines += [f"{name}: {value}" for name, value in job["result"].items() if not isinstance(value, list | dict)]
    if job["derived_did"] is not None:
        lines.append(f"yours: {job['derived_did']}")
    if job["is_payment_given_back"]:
        again = _AGAIN[job["kind"]].format(did=job["did"])
        lines.append(f"its payment is good for another job: posthuman {again} --order {job['payment']}")
    return lines


def progress_text(job: dict[str, Any]) -> str:
    progress = job["progress"]
    if progress is None:
        return ""
    parts = [f"step {progress['step']} of {progress['steps']}"]
    if progress["loss"] is not None:
        parts.append(f"loss {progress['loss']:.4f}")
    if progress["steps_per_second"] is not None:
        parts.append(f"{progress['steps_per_second']:.2f} steps/s")
    return ", ".join(parts)
