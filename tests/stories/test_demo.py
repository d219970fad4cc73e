"""The story that a newcomer sees, on real parts: every check of it holds, twice."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fixtures_stack import LiveStack

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_every_check_of_the_story_holds(told: Any) -> None:
    assert [check for check in told["checks"] if not check["holds"]] == []
    assert told["verified"] is True
    assert told["code"] == 0


def test_every_chapter_checks_something(told: Any) -> None:
    assert {check["chapter"] for check in told["checks"]} == {1, 2, 3, 4, 5, 6, 7}


def test_greedy_answers_through_the_whole_path_are_those_of_transformers(told: Any) -> None:
    compared = [check for check in told["checks"] if "token for token" in check["check"]]
    assert len(compared) == 3
    assert all(check["evidence"] == "24 tokens" for check in compared)


def test_told_a_second_time_it_finds_the_same_asset(stack: LiveStack, on_sale: str) -> None:
    before = [model["id"] for model in stack.run("models", "--json").json["models"]]
    again = stack.run("demo", "--json", timeout_s=600)
    assert again.code == 0, again.out
    assert [model["id"] for model in stack.run("models", "--json").json["models"]] == before
    assert on_sale in before
