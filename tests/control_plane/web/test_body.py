"""Nesting is refused before anything parses it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from control_plane.errors import BadInput
from control_plane.web.body import DEEPEST, check_nesting, parse_object

HOSTILE = b"[" * 1_000_000


def nested(levels: int) -> bytes:
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


def test_what_is_as_deep_as_allowed_is_parsed_and_one_deeper_is_not() -> None:
    assert set(parse_object(nested(DEEPEST))) == {"a"}
    with pytest.raises(BadInput, match="nested at most 64 deep"):
        parse_object(nested(DEEPEST + 1))


def test_brackets_inside_texts_and_side_by_side_are_not_depth() -> None:
    assert parse_object(b'{"a": "' + b"[" * 5000 + b'\\"[[", "b": "\\\\", "c": [' + b"[]," * 5000 + b"[]]}")["b"] == "\\"


def test_an_open_text_full_of_brackets_is_not_worth_a_stack() -> None:
    with pytest.raises(BadInput):
        parse_object(b'{"a": "' + b"[" * 1_000_000)


@pytest.mark.parametrize("body", [HOSTILE, b'{"a":' * 500_000, b'["' * 200_000, b'"\\' * 200_000 + HOSTILE])
def test_a_hostile_body_is_refused(body: bytes) -> None:
    with pytest.raises(BadInput):
        check_nesting(body)
        parse_object(body)


def test_the_control_plane_leaves_the_recursion_limit_alone() -> None:
    """A library raises it to 100,000, and then nested JSON ends the process instead of raising."""
    script = "import sys, control_plane.wiring, web3, eth_account; print(sys.getrecursionlimit())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1000"
