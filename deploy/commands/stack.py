"""`up`, `down`, `status`, `logs`: the embedded stack.

In: a state folder. Out: a supervisor started, ended, or described. This module must never end a process of another state folder.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import click

from control_plane.errors import BadInput, PosthumanError
from control_plane.settings import read_settings
from deploy import exits
from deploy.local.control import is_running, read_status, start_stack, stop_stack
from deploy.local.environment import remembered_lines
from deploy.local.supervisor import tail
from deploy.progress import Steps


class StartFailed(PosthumanError):
    """The stack did not come up; the message names the component and its log's last lines."""

    code = "start_failed"


def bring_up(home: Path, steps: Steps) -> dict[str, Any]:
    """Start the stack unless it runs; returns its status. Raises StartFailed. Again: says that it runs."""
    if is_running(home):
        steps.say("the stack is running already")
        return read_status(home)
    for line in remembered_lines(home, os.environ):
        steps.say(line)
    status = start_stack(home, steps)
    if not is_running(home):
        raise StartFailed(str(status.get("error") or "the supervisor ended before it was ready") + _last_words(home))
    return status


def _last_words(home: Path) -> str:
    lines = tail(home / "logs" / "supervisor.log")
    return f"\n  supervisor.log:\n{lines}" if lines else ""


@click.command(cls=exits.Command)
def up(is_json: bool) -> None:
    """Start the embedded stack and wait until it is ready.

    \b
    Example:
      posthuman up
    """
    home = read_settings().home
    status = bring_up(home, Steps(is_quiet=is_json))
    exits.show(status, _lines(status), is_json)


@click.command(cls=exits.Command)
def down(is_json: bool) -> None:
    """Stop the embedded stack; no process is left. What it stored stays.

    \b
    Example:
      posthuman down
    """
    home = read_settings().home
    steps = Steps(is_quiet=is_json)
    with steps.step("stopping"):
        ended = stop_stack(home)
    exits.show({"ended": ended}, [f"{ended} processes ended"], is_json)


@click.command(cls=exits.Command)
def status(is_json: bool) -> None:
    """Say which components run, since when, and how often each was restarted. Exit code 1 when the stack is not ready.

    \b
    Example:
      posthuman status --json
    """
    home = read_settings().home
    record = read_status(home)
    exits.show(record, _lines(record), is_json)
    raise SystemExit(exits.DONE if record["state"] == "ready" else exits.FAILED)


@click.command(cls=exits.Command)
@click.argument("component", required=False)
@click.option("-n", "count", default=20, show_default=True, help="Lines of each log.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing (one component).")
def logs(component: str | None, count: int, follow: bool, is_json: bool) -> None:
    """Print the last lines of the components' logs.

    \b
    Example:
      posthuman logs web -n 50
    """
    if follow and component is None:
        raise click.UsageError("-f follows one component's log: name it")
    if follow and is_json:
        raise click.UsageError("-f has no end, --json prints one object: give one of them")
    folder = read_settings().home / "logs"
    known = sorted(path.stem for path in folder.glob("*.log"))
    if component is not None and component not in known:
        raise BadInput("component", f"one of {', '.join(known) or '(no logs yet)'}", component)
    chosen = [component] if component else known
    found = {name: _last(folder / f"{name}.log", count) for name in chosen}
    lines = [line for name, last in found.items() for line in (f"== {name}", *last)]
    exits.show(found, lines, is_json)
    if follow:
        _follow(folder / f"{component}.log")


def _last(path: Path, count: int) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=count)]


def _follow(path: Path) -> None:
    with path.open(encoding="utf-8", errors="replace") as stream:
        stream.seek(0, 2)
        while True:
            line = stream.readline()
            if line:
                click.echo(line, nl=False)
            else:
                time.sleep(0.2)


def _lines(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['state']}" + (f": {record['error']}" if record.get("error") else "")]
    for part in record["components"]:
        place = f"127.0.0.1:{part['port']}" if part.get("port") else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(part["since"]))
        restarts = f"{part['restarts']} restarts" if part["restarts"] != 1 else "1 restart"
        reason = f" ({part['reason']})" if part["reason"] else ""
        lines.append(
            f"  {part['name']:<10} {part['state']:<10} {place:<16} pid {part['pid'] or '-':<8} since {since}  {restarts}{reason}"
        )
    return lines
