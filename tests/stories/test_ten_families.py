"""One model of each of many families, from a folder to a model on sale, by one command and nothing written by hand."""

from __future__ import annotations

import pytest
import requests

from converters.tasks import TASKS
from tests.fixtures_families import FAMILIES, Families, families

__all__ = ["families"]

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_family_is_published_and_shown_to_give_pytorchs_answers(families: Families, model_type: str) -> None:
    sold, public_url = families.sold(model_type), families.stack.settings.public_url
    listed = requests.get(f"{public_url}/v1/models/{sold.did}", timeout=10).json()
    assert (listed["state"], listed["task"]) == ("on_sale", sold.task)
    assert listed["parity"] == sold.record["parity"]
    assert all(line["worst_relative"] <= line["bound"] and line["probes"] >= 1 for line in listed["parity"])
    assert max(line["probes"] for line in listed["parity"]) >= 3
    entry = requests.get(f"{public_url}/v1/models/{sold.did}/entry", timeout=10).json()
    assert entry["parity"]
    assert entry["export"]["why"]
    assert entry["source"]["licence"]


def test_the_families_are_more_than_ten_and_of_every_kind() -> None:
    kinds = {TASKS[task].kind for task in FAMILIES.values()}
    assert len(FAMILIES) >= 10
    assert kinds >= {"causal", "seq2seq", "text", "image", "audio"}
