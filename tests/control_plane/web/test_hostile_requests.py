"""Requests made to learn a secret, to get work done for nothing, or to break a worker: each is refused before anything was done."""

from __future__ import annotations

import json
import re
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy.exc import OperationalError

from control_plane.database import receipts
from control_plane.did import TransactionHash
from control_plane.serving import catalogue as catalogue_module
from tests.fixtures_market import Market, receipt_of

TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}


def infer(market: Market, token: str, record: dict[str, Any], **headers: str) -> Any:
    return market.post(f"/v2/models/{market.gpt.did}/infer", token, json.dumps(record).encode(), **headers)


def signed_in(market: Market) -> tuple[str, TransactionHash]:
    order = market.order("bob", market.gpt)
    return market.sign_in("bob", market.gpt, order), order


# salts


def test_a_stranger_with_a_public_leaf_learns_no_salt(market: Market) -> None:
    issued = receipt_of(market.complete(market.sign_in("bob", market.gpt)))
    market.log.integrate()
    guessed = {**issued.to_json(), "salt": "0x" + "00" * 32}
    answer = market.client.post("/v1/receipts", json=guessed)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (409, "salt_differs")
    assert issued.salt.hex() not in answer.text
    assert issued.salt.hex() not in market.journal.getvalue()
    assert market.services.store.receipt(issued.id).salt == issued.salt


def test_who_hands_a_receipt_back_is_told_its_name_and_place_alone(market: Market) -> None:
    issued = receipt_of(market.complete(market.sign_in("bob", market.gpt)))
    with market.engine.begin() as connection:
        connection.execute(receipts.delete())
    for _ in range(2):
        answer = market.client.post("/v1/receipts", json=issued.to_json())
        assert (answer.status_code, answer.get_json()) == (200, {"id": issued.id, "leaf_index": None})
    market.log.integrate()
    assert market.client.post("/v1/receipts", json=issued.to_json()).get_json() == {"id": issued.id, "leaf_index": 0}


# tensors


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": [{"name": "logits"}]},
        {"outputs": [{"name": "text_output"}, {"name": "text_output"}]},
        {"outputs": [{"name": "text_output"}] * 65},
        {"outputs": [{"name": "text_output", "parameters": {"binary_data": "yes"}}]},
        {"outputs": [{"name": []}]},
        {"outputs": None},
        {"id": "\ud800"},
        {"id": "x" * 129},
        {"id": []},
        {"id": None},
        {"parameters": None},
        {"parameters": {"binary_data_output": 1}},
        {"inputs": [{**TEXT, "datatype": []}]},
        {"inputs": [{**TEXT, "datatype": {}}]},
        {"inputs": [{**TEXT, "parameters": []}]},
        {"inputs": [{**TEXT, "name": {}}]},
        {"inputs": [{**TEXT, "shape": [1 << 20] * 5000}]},
        {"inputs": [TEXT, {"name": "stop", "datatype": "BYTES", "shape": [1], "data": ["\ud800"]}]},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_a_faulty_tensor_request_is_refused_before_the_model_is_asked(market: Market, change: dict[str, Any]) -> None:
    token, order = signed_in(market)
    answer = infer(market, token, {"inputs": [TEXT], **change})
    assert answer.status_code == 400, answer.text
    assert answer.get_json()["param"]
    assert market.server.asked == []
    assert market.calls_used(order) == 0


def test_every_output_once_and_a_long_id_are_still_answered(market: Market) -> None:
    token, _order = signed_in(market)
    names = ("finish_reason", "text_output", "token_ids", "prompt_tokens", "completion_tokens")
    record = {"inputs": [TEXT], "id": "ö" * 128, "outputs": [{"name": name} for name in names]}
    answer = infer(market, token, record).get_json()
    assert tuple(tensor["name"] for tensor in answer["outputs"]) == names
    assert answer["id"] == "ö" * 128


