"""What clients write on chain is found, opened, checked and kept; what is not what it says is passed over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.ddo import encrypt
from control_plane.did import Did
from control_plane.errors import NotFound, Refused, Unavailable
from control_plane.flows import index_assets
from control_plane.provider.aqua import shown
from control_plane.provider.asset_index import DOCUMENTS, ORDERS
from control_plane.provider.documents import Opened
from tests.fixtures_market import ONE, Market, market
from tests.ocean_assets import document_of, index, publish, write

__all__ = ["market"]


def test_a_document_is_found_with_what_aquarius_adds(market: Market) -> None:
    asset = publish(market)
    assert index(market)["indexed"] == [asset.did]
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    told = shown(found)
    assert {name: told[name] for name in asset.document} == asset.document
    assert told["nft"]["owner"] == market.wallet("alice").address
    assert told["nft"] | {"created": ""} == told["nft"] | {"address": asset.nft, "name": "Words", "state": 0, "created": ""}
    assert told["datatokens"][0] == {"address": asset.datatoken, "name": "Words access", "symbol": "WORDS", "serviceId": "0"}
    assert told["event"]["tx"] == asset.transaction
    assert told["stats"] == {
        "allocated": 0,
        "orders": 0,
        "price": {"value": 1.0, "tokenAddress": market.ledger.network.ocean, "tokenSymbol": "OCEAN"},
    }
    assert told["purgatory"] == {"state": False}


def test_nothing_new_is_nothing_told(market: Market) -> None:
    publish(market)
    assert index(market) is not None
    assert index(market) is None


def test_a_later_document_replaces_the_one_before_and_the_asset_stays_as_old(market: Market) -> None:
    asset = publish(market)
    index(market)
    first = market.services.provider.assets.find(asset.did)
    document = {**asset.document, "metadata": {**asset.document["metadata"], "name": "More words"}}
    transaction = write(market, "alice", asset.nft, document)
    index(market)
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    assert first is not None
    assert found.document["metadata"]["name"] == "More words"
    assert found.event["tx"] == transaction
    assert found.facts["created"] == first.facts["created"]


@pytest.mark.parametrize("state", [1, 2, 3, 4, 5])
def test_a_new_state_is_seen_and_a_withdrawn_document_is_shown_no_more(market: Market, state: int) -> None:
    asset = publish(market)
    index(market)
    market.ledger.set_state(asset.nft, state)
    index(market)
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    told = shown(found)
    assert told["nft"]["state"] == state
    assert ("services" in told) == (state in (4, 5))
    assert told["id"] == asset.did


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_any_flags_are_read(market: Market, flags: int) -> None:
    asset = publish(market)
    market.ledger.events.documents.clear()
    write(market, "alice", asset.nft, asset.document, flags)
    if not flags & 2:  # in clear: it must say that this market is its provider
        assert index(market)["passed_over"] == {"document_elsewhere": 1}
        return
    assert index(market)["indexed"] == [asset.did]


def test_what_is_not_the_nfts_own_valid_document_is_passed_over(market: Market) -> None:
    asset, victim = publish(market), publish(market, publisher="carol", name="Secrets")
    market.ledger.events.documents.clear()
    sealed = bytes.fromhex(victim.document["services"][0]["files"][2:])
    market.ledger.write_document(market.wallet("alice"), asset.nft, 2, sealed, bytes(32))  # another's encrypted files
    write(market, "alice", asset.nft, {**asset.document, "id": victim.did})  # another's name
    write(market, "alice", asset.nft, {**asset.document, "metadata": {"name": "no more"}})  # not a whole document
    market.ledger.write_document(market.wallet("alice"), asset.nft, 2, encrypt(market.wallet("bob").public_key, b"{}"), bytes(32))
    assert index(market) == {"passed_over": {"document_hash": 1, "document_foreign": 1, "document_invalid": 1, "bad_input": 1}}
    assert market.services.provider.assets.all() == ()


def test_a_bad_document_does_not_remove_a_good_one(market: Market) -> None:
    asset = publish(market)
    index(market)
    write(market, "alice", asset.nft, {"id": asset.did})
    index(market)
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    assert found.document == asset.document


def test_orders_are_counted_once_and_only_of_indexed_datatokens(market: Market) -> None:
    asset = publish(market, rate=0)
    market.order("bob", market.gpt)
    index(market)
    market.ledger.events.ordered += [(market.ledger.head().number + 1, asset.datatoken)] * 3
    market.ledger.advance_blocks(1)
    for _ in range(3):
        index(market)
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    assert found.orders == 3


def test_a_node_that_is_down_or_behind_loses_nothing(market: Market) -> None:
    index(market)
    asset = publish(market)
    market.ledger.is_down = True
    with pytest.raises(Unavailable):
        index(market)
    market.ledger.is_down = False
    assert index(market)["indexed"] == [asset.did]
    cut = market.ledger._blocks[-3:]
    del market.ledger._blocks[-3:]
    assert index(market) is None
    market.ledger._blocks += cut
    assert market.services.provider.assets.find(asset.did) is not None


def test_an_interrupted_step_is_done_again_whole(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = publish(market)
    assets = market.services.provider.assets
    put = assets.put
    monkeypatch.setattr(assets, "put", lambda *_: (_ for _ in ()).throw(Unavailable("broken before")))
    with pytest.raises(Unavailable):
        index(market)
    assert (assets.cursor(DOCUMENTS), assets.all()) == (None, ())

    def done_anyway(*arguments: object) -> None:
        put(*arguments)  # type: ignore[arg-type]
        raise Unavailable("broken after")

    monkeypatch.setattr(assets, "put", done_anyway)
    with pytest.raises(Unavailable):
        index(market)
    monkeypatch.setattr(assets, "put", put)
    index(market)
    assert [each.did for each in assets.all()] == [asset.did]
    assert assets.cursor(ORDERS) is not None


def test_facts_that_no_event_tells_of_are_read_again_after_a_while(market: Market) -> None:
    asset = publish(market)
    index(market)
    market.ledger._nfts[asset.nft].owner = market.wallet("carol").address
    index(market)
    assert market.services.provider.assets.all()[0].facts["owner"] == market.wallet("alice").address
    market.clock.now += 61
    index(market)
    assert market.services.provider.assets.all()[0].facts["owner"] == market.wallet("carol").address


def test_a_price_of_any_size_is_kept_whole(market: Market, tmp_path: Path) -> None:
    asset = publish(market, rate=(1 << 200) + 1)
    index(market)
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    assert found.facts["datatokens"][0]["price"] == str((1 << 200) + 1)
    json.dumps(shown(found))


def test_a_document_may_name_datatokens_that_are_not_its_nfts(market: Market) -> None:
    """It is shown without a name; orders of it do not count, which `download` checks."""
    asset, other = publish(market), publish(market, publisher="carol")
    write(market, "alice", asset.nft, document_of(market, asset.nft, other.datatoken))
    index(market)
    found = market.services.provider.assets.find(asset.did)
    assert found is not None
    assert shown(found)["datatokens"][0]["name"] == ""
    assert ONE


@pytest.mark.parametrize("error", [NotFound("a contract that fails"), Refused("EVM error OutOfGas", code="reverted")])
def test_what_cannot_be_read_of_one_asset_stops_no_other(market: Market, error: Exception) -> None:
    bad, good = publish(market, publisher="mallory", name="Bad"), publish(market, publisher="carol")
    market.ledger.unreadable[bad.nft] = error
    assert index(market) == {"indexed": [good.did], "passed_over": {error.code: 1}}  # type: ignore[attr-defined]
    assert index(market) is None


def test_a_document_that_breaks_who_opens_it_is_passed_over(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = publish(market, publisher="mallory", name="Bad"), publish(market, publisher="carol")
    opened = index_assets.open_document

    def breaking(flags: int, data: bytes, clear_hash: bytes, did: Did, key: Any) -> Opened:
        if did == bad.did:
            raise OverflowError("nobody thought of that")
        return opened(flags, data, clear_hash, did, key)

    monkeypatch.setattr(index_assets, "open_document", breaking)
    assert index(market) == {"indexed": [good.did], "passed_over": {"document_breaks": 1}}


@pytest.mark.parametrize("error", [NotFound("a contract that fails"), Unavailable("slow"), OverflowError("unheard of")])
def test_an_asset_that_can_be_read_no_more_comes_back_in_its_turn(market: Market, error: Exception) -> None:
    bad = publish(market, publisher="mallory", name="Bad")
    others = [publish(market, publisher="carol", name=f"Words {number}") for number in range(3)]
    index(market)
    market.ledger.unreadable[bad.nft] = error
    for other in others:
        market.ledger._nfts[other.nft].owner = market.wallet("dave").address
    market.clock.now += 61
    failures = 0
    for _ in range(3):
        try:
            index(market)
        except (Unavailable, OverflowError):
            failures += 1
    assert failures == (0 if isinstance(error, NotFound) else 1)
    found = {asset.did: asset.facts["owner"] for asset in market.services.provider.assets.all()}
    assert {found[other.did] for other in others} == {market.wallet("dave").address}
    assert found[bad.did] == market.wallet("mallory").address


def worked(market: Market) -> float:
    """A stopwatch by which each reading of an asset's facts takes a second."""
    return float(len(market.ledger.facts_read))


