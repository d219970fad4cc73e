"""What an order allows: files of datasets and algorithms for who paid; of a model never any."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import pytest

from control_plane.chain.fees import sign_fee
from control_plane.chain.ledger import MODEL_LABEL, ProviderFee, Terms, data_key
from control_plane.did import Address, Bytes32, TokenWei, TransactionHash, UnixSeconds
from tests.control_plane.web.asking import UNKNOWN_DID
from tests.control_plane.web.ocean_client import next_nonce, sign, signed
from tests.fixtures_market import ONE, Market
from tests.fixtures_words import TEXT
from tests.ocean_assets import Published, document_of, files_of, index, publish, write

FILEINFO, INITIALIZE, DOWNLOAD = "/api/services/fileinfo", "/api/services/initialize", "/api/services/download"


@pytest.fixture
def dataset(shop: Market, words: str) -> Published:
    made = publish(shop, f"http://{words}/words.txt")
    index(shop)
    return made


def initialized(shop: Market, asset: Published, name: str = "bob", **more: Any) -> Any:
    told = {"documentId": asset.did, "serviceId": "0", "consumerAddress": shop.wallet(name).address, **more}
    return shop.client.get(INITIALIZE, query_string=told)


def fee_of(told: dict[str, Any]) -> ProviderFee:
    return ProviderFee(
        provider=Address(told["providerFeeAddress"]),
        token=Address(told["providerFeeToken"]),
        amount=TokenWei(int(told["providerFeeAmount"])),
        valid_until=UnixSeconds(told["validUntil"]),
        data=bytes.fromhex(told["providerData"][2:]),
        v=told["v"],
        r=Bytes32(told["r"]),
        s=Bytes32(told["s"]),
    )


def ordered(
    shop: Market, asset: Published, name: str = "bob", fee: ProviderFee | None = None, service: int = 0, consumer: str | None = None
) -> TransactionHash:
    wallet, key = shop.wallet(name), f"{name} {len(shop.ledger.writes)}"
    shop.ledger.mint(shop.ledger.network.ocean, wallet.address, 10 * ONE)
    shop.ledger.buy_datatoken(wallet, f"buy {key}", asset.datatoken, asset.exchange, TokenWei(5 * ONE))
    paid = fee or fee_of(initialized(shop, asset, name).get_json()["providerFee"])
    consuming = shop.wallet(consumer or name).address
    return shop.ledger.start_order(wallet, f"order {key}", asset.datatoken, consuming, service, paid).transaction


def download(shop: Market, asset: Published, order: str, name: str = "bob", headers: Any = None, **changes: Any) -> Any:
    told = {
        "documentId": asset.did,
        "serviceId": "0",
        "consumerAddress": shop.wallet(name).address,
        "transferTxId": order,
        "fileIndex": 0,
        **changes,
    }
    if "nonce" not in changes:
        told |= signed(shop, name, told["documentId"])
    return shop.client.get(DOWNLOAD, query_string=told, headers=headers)


def refused(answer: Any, code: str) -> None:
    assert (answer.status_code, answer.get_json().get("code")) == (400, code), answer.text
    assert "127.0.0.1" not in answer.text


def test_a_paid_file_is_downloaded_and_the_order_stays_good(shop: Market, dataset: Published) -> None:
    order = ordered(shop, dataset)
    for _ in range(2):
        answer = download(shop, dataset, order)
        assert (answer.status_code, answer.data, answer.mimetype) == (200, TEXT, "text/plain")
        assert answer.headers["Content-Disposition"] == "attachment;filename=words.txt"
    assert initialized(shop, dataset, transferTxId=order).get_json() == {"validOrder": order}


def test_what_a_file_is_can_be_asked_before_it_is_paid_for(shop: Market, dataset: Published, words: str) -> None:
    answer = shop.client.post(FILEINFO, json={"did": dataset.did, "serviceId": "0", "checksum": 1})
    (told,) = answer.get_json()
    assert told["valid"] is True
    assert (told["contentLength"], told["contentType"], told["checksumType"]) == (str(len(TEXT)), "text/plain", "sha256")
    assert words not in answer.text
    assert shop.client.post(FILEINFO, json={"type": "url", "url": f"http://{words}/words"}).get_json()[0]["valid"] is True
    assert shop.client.post(FILEINFO, json={"type": "url", "url": f"http://{words}/gone"}).get_json()[0]["valid"] is False
    metadata = "http://169.254.169.254/latest/meta-data"
    assert shop.client.post(FILEINFO, json={"type": "url", "url": metadata}).get_json() == [
        {"index": 0, "type": "url", "valid": False}
    ]


@pytest.mark.parametrize("more", [{"method": "POST"}, {"headers": {"Authorization": "x"}}, {"checksum": 1}, {"did": UNKNOWN_DID}])
def test_a_stranger_has_no_request_of_his_own_making_sent(shop: Market, words: str, more: dict[str, Any]) -> None:
    answer = shop.client.post(FILEINFO, json={"type": "url", "url": f"http://{words}/words", **more})
    assert answer.status_code == 400, answer.text


def test_the_fee_of_a_file_is_nothing_and_signed_by_the_operator(shop: Market, dataset: Published) -> None:
    told = initialized(shop, dataset).get_json()
    assert told["datatoken"] == dataset.datatoken
    assert (told["providerFee"]["providerFeeAddress"], told["providerFee"]["providerFeeAmount"]) == (
        shop.services.operator.address,
        "0",
    )


def test_nobody_is_let_order_what_cannot_be_fetched(shop: Market, words: str) -> None:
    gone = publish(shop, f"http://{words}/gone", name="Gone")
    inside = publish(shop, "http://127.0.0.1:9000/private", name="Inside")
    index(shop)
    for asset in (gone, inside):
        refused(initialized(shop, asset), "file_unavailable")


@pytest.mark.parametrize("name", ["carol", "mallory"])
def test_an_order_of_another_is_refused(shop: Market, dataset: Published, name: str) -> None:
    refused(download(shop, dataset, ordered(shop, dataset), name), "order_not_yours")


def test_who_pays_for_another_may_use_the_order_too(shop: Market, dataset: Published) -> None:
    order = ordered(shop, dataset, "bob", consumer="carol")
    assert download(shop, dataset, order, "carol").data == TEXT
    assert download(shop, dataset, order, "bob").data == TEXT
    refused(download(shop, dataset, order, "mallory"), "order_not_yours")


def test_an_order_is_named_by_its_bytes_too(shop: Market, dataset: Published) -> None:
    """As `ocean.py` sends what its own `pay_for_access_service` gives."""
    raw = quote_from_bytes(bytes.fromhex(ordered(shop, dataset)[2:]))
    told = {"documentId": dataset.did, "serviceId": "0", "consumerAddress": shop.wallet("bob").address, "fileIndex": 0}
    query = urlencode(told | signed(shop, "bob", dataset.did))
    assert shop.client.get(f"{DOWNLOAD}?{query}&transferTxId={raw}").data == TEXT
    refused(shop.client.get(f"{DOWNLOAD}?{urlencode(told | signed(shop, 'bob', dataset.did))}&transferTxId=%ff%fe"), "bad_input")


def test_an_order_of_another_asset_is_refused(shop: Market, dataset: Published, words: str) -> None:
    other = publish(shop, f"http://{words}/words", name="Other")
    index(shop)
    refused(download(shop, dataset, ordered(shop, other)), "order_foreign")
    refused(download(shop, dataset, "0x" + "7" * 64), "order_not_found")
    refused(download(shop, dataset, shop.order("bob", shop.gpt)), "order_foreign")


def test_an_order_ends_with_its_services_timeout(shop: Market, dataset: Published) -> None:
    order = ordered(shop, dataset)
    shop.clock.now += 3601
    refused(download(shop, dataset, order), "order_expired")
    again = shop.ledger.reuse_order(order, dataset.datatoken)  # which anybody may call, and makes nothing younger
    refused(download(shop, dataset, again), "order_expired")


def test_an_order_that_is_used_again_on_chain_is_the_one_it_names(shop: Market, dataset: Published) -> None:
    again = shop.ledger.reuse_order(ordered(shop, dataset), dataset.datatoken)
    assert download(shop, dataset, again).data == TEXT
    refused(download(shop, dataset, again, "mallory"), "order_not_yours")
    refused(
        download(shop, dataset, shop.ledger.reuse_order(TransactionHash("0x" + "5" * 64), dataset.datatoken)), "order_not_found"
    )


def test_an_order_of_another_service_is_refused(shop: Market, dataset: Published) -> None:
    refused(download(shop, dataset, ordered(shop, dataset, service=1)), "order_wrong_service")


def test_an_order_with_a_fee_for_another_service_provider_or_datatoken_is_refused(shop: Market, dataset: Published) -> None:
    ocean, ends_at = shop.ledger.network.ocean, UnixSeconds(int(shop.clock.now) + 3600)
    operator, mallory = shop.services.operator, shop.wallet("mallory")
    for wallet, datatoken, service in (
        (mallory, dataset.datatoken, "0"),
        (operator, shop.gpt.datatoken, "0"),
        (operator, dataset.datatoken, "1"),
    ):
        fee = sign_fee(wallet, datatoken, service, ocean, TokenWei(0), ends_at, shop.clock)
        refused(download(shop, dataset, ordered(shop, dataset, fee=fee)), "order_without_provider_fee")


def test_an_order_is_final_first(shop: Market, dataset: Published) -> None:
    order = ordered(shop, dataset)
    deep = replace(shop.services, network=replace(shop.services.network, confirmations=1000))
    from control_plane.web import create_app

    shop.client = create_app(deep).test_client()
    refused(download(shop, dataset, order), "order_not_final")


@pytest.mark.parametrize("state", [1, 2, 3, 4])
def test_a_revoked_asset_is_neither_ordered_nor_downloaded(shop: Market, dataset: Published, state: int) -> None:
    order = ordered(shop, dataset)
    shop.ledger.set_state(dataset.nft, state)  # the keeper has not seen it yet: the chain is asked
    refused(initialized(shop, dataset), "asset_not_consumable")
    refused(download(shop, dataset, order), "asset_not_consumable")
    shop.ledger.set_state(dataset.nft, 5)
    assert download(shop, dataset, order).data == TEXT


def test_a_used_nonce_and_another_signature_download_nothing(shop: Market, dataset: Published) -> None:
    order = ordered(shop, dataset)
    told = signed(shop, "bob", dataset.did)
    assert download(shop, dataset, order, **told).data == TEXT
    refused(download(shop, dataset, order, **told), "nonce_used")
    large = 2**53
    refused(download(shop, dataset, order, nonce=large, signature=sign(shop, "bob", dataset.did, large)), "nonce_too_large")
    nonce = next_nonce(shop, "bob")
    foreign = download(shop, dataset, order, nonce=nonce, signature=sign(shop, "mallory", dataset.did, nonce))
    assert foreign.get_json()["errors"] == {"signature": ["Invalid signature provided."]}
    assert download(shop, dataset, order, **signed(shop, "bob", dataset.did, nonce)).data == TEXT


def test_a_token_stands_for_a_signature(shop: Market, dataset: Published) -> None:
    order, address = ordered(shop, dataset), shop.wallet("bob").address
    made = {"address": address, "expiration": int(shop.clock.now) + 60, **signed(shop, "bob", address)}
    token = shop.client.get("/api/services/createAuthToken", query_string=made).get_json()["token"]
    nonce = next_nonce(shop, "bob")
    assert download(shop, dataset, order, headers={"AuthToken": token}, nonce=nonce).data == TEXT
    refused(download(shop, dataset, order, headers={"AuthToken": token}, nonce=nonce), "nonce_used")
    refused(download(shop, dataset, order, "mallory", headers={"AuthToken": token}, nonce=9), "bad_token")


def test_a_request_that_fails_leaves_its_nonce_good(shop: Market, dataset: Published) -> None:
    order, told = ordered(shop, dataset), signed(shop, "bob", dataset.did)
    refused(download(shop, dataset, order, fileIndex=1, **told), "bad_input")
    assert download(shop, dataset, order, **told).data == TEXT


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"fileIndex": 1}, "bad_input"),
        ({"fileIndex": -1}, "bad_input"),
        ({"fileIndex": "one"}, "bad_input"),
        ({"serviceId": "7"}, "service_not_found"),
        ({"documentId": UNKNOWN_DID}, "did_not_found"),
        ({"transferTxId": "0x1"}, "bad_input"),
    ],
)
def test_a_request_for_what_is_not_there_says_so(shop: Market, dataset: Published, changes: Any, code: str) -> None:
    refused(download(shop, dataset, ordered(shop, dataset), **changes), code)


class TestModels:
    """Whatever was ordered, and however the asset came into the index."""

    def test_the_files_of_a_model_are_never_served(self, shop: Market, words: str) -> None:
        write(shop, "alice", shop.gpt.nft, _disguised(shop, words))
        index(shop)
        asset = Published(shop.gpt.did, shop.gpt.nft, shop.gpt.datatoken, shop.gpt.exchange, {}, TransactionHash("0x"))
        order = ordered(shop, asset)
        refused(download(shop, asset, order), "is_a_model")
        shop.services.catalogue.withdraw(shop.gpt.did, "a test")
        refused(download(shop, asset, order), "is_a_model")

    def test_an_asset_that_is_a_model_by_the_chain_alone_is_one(self, shop: Market, dataset: Published) -> None:
        order = ordered(shop, dataset)
        shop.ledger.record_data(shop.wallet("alice"), "digest", dataset.nft, data_key(MODEL_LABEL), b"\x01" * 32)
        refused(download(shop, dataset, order), "is_a_model")
        refused(shop.client.post(FILEINFO, json={"did": dataset.did, "serviceId": "0"}), "is_a_model")

    def test_a_strangers_document_that_names_a_models_datatoken_gets_no_fee(self, shop: Market, words: str) -> None:
        """With it the model's calls would cost the operator's fee nothing."""
        asset = _naming_the_models_datatoken(shop, words)
        answer = initialized(shop, asset, "mallory")
        refused(answer, "datatoken_foreign")
        assert "providerFee" not in answer.text

    def test_a_models_document_that_names_another_datatoken_gets_no_fee(self, shop: Market, words: str) -> None:
        terms = Terms(TokenWei(0), shop.ledger.network.ocean, TokenWei(0), shop.services.operator.address)
        other = shop.ledger.add_datatoken(shop.gpt.nft, terms)
        write(shop, "alice", shop.gpt.nft, document_of(shop, shop.gpt.nft, other, f"http://{words}/words.txt"))
        index(shop)
        asset = Published(shop.gpt.did, shop.gpt.nft, shop.gpt.datatoken, shop.gpt.exchange, {}, TransactionHash("0x"))
        refused(initialized(shop, asset), "document_damaged")

    def test_a_models_order_of_a_files_fee_is_not_told_as_good(self, shop: Market, words: str) -> None:
        write(shop, "alice", shop.gpt.nft, _disguised(shop, words))
        index(shop)
        asset = Published(shop.gpt.did, shop.gpt.nft, shop.gpt.datatoken, shop.gpt.exchange, {}, TransactionHash("0x"))
        ocean, ends_at = shop.ledger.network.ocean, UnixSeconds(int(shop.clock.now) + 3600)
        fee = sign_fee(shop.services.operator, shop.gpt.datatoken, "0", ocean, TokenWei(0), ends_at, shop.clock)
        refused(initialized(shop, asset, transferTxId=ordered(shop, asset, fee=fee)), "order_not_for_calls")
        good = ordered(shop, asset)
        assert initialized(shop, asset, transferTxId=good).get_json() == {"validOrder": good}

    def test_a_models_order_costs_what_its_offer_says(self, shop: Market, words: str) -> None:
        write(shop, "alice", shop.gpt.nft, _disguised(shop, words))
        index(shop)
        asset = Published(shop.gpt.did, shop.gpt.nft, shop.gpt.datatoken, shop.gpt.exchange, {}, TransactionHash("0x"))
        told = initialized(shop, asset).get_json()
        assert told["providerFee"]["providerFeeAmount"] == str(shop.services.settings.provider_fee)
        info = shop.client.post(FILEINFO, json={"did": asset.did, "serviceId": "0"}).get_json()
        assert info == [{"index": 0, "valid": True, "type": "url", "contentType": "application/json"}]
        token = shop.sign_in("bob", shop.gpt, ordered(shop, asset))
        assert shop.complete(token).status_code == 200


def _naming_the_models_datatoken(shop: Market, words: str) -> Published:
    """Mallory's NFT, with a datatoken of its own, and a document that sells the model's."""
    made = publish(shop, publisher="mallory", name="Own")
    document = document_of(shop, made.nft, shop.gpt.datatoken, f"http://{words}/words.txt", name="Own")
    written = write(shop, "mallory", made.nft, document)
    index(shop)
    return Published(made.did, made.nft, shop.gpt.datatoken, shop.gpt.exchange, document, written)


def _disguised(shop: Market, words: str) -> dict[str, Any]:
    return document_of(shop, shop.gpt.nft, shop.gpt.datatoken, f"http://{words}/words.txt", name="Just words")


def test_files_copied_from_another_document_are_not_opened(shop: Market, dataset: Published) -> None:
    """Mallory publishes Alice's encrypted files under her own datatoken, orders from herself, and gets nothing."""
    copied = publish(shop, publisher="mallory", name="Copied")
    service = {**copied.document["services"][0], "files": dataset.document["services"][0]["files"]}
    write(shop, "mallory", copied.nft, {**copied.document, "services": [service]})
    index(shop)
    refused(initialized(shop, copied, "mallory"), "files_unreadable")


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": "http://words.example"},
        {"files": [{"type": "ipfs", "hash": "Qm"}]},
        {"files": [{"type": "url", "url": "http://words.example/\r\nHost: x"}]},
        {"files": [{"type": "url", "url": "http://words.example", "method": "DELETE"}]},
        {"files": [{"type": "url", "url": "http://words.example", "headers": {"A": "b\r\nc"}}]},
        {"nftAddress": "0x" + "1" * 40},
        {"datatokenAddress": None},
    ],
)
def test_files_that_are_not_as_they_should_be_are_refused(shop: Market, changes: dict[str, Any]) -> None:
    asset = publish(shop, name="Odd")
    files = files_of(shop.wallet("operator").public_key, asset.nft, asset.datatoken, "http://words.example", **changes)
    service = {**asset.document["services"][0], "files": files}
    write(shop, "alice", asset.nft, {**asset.document, "services": [service]})
    index(shop)
    refused(initialized(shop, asset), "files_unreadable")


