"""How a command ends: exit codes that a script can trust, and errors as people or programs read them.

In: an error of any part. Out: a code, a line, a JSON object. This module must never hide an error it does not know.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from control_plane.errors import IntegrityBroken, OutcomeUnknown, PosthumanError, Unavailable
from converters.errors import ConverterError, ModelRefused

DONE, FAILED, USAGE, REFUSED, TRY_AGAIN, UNKNOWN = range(6)

TABLE = """\b
Exit codes:
  0  done
  1  failed, or a check was not verified
  2  the command line is wrong
  3  refused, with the reason; repeating will not help
  4  not available now; try again
  5  sent, and nobody knows yet whether it was done; run the same command again, it looks first"""


def exit_code_of(error: BaseException) -> int:
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, OutcomeUnknown):
        return UNKNOWN
    if isinstance(error, IntegrityBroken):
        return FAILED
    if isinstance(error, Unavailable):
        return TRY_AGAIN
    if isinstance(error, ModelRefused):
        return REFUSED
    if isinstance(error, PosthumanError):
        return _code_of_status(error.status, error.code)
    return FAILED


_BROKEN = frozenset({IntegrityBroken.code, "model_tampered", "entry_unservable"})
"""What a market answers with status 503 though trying again will not help before its operator has acted."""


def _code_of_status(status: int, code: str) -> int:
    if code == OutcomeUnknown.code:
        return UNKNOWN
    if code in _BROKEN:
        return FAILED
    if status in (429, 502, 503, 504):
        return TRY_AGAIN
    return REFUSED if 400 <= status < 500 else FAILED


def record_of(error: BaseException) -> dict[str, Any]:
    """What `--json` prints for an error."""
    if isinstance(error, PosthumanError):
        return {"error": {"code": error.code, "message": error.message, **error.details()}}
    if isinstance(error, click.ClickException):
        return {"error": {"code": "usage", "message": error.format_message()}}
    return {"error": {"code": _snake(type(error).__name__), "message": str(error)}}


def show(record: Mapping[str, Any], lines: Sequence[str], is_json: bool) -> None:
    """Print a result: one JSON object, or lines for people."""
    if is_json:
        click.echo(json.dumps(record, ensure_ascii=False))
    else:
        for line in lines:
            click.echo(line)


class Command(click.Command):
    """A subcommand: with `--json`, with the exit codes of `TABLE`, and with our errors on one line instead of a traceback."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.params.append(click.Option(["--json", "is_json"], is_flag=True, help="Print one JSON object."))
        self.epilog = TABLE

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _usage(_wants_json(args)):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        is_json = bool(context.params.get("is_json"))
        try:
            with _usage(is_json):
                return super().invoke(context)
        except (PosthumanError, ConverterError) as error:
            end(error, is_json)


class Group(click.Group):
    """A group whose unknown subcommand is an object too, with `--json`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        with _usage(_wants_json(args)):
            return super().resolve_command(ctx, args)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether `--json` is among the words of a command line that may be wrong; what follows `--` are no options."""
    options = list(arguments)
    return "--json" in (options[: options.index("--")] if "--" in options else options)


@contextmanager
def _usage(is_json: bool) -> Iterator[None]:
    """A wrong command line: with `--json` an object and its code; otherwise click shows how it should be."""
    try:
        yield
    except click.ClickException as error:
        if not is_json:
            raise
        end(error, is_json)


def end(error: BaseException, is_json: bool) -> NoReturn:
    """Print an error and end the process with its code."""
    if is_json:
        click.echo(json.dumps(record_of(error), ensure_ascii=False))
    else:
        click.echo(f"{record_of(error)['error']['code']}: {error}", err=True)
    sys.exit(exit_code_of(error))


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
