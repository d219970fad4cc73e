"""The same model sold again with cheaper arithmetic, by one word more: it says what it is and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from huggingface_hub import InferenceClient

from tests.fixtures_families import Families, families

__all__ = ["families"]

pytestmark = [pytest.mark.live, pytest.mark.slow]


def entry_of(families: Families, did: str) -> Any:
    return requests.get(f"{families.stack.settings.public_url}/v1/models/{did}/entry", timeout=10).json()


@pytest.mark.parametrize(
    ("model_type", "precision", "measure"),
    [pytest.param("gpt2", "int8", "loss", marks=pytest.mark.long), ("distilbert", "int4", "agreement")],
)
def test_a_reduced_model_has_its_own_digest_and_tells_a_buyer_its_cost(
    families: Families, model_type: str, precision: str, measure: str
) -> None:
    full, stack = families.sold(model_type), families.stack
    terms = ("--as", "alice", "--price", "1", "--name", f"tiny {model_type} {precision}", "--task", full.task)
    ran = stack.run("publish", str(full.folder), *terms, "--precision", precision, "--json", timeout_s=600)
    assert ran.code == 0, ran.out + ran.err
    did = str(ran.json["did"])
    plain, reduced = entry_of(families, full.did), entry_of(families, did)
    assert (plain["precision"], reduced["precision"]) == ("fp32", precision)
    assert ran.json["model_digest"] != full.record["model_digest"]
    assert measure in {line["measure"] for line in reduced["quality"]}
    assert plain["quality"] == []
    assert all(line["worst_relative"] <= line["bound"] for line in reduced["parity"])
    bounds = {line["bound"] for line in plain["parity"]}
    assert max(line["bound"] for line in reduced["parity"]) > max(bounds)
    served = requests.get(f"{stack.settings.public_url}/v1/models/{did}", timeout=10).json()["parity"]
    assert served
    assert all(line["worst_relative"] <= line["bound"] for line in served)


def test_a_reduced_model_answers_its_buyer(families: Families) -> None:
    full, stack = families.sold("distilbert"), families.stack
    terms = ("--as", "alice", "--price", "1", "--name", "answering", "--task", full.task, "--precision", "int8", "--json")
    ran = stack.run("publish", str(full.folder), *terms, timeout_s=600)
    assert ran.code == 0, ran.out + ran.err
    did = str(ran.json["did"])
    client = InferenceClient(model=f"{stack.settings.public_url}/models/{did}", token=families.token_for(did))
    plain = families.client("distilbert").text_classification("Lemons, by the harbour.")
    cheaper = client.text_classification("Lemons, by the harbour.")
    assert {row.label for row in cheaper} == {row.label for row in plain}
    assert sum(row.score for row in cheaper) == pytest.approx(1, abs=1e-3)
