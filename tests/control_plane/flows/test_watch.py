"""What the chain takes back ends here too: orders it undid, assets their owners changed. A silent node ends nothing."""

from __future__ import annotations

import pytest

from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, data_key
from control_plane.did import Address, TransactionHash
from control_plane.errors import NotFound, Unavailable
from control_plane.flows.watch import Looked, revoke_undone_orders, withdraw_changed_listings
from control_plane.serving.listing import Listing
from tests.fixtures_market import Market, market

__all__ = ["market"]


def watched(market: Market) -> tuple[TransactionHash, ...]:
    return revoke_undone_orders(market.services.sessions, market.services.catalogue, market.ledger)


def test_an_undone_order_ends_its_sessions_and_no_other(market: Market) -> None:
    undone, kept = market.order("bob", market.gpt), market.order("alice", market.gpt)
    tokens = [market.sign_in("bob", market.gpt, undone) for _ in range(2)]
    other = market.sign_in("alice", market.gpt, kept)
    assert watched(market) == ()
    market.ledger.forget(undone)
    assert watched(market) == (undone,)
    for token in tokens:
        answer = market.complete(token)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "session_revoked")
        assert "the chain undid its order" in answer.text
    assert market.complete(other).status_code == 200
    assert watched(market) == ()


def test_an_order_that_another_block_took_in_goes_on(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    facts = market.ledger.order_facts(order, market.gpt.datatoken)
    market.ledger.forget(order)
    market.ledger.add_order(facts)
    assert watched(market) == ()
    assert market.complete(token).status_code == 200


def test_a_silent_node_ends_nothing(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    market.ledger.is_down = True
    with pytest.raises(Unavailable):
        watched(market)
    assert market.complete(token).status_code == 200


def test_a_node_that_is_behind_ends_nothing(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    behind = market.ledger.block(market.ledger.head().number - 1)
    market.ledger.forget(order)
    monkeypatch.setattr(market.ledger, "head", lambda: behind)
    assert watched(market) == ()
    assert market.complete(token).status_code == 200


LOG = Address("0x" + "11" * 20)


def listed(market: Market) -> list[Listing]:
    """The listings, each now naming a log on chain."""
    listings = list(market.services.catalogue.listings())
    for listing in listings:
        key, value = data_key(OPERATOR_LABEL), bytes.fromhex(LOG[2:])
        market.ledger.record_data(market.wallet("alice"), f"log of {listing.did}", listing.nft, key, value)
    return listings


def test_an_asset_that_its_owner_revoked_is_withdrawn_and_no_other(market: Market) -> None:
    token, other = market.sign_in("bob", market.gpt), market.sign_in("bob", market.other_gpt)
    listed(market)
    assert withdraw_changed_listings(market.services.catalogue, market.ledger, LOG) == Looked((), ())
    market.ledger.set_state(market.gpt.nft, 3)
    assert withdraw_changed_listings(market.services.catalogue, market.ledger, LOG) == Looked((market.gpt.did,), ())
    assert withdraw_changed_listings(market.services.catalogue, market.ledger, LOG) == Looked((), ())
    answer = market.complete(token)
    assert (answer.status_code, "state 3 on chain" in answer.text) == (503, True)
    assert market.complete(other, model=market.other_gpt.did).status_code == 200


def test_an_asset_that_cannot_be_read_hides_no_other_and_stays_on_sale(market: Market) -> None:
    unreadable, revoked, *_ = listed(market)
    market.ledger.set_state(revoked.nft, 3)
    market.ledger.unreadable[unreadable.nft] = NotFound("more datatokens than can be told")
    looked = withdraw_changed_listings(market.services.catalogue, market.ledger, LOG)
    assert looked == Looked((revoked.did,), (unreadable.did,))
    assert market.services.catalogue.find(unreadable.did).state == "on_sale"


def test_an_asset_that_names_another_log_or_digest_is_withdrawn(market: Market) -> None:
    moved, changed, *kept = listed(market)
    alice = market.wallet("alice")
    market.ledger.record_data(alice, "moved", moved.nft, data_key(OPERATOR_LABEL), bytes(20))
    market.ledger.record_data(alice, "changed", changed.nft, data_key(MODEL_LABEL), bytes(32))
    assert set(withdraw_changed_listings(market.services.catalogue, market.ledger, LOG).withdrawn) == {moved.did, changed.did}
    reasons = {listing.did: listing.reason for listing in market.services.catalogue.listings()}
    assert "names log" in reasons[moved.did]
    assert "names digest" in reasons[changed.did]
    assert all(reasons[listing.did] == "" for listing in kept)
