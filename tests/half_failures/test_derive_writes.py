"""Deriving, broken once at each outside write, before and after it was done; then healed, repeated, and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.chain.histories import recorded
from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL, Rights
from control_plane.errors import OutcomeUnknown, Unavailable
from control_plane.flows.derive import MINTED, Derived, Trained, derive
from control_plane.flows.entries import weights_folder
from converters.weights_folder import weights_digest
from tests.check_market import Seen, check_market
from tests.fixtures_chain import BOTH, ONE, anvil, either_chain, real_chain, simulated_chain
from tests.fixtures_derive import published, trained
from tests.fixtures_publish import Stand, open_stand
from tests.half_failures.test_publish_writes import created_nfts
from tests.simulators.rpc_proxy import running_proxy

__all__ = ["anvil"]

WRITES = [
    ("ledger", "create_asset_for", 1),
    ("ledger", "record_metadata", 1),
    ("ledger", "give_up", 1),
    ("store", "__call__", 1),
    ("store_weights", "__call__", 1),
    ("server", "loaded", 1),
    ("server", "load", 1),
    ("catalogue", "load_verified", 1),
    ("server", "infer", 2),
    ("catalogue", "put_on_sale", 1),
]
TRANSACTIONS = [
    *(f"create_asset_for {step}" for step in ("nft", "datatoken", "price", "mint", "minter", "record")),
    "record_metadata",
    *(f"give_up {right}" for right in ("may_mint", "may_describe", "may_deploy")),
]
"""In the order in which they are sent."""


@pytest.fixture(params=BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return open_stand(either_chain(request.param, request, tmp_path), tmp_path)


def a_job(stand: Stand) -> Trained:
    return trained(stand, published(stand), stand.chain.wallets["bob"].address)


def run(stand: Stand, job: Trained) -> Derived:
    return derive(stand.market, stand.chain.wallets["operator"], job)


def check_one_asset(stand: Stand, job: Trained) -> None:
    """The parent and one asset derived from it: Bob's, with exactly 200 datatokens, of which the platform keeps no right."""
    bob, operator, ledger = stand.chain.wallets["bob"].address, stand.chain.wallets["operator"], stand.chain.ledger
    (listing,) = (each for each in stand.catalogue.listings() if each.statement is not None)
    assert len(stand.catalogue.listings()) == 2
    assert (listing.publisher, ledger.asset(listing.nft).owner) == (bob, bob)
    assert ledger.minted(listing.datatoken, bob) == (MINTED,)
    assert ledger.balance(listing.datatoken, bob) == 200 * ONE
    assert ledger.rights(listing.nft, listing.datatoken, operator.address) == Rights()
    for label in (MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL):
        assert len(recorded(ledger, listing.nft, listing.datatoken, label)) == 1
    digest = job.derivation.weights_digest
    assert weights_digest(weights_folder(stand.market.weights, digest)) == digest == listing.weights_digest
    assert digest in stand.kept_weights.kept
    assert listing.model_digest in stand.kept.kept
    check_market(ledger, Seen(stand.catalogue.listings(), stand.market.log_nft, stand.market.models, operator))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("part", "method", "number"), WRITES, ids=[f"{part} {method}" for part, method, _ in WRITES])
def test_deriving_interrupted_at_a_write_and_repeated_makes_one_asset(
    stand: Stand, part: str, method: str, number: int, when: str
) -> None:
    job = a_job(stand)
    getattr(stand, part).break_call(method, when, number)
    with pytest.raises((Unavailable, OutcomeUnknown), match=f"broken {when}"):
        run(stand, job)
    derived = run(stand, job)
    check_one_asset(stand, job)
    assert run(stand, job) == derived
    check_one_asset(stand, job)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_deriving_interrupted_at_any_transaction_and_repeated_makes_one_asset(tmp_path: Path, transaction: str, when: str) -> None:
    ledger, chain = simulated_chain()
    stand = open_stand(chain, tmp_path)
    job = a_job(stand)
    ledger.fail_next(transaction, when)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        run(stand, job)
    run(stand, job)
    check_one_asset(stand, job)


def test_deriving_interrupted_everywhere_in_turn_makes_one_asset(tmp_path: Path) -> None:
    ledger, chain = simulated_chain()
    stand = open_stand(chain, tmp_path)
    job = a_job(stand)
    for transaction in TRANSACTIONS:
        for when in ("before", "after"):
            ledger.fail_next(transaction, when)
            with pytest.raises((Unavailable, OutcomeUnknown)):
                run(stand, job)
    in_turn = [write for write in WRITES[3:] if write[1] != "load"]  # a model that was loaded is not loaded again
    for part, method, number in in_turn:
        for when in ("before", "after"):
            getattr(stand, part).break_call(method, when, number)
            with pytest.raises((Unavailable, OutcomeUnknown)):
                run(stand, job)
    run(stand, job)
    check_one_asset(stand, job)
    assert [method for method, _ in ledger.writes if method in TRANSACTIONS][1:] == TRANSACTIONS  # the first is the parent's


@pytest.mark.live
@pytest.mark.parametrize("what", ["request", "answer"])
@pytest.mark.parametrize("number", range(1, len(TRANSACTIONS) + 1), ids=TRANSACTIONS)
def test_a_node_that_loses_a_derivations_transaction_makes_one_asset(anvil: str, tmp_path: Path, number: int, what: str) -> None:
    with running_proxy(anvil) as proxy:
        stand = open_stand(real_chain(proxy.url, tmp_path / "outbox"), tmp_path)
        job = a_job(stand)
        since, before = stand.chain.ledger.head().number, len(proxy.sent)
        proxy.lose("eth_sendRawTransaction", what, number)
        with pytest.raises(OutcomeUnknown):
            run(stand, job)
        run(stand, job)
        check_one_asset(stand, job)
        assert created_nfts(anvil, stand.chain.wallets["bob"].address, since) == 1
        assert len(set(proxy.sent[before:])) == len(TRANSACTIONS)