def in_one_block(market: Market) -> None:
    """As if all documents so far stood in the newest block."""
    written = market.ledger.events.documents
    written[:] = [replace(each, block=market.ledger.head().number) for each in written]


def steps(market: Market) -> list[list[str]]:
    """What each step indexes that is given two seconds, until nothing is left."""
    made = []
    while (told := index(market, lambda: worked(market))) is not None:
        assert len(told["indexed"]) <= 3, "the third ends it"
        made.append(told["indexed"])
    return made


@pytest.mark.parametrize("is_one_block", [False, True])
def test_a_step_leaves_what_takes_too_long_to_the_next_one(market: Market, is_one_block: bool) -> None:
    assets = [publish(market, name=f"Words {number}") for number in range(8)]
    if is_one_block:
        in_one_block(market)
    made = steps(market)
    assert [len(each) for each in made] == [3, 3, 2]
    assert sorted(did for each in made for did in each) == sorted(asset.did for asset in assets)
    assert market.ledger.facts_read == [asset.nft for asset in assets], "each was read once, in its order"
    cursor = market.services.provider.assets.cursor(DOCUMENTS)
    assert cursor is not None
    assert cursor.block == market.ledger.head().number


def test_a_step_takes_no_more_documents_than_it_can_hold(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        publish(market, name=f"Words {number}")
    in_one_block(market)
    monkeypatch.setattr(index_assets, "MOST_FOUND", 2)
    assert [len(index(market)["indexed"]) for _ in range(3)] == [2, 2, 1]
    assert index(market) is None


def test_documents_that_are_none_end_a_step_too(market: Market) -> None:
    for _ in range(6):
        write(market, "alice", publish(market).nft, {"id": "nothing"})
    market.ledger.events.documents[:] = market.ledger.events.documents[1::2]
    seconds = iter(range(1000))
    assert [index(market, lambda: float(next(seconds)))["passed_over"] for _ in range(2)] == [{"document_foreign": 3}] * 2


def test_a_block_that_is_undone_when_half_of_it_was_read_leaves_nothing_behind(market: Market) -> None:
    gone, kept = publish(market, name="Gone"), [publish(market, name=f"Words {number}") for number in range(5)]
    in_one_block(market)
    assert len(index(market, lambda: worked(market))["indexed"]) == 3
    market.ledger.events.documents[:] = [each for each in market.ledger.events.documents if each.nft != gone.nft]
    while index(market) is not None:
        pass
    assert {asset.did for asset in market.services.provider.assets.all()} == {each.did for each in kept}


def test_many_documents_of_one_nft_ask_the_chain_once(market: Market) -> None:
    asset = publish(market)
    for number in range(9):
        write(market, "alice", asset.nft, {**asset.document, "metadata": {**asset.document["metadata"], "name": f"{number}"}})
    index(market)
    assert market.ledger.facts_read == [asset.nft]
    assert market.services.provider.assets.all()[0].document["metadata"]["name"] == "8"


def test_of_an_assets_datatokens_only_those_that_its_document_names_are_read(market: Market) -> None:
    asset = publish(market)
    terms = market.ledger._datatokens[asset.datatoken].terms
    more = [market.ledger.add_datatoken(asset.nft, terms) for _ in range(40)]
    (service,) = asset.document["services"]
    named = [service | {"id": str(number), "datatokenAddress": each} for number, each in enumerate(more[:30])]
    index(market)
    assert [each["address"] for each in told_of(market)] == [asset.datatoken]
    write(market, "alice", asset.nft, {**asset.document, "services": [*named, service | {"id": "last"}]})
    index(market)
    assert [each["address"] for each in told_of(market)] == more[: index_assets.MOST_DATATOKENS]
    market.clock.now += 61
    index(market)
    assert [each["address"] for each in told_of(market)] == more[: index_assets.MOST_DATATOKENS]


def told_of(market: Market) -> list[dict[str, Any]]:
    (found,) = market.services.provider.assets.all()
    return list(found.facts["datatokens"])


def test_a_new_state_is_obeyed_as_soon_as_the_node_answers_again(market: Market) -> None:
    asset = publish(market)
    index(market)
    market.ledger.set_state(asset.nft, 3)
    market.ledger.unreadable[asset.nft] = Unavailable("silent")
    for _ in range(3):
        with pytest.raises(Unavailable):
            index(market)
    del market.ledger.unreadable[asset.nft]
    index(market)
    assert market.services.provider.assets.all()[0].state == 3


def test_facts_that_are_old_wait_for_the_next_step_too(market: Market) -> None:
    for number in range(3):
        publish(market, name=f"Words {number}")
    index(market)
    market.clock.now += 61
    market.ledger.facts_read.clear()
    slow = lambda: 3.0 * len(market.ledger.facts_read)  # noqa: E731  # one asset takes three seconds
    for count in (1, 2, 3):
        index(market, slow)
        assert len(set(market.ledger.facts_read)) == len(market.ledger.facts_read) == count
