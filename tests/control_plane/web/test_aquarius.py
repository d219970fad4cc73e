"""The metadata of assets as the stock `ocean.py` asks Aquarius for it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct

from control_plane.provider.ddo_schema import MOST_VALUES
from control_plane.provider.search import MOST_CLAUSES
from control_plane.web.aquarius import MOST_NAMES
from tests.control_plane.web.asking import UNKNOWN_DID
from tests.fixtures_market import Market
from tests.ocean_assets import document_of, index, publish, write

ASSETS = "/api/aquarius/assets"
MANY = [f"did:op:{number:064x}" for number in range(MOST_NAMES + 1)]


def test_a_document_is_shown_with_its_transaction(market: Market) -> None:
    asset = publish(market)
    index(market)
    told = market.client.get(f"{ASSETS}/ddo/{asset.did}").get_json()
    assert told["services"] == asset.document["services"]
    assert told["event"]["tx"] == asset.transaction
    assert market.client.get(f"{ASSETS}/metadata/{asset.did}").get_json() == asset.document["metadata"]


def test_an_unknown_asset_is_told_in_the_words_that_publishing_waits_for(market: Market) -> None:
    """ocean.py compares the text: anything else would mean that the asset exists."""
    answer = market.client.get(f"{ASSETS}/ddo/{UNKNOWN_DID}")
    assert answer.status_code == 404
    assert f"Asset DID {UNKNOWN_DID} not found in Elasticsearch" in answer.text
    assert market.client.get(f"{ASSETS}/metadata/{UNKNOWN_DID}").status_code == 404
    assert market.client.get(f"{ASSETS}/ddo/did:op:none").status_code == 400


@pytest.mark.parametrize("state", [1, 2, 3])
def test_a_withdrawn_asset_is_neither_shown_whole_nor_found(market: Market, state: int) -> None:
    asset = publish(market)
    market.ledger.set_state(asset.nft, state)
    index(market)
    told = market.client.get(f"{ASSETS}/ddo/{asset.did}").get_json()
    assert told["nft"]["state"] == state
    assert "services" not in told
    assert "metadata" not in told
    assert market.client.get(f"{ASSETS}/metadata/{asset.did}").status_code == 404
    assert market.client.post(f"{ASSETS}/query", json={}).get_json()["hits"]["hits"] == []
    assert market.client.post(f"{ASSETS}/names", json={"didList": [asset.did]}).get_json() == {}


def test_a_search_finds_what_was_published_after_the_one_before(market: Market) -> None:
    words = {"query": {"query_string": {"query": "Whales"}}}
    assert market.client.post(f"{ASSETS}/query", json=words).get_json()["hits"]["hits"] == []
    asset = publish(market, name="Whales")
    index(market)
    for worker in (market.client, market.new_worker()):
        (hit,) = worker.post(f"{ASSETS}/query", data=json.dumps(words)).get_json()["hits"]["hits"]
        assert (hit["_id"], hit["_source"]["id"]) == (asset.did, asset.did)


def test_a_valid_document_is_signed_as_the_contract_checks_it(market: Market) -> None:
    """ERC721Template recovers the signer from the prefixed hash; eth_account does the same."""
    made = publish(market)
    clear = json.dumps(document_of(market, made.nft, made.datatoken, "https://words.example"), separators=(",", ":")).encode()
    headers = {"content-type": "application/octet-stream"}
    told = market.client.post(f"{ASSETS}/ddo/validate", data=clear, headers=headers).get_json()
    assert told["hash"] == "0x" + hashlib.sha256(clear).hexdigest()
    signature = bytes.fromhex(told["r"][0][2:] + told["s"][0][2:]) + bytes([told["v"]])
    signer = Account.recover_message(encode_defunct(hashlib.sha256(clear).digest()), signature=signature)
    assert signer == told["publicKey"] == market.services.operator.address


def test_a_document_with_faults_is_not_signed(market: Market) -> None:
    answer = market.client.post(f"{ASSETS}/ddo/validate", data=json.dumps({"id": "did:op:1"}))
    assert answer.status_code == 400
    assert answer.get_json()["errors"]["metadata"].startswith("Less than 1 value")
    assert "hash" not in answer.get_json()
    assert market.client.post(f"{ASSETS}/ddo/validate", data=b"[]").status_code == 400


def test_names_states_and_chains_are_told(market: Market) -> None:
    asset = publish(market)
    assert market.client.get("/api/aquarius/chains/status/8996").status_code == 404
    index(market)
    assert market.client.post(f"{ASSETS}/names", json={"didList": [asset.did, UNKNOWN_DID]}).get_json() == {asset.did: "Words"}
    for query in ({"did": asset.did}, {"nft": asset.nft}, {"txId": asset.transaction}):
        assert market.client.get("/api/aquarius/state/ddo", query_string=query).get_json()["did"] == asset.did
    assert market.client.get("/api/aquarius/state/ddo", query_string={"did": UNKNOWN_DID}).status_code == 404
    assert market.client.get("/api/aquarius/state/ddo").status_code == 400
    assert market.client.get("/api/aquarius/chains/list").get_json() == {"8996": True}
    status = market.client.get("/api/aquarius/chains/status/8996").get_json()
    assert status == {"last_block": market.ledger.head().number}
    assert market.client.get("/api/aquarius/chains/status/1").status_code == 404


@pytest.mark.parametrize("body", [{}, {"didList": "x"}, {"didList": ["x"]}, {"didList": [UNKNOWN_DID] * 1001}, {"didList": MANY}])
def test_names_of_what_is_no_list_of_dids_are_refused(market: Market, body: object) -> None:
    assert market.client.post(f"{ASSETS}/names", json=body).status_code == 400


def test_nothing_here_asks_the_chain(market: Market) -> None:
    asset = publish(market)
    index(market)
    market.ledger.is_down = True
    assert market.client.get(f"{ASSETS}/ddo/{asset.did}").status_code == 200
    assert market.client.post(f"{ASSETS}/query", json={}).status_code == 200


def test_a_search_with_an_option_that_is_not_known_is_a_400_in_aquariuss_shape(market: Market) -> None:
    answer = market.client.post(f"{ASSETS}/query", json={"query": {"match_all": {}}, "aggs": {"types": {}}})
    assert (answer.status_code, "aggs" in answer.get_json()["error"]) == (400, True)


def with_values(document: dict[str, Any], count: int) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "additionalInformation": {"x": [[]] * count}}}


def test_a_document_of_more_values_than_anybody_needs_is_neither_indexed_nor_signed(market: Market) -> None:
    """A kilobyte on chain can hold 300,000 of them, and each worker would keep them."""
    asset = publish(market, name="Fat", publisher="mallory")
    index(market)
    headers = {"content-type": "application/octet-stream"}
    for document, is_taken in ((with_values(asset.document, MOST_VALUES), False), (with_values(asset.document, 10_000), True)):
        write(market, "mallory", asset.nft, document)
        assert (asset.did in (index(market) or {}).get("indexed", [])) == is_taken
        told = market.client.post(f"{ASSETS}/ddo/validate", data=json.dumps(document), headers=headers)
        assert told.status_code == (200 if is_taken else 400)
        assert is_taken or told.get_json()["errors"] == {"document": f"It has more than {MOST_VALUES} values."}


def test_names_repeated_are_read_once_and_no_document_is_parsed_for_them(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = publish(market)
    index(market)
    body = {"didList": [asset.did] * MOST_NAMES}
    assert market.client.post(f"{ASSETS}/names", json=body).get_json() == {asset.did: "Words"}
    monkeypatch.setattr("control_plane.provider.asset_index.json", None)  # whoever parses fails
    assert market.client.post(f"{ASSETS}/names", json=body).get_json() == {asset.did: "Words"}


def test_what_a_search_looks_through_is_taken_out_of_a_document_once(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    from control_plane.provider import aqua

    texts = aqua.Texts

    def counted(document: Any) -> Any:
        made.append(document["id"])
        return texts(document)

    monkeypatch.setattr(aqua, "Texts", counted)
    first = publish(market)
    index(market)
    for _ in range(3):
        assert market.client.post(f"{ASSETS}/query", json={}).get_json()["hits"]["total"]["value"] == 1
    second = publish(market, name="Whales")
    index(market)
    words = {"query": {"query_string": {"query": "Whales"}}}
    assert market.client.post(f"{ASSETS}/query", json=words).get_json()["hits"]["hits"][0]["_id"] == second.did
    write(market, "alice", first.nft, document_of(market, first.nft, first.datatoken, "https://words.example", name="Seals"))
    index(market)
    words["query"]["query_string"]["query"] = "Seals"
    assert market.client.post(f"{ASSETS}/query", json=words).get_json()["hits"]["hits"][0]["_id"] == first.did
    assert made == [first.did, second.did, first.did]


def test_a_search_that_takes_too_long_is_a_400_in_aquariuss_shape(market: Market) -> None:
    asset = publish(market)
    write(market, "alice", asset.nft, with_zeros(asset.document))
    index(market)
    clause = {"multi_match": {"query": "z0 z1 z2 z3 z4 z5 z6 z7", "fields": ["*"] * 16}}
    answer = market.client.post(f"{ASSETS}/query", json={"query": {"bool": {"should": [clause] * (MOST_CLAUSES - 1)}}})
    assert (answer.status_code, "fewer clauses" in answer.get_json()["error"]) == (400, True)


def with_zeros(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "additionalInformation": {"x": [0] * 10_000}}}


def test_a_document_with_a_number_greater_than_any_float_is_found_and_sorted(market: Market) -> None:
    asset = publish(market)
    document = {**asset.document, "metadata": {**asset.document["metadata"], "additionalInformation": {"n": 10**400}}}
    write(market, "alice", asset.nft, document)
    index(market)
    answer = market.client.post(f"{ASSETS}/query", json={"sort": {"metadata.additionalInformation.n": "asc"}})
    assert (answer.status_code, answer.get_json()["hits"]["hits"][0]["_id"]) == (200, asset.did)