def test_a_compute_service_is_initialized_elsewhere(shop: Market, dataset: Published) -> None:
    compute = {"allowRawAlgorithm": False, "allowNetworkAccess": False}
    service = {**dataset.document["services"][0], "id": "1", "type": "compute", "compute": compute}
    write(shop, "alice", dataset.nft, {**dataset.document, "services": [dataset.document["services"][0], service]})
    index(shop)
    refused(initialized(shop, dataset, serviceId="1"), "service_is_compute")


def test_credentials_say_who_may(shop: Market, dataset: Published) -> None:
    bob = shop.wallet("bob").address
    for credentials, is_let_in in (
        ({"allow": [{"type": "address", "values": [bob.lower()]}], "deny": []}, True),
        ({"allow": [{"type": "address", "values": [shop.wallet("carol").address]}], "deny": []}, False),
        ({"allow": [], "deny": [{"type": "address", "values": [bob]}]}, False),
        ({"allow": [{"type": "club", "values": ["members"]}]}, False),
        (None, True),
    ):
        write(shop, "alice", dataset.nft, {**dataset.document, "credentials": credentials})
        index(shop)
        assert (initialized(shop, dataset).status_code == 200) == is_let_in, credentials


def test_the_chain_is_asked_once_for_the_asset(shop: Market, dataset: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    order, asset, asked = ordered(shop, dataset), shop.ledger.asset, list[Address]()
    monkeypatch.setattr(shop.ledger, "asset", lambda nft: (asked.append(nft), asset(nft))[1])
    assert initialized(shop, dataset).status_code == 200
    assert download(shop, dataset, order).status_code == 200
    assert asked == [dataset.nft] * 2
