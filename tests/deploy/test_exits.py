"""Exit codes: one for each way a command can end, whoever raised the error."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from control_plane.errors import (
    BadInput,
    Forbidden,
    IntegrityBroken,
    NotFound,
    OutcomeUnknown,
    PosthumanError,
    Refused,
    Unauthenticated,
    Unavailable,
)
from converters.errors import ConversionFailed, ModelRefused
from deploy import exits
from deploy.cli import main
from deploy.commands.trade import token_wei
from deploy.market import MarketRefused


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PosthumanError("broken"), exits.FAILED),
        (IntegrityBroken("swapped"), exits.FAILED),
        (ConversionFailed("no"), exits.FAILED),
        (BadInput("did", "a DID", "x"), exits.REFUSED),
        (BadInput("body", "less", "more", status=413), exits.REFUSED),
        (Unauthenticated("no"), exits.REFUSED),
        (Forbidden("no"), exits.REFUSED),
        (NotFound("no"), exits.REFUSED),
        (Refused("reverted"), exits.REFUSED),
        (ModelRefused("pickle"), exits.REFUSED),
        (Unavailable("later"), exits.TRY_AGAIN),
        (OutcomeUnknown("sent"), exits.UNKNOWN),
        (MarketRefused(403, "forbidden", "no", {}, None), exits.REFUSED),
        (MarketRefused(429, "too_many", "later", {}, 1), exits.TRY_AGAIN),
        (MarketRefused(503, "unavailable", "later", {}, 2), exits.TRY_AGAIN),
        (MarketRefused(503, "model_tampered", "swapped", {}, 60), exits.FAILED),
        (MarketRefused(503, "outcome_unknown", "sent", {}, 5), exits.UNKNOWN),
        (MarketRefused(500, "internal_error", "broken", {}, None), exits.FAILED),
    ],
)
def test_each_kind_of_error_has_its_code(error: Exception, code: int) -> None:
    assert exits.exit_code_of(error) == code


@pytest.mark.parametrize("is_json", [False, True])
def test_an_error_is_one_line_or_one_object(is_json: bool) -> None:
    @click.command(cls=exits.Command)
    def fails(is_json: bool) -> None:
        raise BadInput("did", "a DID", "x")

    ran = CliRunner().invoke(fails, ["--json"] if is_json else [])
    assert ran.exit_code == exits.REFUSED
    if is_json:
        assert json.loads(ran.stdout)["error"] == {
            "code": "bad_input",
            "message": "did: expected a DID, found 'x'",
            "field": "did",
            "expected": "a DID",
            "found": "'x'",
        }
    else:
        assert ran.stdout == ""
        assert ran.stderr == "bad_input: did: expected a DID, found 'x'\n"


def test_an_error_we_do_not_know_is_not_hidden() -> None:
    @click.command(cls=exits.Command)
    def fails(is_json: bool) -> None:
        raise ZeroDivisionError

    assert isinstance(CliRunner().invoke(fails, []).exception, ZeroDivisionError)


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_subcommand_has_help_with_an_example(name: str) -> None:
    for command in ([name],) if name != "wallet" else ([name], [name, "new"]):
        ran = CliRunner().invoke(main, [*command, "--help"])
        assert ran.exit_code == 0
        assert "Example:" in ran.stdout
        assert f"posthuman {name}" in ran.stdout
        assert "--json" in ran.stdout or command == ["wallet"]
        assert "Exit codes:" in ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["wallet", "nonsense"],
        ["call"],
        ["status", "--nonsense"],
        ["publish", "model", "--as", "alice"],
        ["logs", "-f"],
        ["verify", "/nowhere", "--rpc", "http://127.0.0.1:9"],
    ],
)
def test_a_wrong_command_line_is_2_and_with_json_an_object(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHUMAN_HOME", str(tmp_path))
    plain = CliRunner().invoke(main, arguments)
    assert plain.exit_code == exits.USAGE
    assert plain.stdout == "" and "Error:" in plain.stderr
    ran = CliRunner().invoke(main, [*arguments, "--json"])
    assert ran.exit_code == exits.USAGE, ran.output
    assert json.loads(ran.stdout)["error"]["code"] == "usage"


@pytest.mark.parametrize(("text", "wei"), [("1.5", 15 * 10**17), ("0", 0), ("0.000000000000000001", 1), ("7", 7 * 10**18)])
def test_a_price_is_read_exactly(text: str, wei: int) -> None:
    assert token_wei(text) == wei


@pytest.mark.parametrize("text", ["-1", "1e3", "nan", "", "1.5.0", "0.0000000000000000001", "1,5", "٣"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--price"):
        token_wei(text)