@pytest.mark.parametrize("length", ["0000000000001" + "0" * 9, "000000000000" + "9" * 5, "0" * 5000, "-1", "1e1", "٣", " "])
def test_a_header_length_longer_than_any_body_is_a_400(market: Market, length: str) -> None:
    token, order = signed_in(market)
    for did in (market.gpt.did, market.embedder.did):
        body, path = json.dumps({"inputs": [TEXT]}).encode(), f"/v2/models/{did}/infer"
        bearer = token if did == market.gpt.did else market.sign_in("bob", market.embedder)
        headers = {**market.bearer(bearer), "Inference-Header-Content-Length": length.encode().decode("latin-1")}
        answer = market.client.post(path, data=body, content_type="application/octet-stream", headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.get_json()["param"] == "Inference-Header-Content-Length"
    assert market.server.asked == []
    assert market.calls_used(order) == 0


# numbers and paths


@pytest.mark.parametrize("asked", ["0000000000019", "1" + "0" * 5000, "000000000001" + "9" * 20])
def test_an_offer_for_longer_than_a_number_can_say_is_a_400(market: Market, asked: str) -> None:
    consumer = market.wallet("bob").address
    answer = market.client.get(f"/v1/offers/{market.gpt.did}?consumer={consumer}&valid_for_s={asked}")
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "valid_for_s")


@pytest.mark.parametrize("groups", [5, 900, 20_000])
def test_a_path_deeper_than_any_log_is_a_404(market: Market, groups: int) -> None:
    for kind in ("0", "entries"):
        answer = market.client.get(f"/log/tile/{kind}/{'x001/' * groups}000")
        assert answer.status_code == 404


# a database that does not answer


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/v1/models"),
        ("get", "/v1/models/{did}"),
        ("get", "/v1/offers/{did}?consumer=0x" + "1" * 40),
        ("get", "/v2/models/{did}"),
        ("get", "/v1/receipts"),
        ("post", "/v1/completions"),
        ("post", "/v2/models/{did}/generate"),
        ("delete", "/v1/auth/token"),
    ],
)
def test_a_database_that_does_not_answer_is_a_503_without_its_details(market: Market, method: str, path: str) -> None:
    token, order = signed_in(market)

    def silent(*_arguments: Any, **_named: Any) -> Any:
        raise OperationalError("SELECT secret FROM place", {"token": "secret"}, Exception("secret: database is locked"))

    with patch("sqlalchemy.engine.base.Connection.execute", silent):
        sent = {"text_input": "x"} if path.startswith("/v2") else {"model": market.gpt.did, "prompt": "x"}
        named = {"headers": market.bearer(token)} | ({"json": sent} if method == "post" else {})
        answer = getattr(market.client, method)(path.format(did=market.gpt.did), **named)
    assert answer.status_code == 503, answer.text
    assert re.fullmatch(r"[1-9][0-9]*", answer.headers["Retry-After"])
    record = answer.get_json()
    assert (record if path.startswith("/v2") else record["error"])["code"] == "unavailable"
    assert "secret" not in answer.text
    assert "secret" not in market.journal.getvalue()
    assert '"kind":"Exception"' in market.journal.getvalue()
    assert market.calls_used(order) == 0


# what is not on sale


@pytest.mark.parametrize("path", ["/v2/models/{did}", "/v2/models/{did}/ready"])
@pytest.mark.parametrize("is_tampered", [True, False], ids=["tampered", "withdrawn"])
def test_a_model_that_is_not_on_sale_is_refused_without_reading_its_weights(market: Market, path: str, is_tampered: bool) -> None:
    if is_tampered:
        token, _order = signed_in(market)
        market.tamper(market.gpt)
        assert market.complete(token).status_code == 503
    else:
        market.services.catalogue.withdraw(market.gpt.did, "no longer sold")
    client = market.new_worker()
    with patch.object(catalogue_module, "model_digest", side_effect=AssertionError("the weights were read")):
        answer = client.get(path.format(did=market.gpt.did))
    assert answer.status_code == 503
    assert answer.headers.get("Retry-After") or path.endswith("ready")
    if not path.endswith("ready"):
        assert answer.get_json()["code"] == "model_withdrawn"
