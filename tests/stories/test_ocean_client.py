"""The stock `ocean.py` 3.1.2 as the client, on the real contracts: what it publishes is found, ordered and downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import control_plane.chain.ocean_fix
from tests.fixtures_ocean import PROGRAM, WORDS, Stock, node, stock

pytestmark = [pytest.mark.live, pytest.mark.slow]
__all__ = ["node", "stock"]


@pytest.fixture(scope="module")
def published(stock: Stock) -> tuple[Any, Any, Any]:
    return stock.publish()


def test_the_correction_for_python_is_needed_still() -> None:
    assert control_plane.chain.ocean_fix.is_needed()


def test_what_is_published_comes_back_with_what_the_market_added(stock: Stock, published: tuple[Any, Any, Any]) -> None:
    nft, datatoken, ddo = published
    assert ddo.did == nft.calculate_did()
    assert ddo.nft["owner"] == stock.account("alice").address
    assert ddo.datatokens[0]["address"] == datatoken.address
    assert stock.ocean.assets.resolve(ddo.did).metadata["name"] == "Words"


def test_a_did_is_published_once(stock: Stock, published: tuple[Any, Any, Any]) -> None:
    assert stock.ocean.assets._aquarius.ddo_exists(published[2].did)
    assert not stock.ocean.assets._aquarius.ddo_exists("did:op:" + "0" * 64)


def test_a_search_finds_datasets_and_algorithms(stock: Stock) -> None:
    _, _, whales = stock.publish(name="Whalers")
    _, _, trainer = stock.publish("train.py", name="Harpooner")
    assert trainer.metadata["type"] == "algorithm"
    assert [each.did for each in stock.ocean.assets.search("Whalers")] == [whales.did]
    assert [each.did for each in stock.ocean.assets.search(f'"{trainer.did}"')] == [trainer.did]
    query = {"query": {"bool": {"must": [{"match": {"metadata.type": "algorithm"}}, {"match": {"metadata.name": "harpooner"}}]}}}
    assert [each.did for each in stock.ocean.assets.query(query)] == [trainer.did]


def test_a_paid_dataset_is_downloaded_again_and_again(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    _, datatoken, ddo = published
    order = stock.order(ddo, datatoken, "bob")
    assert stock.download(ddo, "bob", order, tmp_path / "first") == WORDS
    assert stock.download(ddo, "bob", order, tmp_path / "second") == WORDS
    assert stock.download(ddo, "bob", bytes.fromhex(order[2:]), tmp_path / "third") == WORDS  # as pay_for_access_service gives it
    stock.wait_for(lambda: stock.ocean.assets.resolve(ddo.did).stats["orders"] >= 1)


def test_an_algorithm_is_downloaded_as_a_dataset_is(stock: Stock, tmp_path: Path) -> None:
    _, datatoken, ddo = stock.publish("count.py", name="Counter")
    assert stock.download(ddo, "bob", stock.order(ddo, datatoken, "bob"), tmp_path) == PROGRAM


def test_an_order_is_used_again_on_chain(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    from ocean_lib.data_provider.data_service_provider import DataServiceProvider

    _, datatoken, ddo = published
    order, bob = stock.order(ddo, datatoken, "bob"), stock.account("bob")
    fees = DataServiceProvider.initialize(ddo.did, ddo.services[0], bob.address).json()["providerFee"]
    again = datatoken.reuse_order(order, fees, {"from": bob}).transactionHash.hex()
    assert stock.download(ddo, "bob", again, tmp_path) == WORDS
    assert "expected the consumer" in stock.refused(ddo, "mallory", again, tmp_path / "none")


def test_a_foreign_order_is_refused_with_its_reason(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    _, datatoken, ddo = published
    order = stock.order(ddo, datatoken, "bob")
    assert "expected the consumer" in stock.refused(ddo, "mallory", order, tmp_path)
    _, other_datatoken, other = stock.publish(name="Other")
    foreign = stock.order(other, other_datatoken, "bob")
    assert "expected OrderStarted from the datatoken" in stock.refused(ddo, "bob", foreign, tmp_path)
    assert "expected a mined transaction" in stock.refused(ddo, "bob", "0x" + "1" * 64, tmp_path)


def test_an_order_of_another_service_is_refused(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    from ocean_lib.data_provider.data_service_provider import DataServiceProvider

    _, datatoken, ddo = published
    bob = stock.account("bob")
    datatoken.mint(bob.address, 10**18, {"from": stock.account("alice")})
    fees = DataServiceProvider.initialize(ddo.did, ddo.services[0], bob.address).json()["providerFee"]
    order = datatoken.start_order(consumer=bob.address, service_index=1, provider_fees=fees, tx_dict={"from": bob})
    assert "expected service 0, found 1" in stock.refused(ddo, "bob", order.transactionHash.hex(), tmp_path)


def test_signatures_and_nonces_are_checked(stock: Stock, published: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    from ocean_lib.data_provider.data_service_provider import DataServiceProvider

    _, datatoken, ddo = published
    order, bob = stock.order(ddo, datatoken, "bob"), stock.account("bob")
    nonce, signature = DataServiceProvider.sign_message(bob, ddo.did, stock.url)
    told = {"documentId": ddo.did, "serviceId": ddo.services[0].id, "consumerAddress": bob.address, "transferTxId": order}
    told |= {"fileIndex": "0", "nonce": str(nonce), "signature": signature}

    def ask(**changes: str) -> requests.Response:
        return requests.get(f"{stock.url}/api/services/download", params=told | changes, timeout=10)

    _, foreign = DataServiceProvider.sign_message(stock.account("mallory"), ddo.did, stock.url)
    assert ask(signature=foreign).json()["errors"] == {"signature": ["Invalid signature provided."]}
    assert ask().content == WORDS
    assert ask().json()["code"] == "nonce_used"
    large, signed = str(2**53), "0x" + "1" * 130
    assert ask(nonce=large, signature=signed).json()["code"] == "nonce_too_large"
    assert DataServiceProvider.sign_message(bob, ddo.did, stock.url)[0] == nonce + 1


def test_a_revoked_asset_is_neither_downloaded_nor_ordered(stock: Stock, tmp_path: Path) -> None:
    from ocean_lib.agreements.consumable import AssetNotConsumable

    nft, datatoken, ddo = stock.publish(name="Revoked")
    order = stock.order(ddo, datatoken, "bob")
    nft.setMetaDataState(3, {"from": stock.account("alice")})
    assert "its state is 3" in stock.refused(ddo, "bob", order, tmp_path)  # the chain is asked, not the index
    stock.wait_for(lambda: stock.ocean.assets.resolve(ddo.did).nft["state"] == 3)
    seen = stock.ocean.assets.resolve(ddo.did)
    assert seen.metadata is None
    assert seen.services == []
    with pytest.raises((AssetNotConsumable, IndexError)):
        stock.ocean.assets.pay_for_access_service(seen, {"from": stock.account("bob")})


def test_an_updated_document_comes_back_with_its_transaction(stock: Stock) -> None:
    _, _, ddo = stock.publish(name="Before")
    ddo.metadata["description"] = "told anew"
    for left in ("nft", "datatokens", "event", "stats"):
        setattr(ddo, left, None)
    updated = stock.ocean.assets.update(ddo, {"from": stock.account("alice")})
    assert updated.metadata["description"] == "told anew"


def test_an_expired_order_is_refused(stock: Stock, published: tuple[Any, Any, Any], tmp_path: Path) -> None:
    """The last one: the chain's clock is not turned back."""
    _, datatoken, ddo = published
    order = stock.order(ddo, datatoken, "bob")
    stock.rpc.ask("evm_increaseTime", [hex(ddo.services[0].timeout + 1)])
    stock.rpc.ask("anvil_mine", ["0x1"])
    assert "one that is still good" in stock.refused(ddo, "bob", order, tmp_path)
