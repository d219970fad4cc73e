"""Publishing, broken once at each outside write, before and after it was done; then healed, repeated, and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.chain.contracts import events, topic
from control_plane.chain.ledger import KEYS_LABEL, MODEL_LABEL, OPERATOR_LABEL, data_key
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID
from control_plane.chain.rpc import Rpc
from control_plane.did import Address, TokenWei
from control_plane.errors import OutcomeUnknown, Unavailable
from control_plane.flows.open_log import open_log
from control_plane.flows.publish import publish
from tests.check_market import Seen, check_market
from tests.fixtures_chain import BOTH, ONE, anvil, either_chain, real_chain, simulated_chain
from tests.fixtures_publish import CHECKPOINT_KEY, Breaking, Stand, make_model, open_stand
from tests.simulators.rpc_proxy import running_proxy

__all__ = ["anvil"]

WRITES = [
    ("ledger", "create_asset", 1),
    ("ledger", "record_data", 1),
    ("ledger", "record_data", 2),
    ("ledger", "record_metadata", 1),
    ("store", "__call__", 1),
    ("server", "loaded", 1),
    ("catalogue", "load_verified", 1),
    ("server", "infer", 2),
    ("catalogue", "put_on_sale", 1),
]


@pytest.fixture(params=BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return open_stand(either_chain(request.param, request, tmp_path), tmp_path)


def check_one_asset(stand: Stand) -> None:
    """Exactly one asset on sale, its digest and log recorded once, everything as the outside checker wants it."""
    (listing,) = stand.catalogue.listings()
    for label in (MODEL_LABEL, OPERATOR_LABEL):
        assert len(stand.chain.ledger.data_history(listing.nft, data_key(label))) == 1
    assert set(stand.kept.kept) == {listing.model_digest}
    check_market(
        stand.chain.ledger,
        Seen(stand.catalogue.listings(), stand.market.log_nft, stand.market.models, stand.chain.wallets["operator"]),
    )


@pytest.mark.parametrize("rate", [ONE, 0], ids=["sold", "free"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("part", "method", "number"), WRITES, ids=[f"{method} {number}" for _, method, number in WRITES])
def test_publishing_interrupted_at_a_write_and_repeated_makes_one_asset(
    stand: Stand, part: str, method: str, number: int, when: str, rate: int
) -> None:
    alice, request = stand.chain.wallets["alice"], stand.request(rate=TokenWei(rate))
    getattr(stand, part).break_call(method, when, number)
    with pytest.raises((Unavailable, OutcomeUnknown), match=f"broken {when}"):
        publish(stand.market, alice, request)
    published = publish(stand.market, alice, request)
    check_one_asset(stand)
    assert publish(stand.market, alice, request) == published
    check_one_asset(stand)


@pytest.mark.parametrize("when", ["before", "after"])
def test_weights_whose_copy_was_interrupted_are_stored_when_it_is_repeated(stand: Stand, when: str) -> None:
    alice, request = stand.chain.wallets["alice"], stand.request(model=str(make_model(stand.folder / "model")))
    stand.store_weights.break_call("__call__", when)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        publish(stand.market, alice, request)
    assert stand.catalogue.listings() == ()
    listing = publish(stand.market, alice, request).listing
    assert list(stand.kept_weights.kept) == [listing.weights_digest]
    check_one_asset(stand)


def test_publishing_interrupted_at_every_write_in_turn_makes_one_asset(tmp_path: Path) -> None:
    ledger, chain = simulated_chain()
    stand = open_stand(chain, tmp_path)
    alice = chain.wallets["alice"]
    for part, method, number in WRITES:
        for when in ("before", "after"):
            getattr(stand, part).break_call(method, when, number)
            with pytest.raises((Unavailable, OutcomeUnknown)):
                publish(stand.market, alice, stand.request())
    publish(stand.market, alice, stand.request())
    check_one_asset(stand)
    assert [method for method, _ in ledger.writes].count("create_asset") == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["create_log_nft", "record_data"])
def test_opening_a_log_interrupted_and_repeated_makes_one_log(when: str, method: str) -> None:
    ledger, chain = simulated_chain()
    breaking, operator = Breaking(ledger), chain.wallets["operator"]
    breaking.break_call(method, when)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        open_log(breaking, operator, operator.address, CHECKPOINT_KEY)
    nft = open_log(ledger, operator, operator.address, CHECKPOINT_KEY)
    assert [method for method, _ in ledger.writes] == ["create_log_nft", "record_data"]
    assert len(ledger.data_history(nft, data_key(KEYS_LABEL))) == 1


# The same on the real chain, where the node's request or answer is lost underneath us

SENDS = {"create_asset": 1, "record_data digest": 2, "record_data log": 3, "record_metadata": 4}


def created_nfts(url: str, owner: Address, since: int) -> int:
    """NFTs that Ocean's factory made for `owner` after a block: what the chain says, past all our own books."""
    rpc = Rpc(url, LOCAL_CHAIN_ID)
    logs = rpc.logs(LOCAL.factory, [topic("ERC721Factory", "NFTCreated")], since + 1, rpc.head().number)
    return sum(values["admin"] == owner for _, values in events("ERC721Factory", "NFTCreated", logs, LOCAL.factory))


@pytest.mark.live
@pytest.mark.parametrize("what", ["request", "answer"])
@pytest.mark.parametrize("write", SENDS)
def test_a_node_that_loses_a_publications_transaction_makes_one_asset(anvil: str, tmp_path: Path, write: str, what: str) -> None:
    with running_proxy(anvil) as proxy:
        stand = open_stand(real_chain(proxy.url, tmp_path / "outbox"), tmp_path)
        alice = stand.chain.wallets["alice"]
        since = stand.chain.ledger.head().number
        before = len(proxy.sent)
        proxy.lose("eth_sendRawTransaction", what, SENDS[write])
        with pytest.raises(OutcomeUnknown):
            publish(stand.market, alice, stand.request())
        publish(stand.market, alice, stand.request())
        check_one_asset(stand)
        assert created_nfts(anvil, alice.address, since) == 1
        assert len(set(proxy.sent[before:])) == len(SENDS)
