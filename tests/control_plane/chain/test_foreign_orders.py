"""Orders that look right and are not, on the real contracts: made by whoever can call a contract and emit an event."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from control_plane.chain import orders
from control_plane.chain.contracts import call_data, deployment_data
from control_plane.chain.fees import sign_provider_fee
from control_plane.chain.ledger import Created, ProviderFee
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Fees, Rpc
from control_plane.chain.transaction import Action, contract_address, sign_transaction
from control_plane.did import ZERO_ADDRESS, Address, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import OutcomeUnknown, Refused
from tests.fixtures_chain import ONE, Chain, real_chain

pytestmark = pytest.mark.live


class Bench:
    """A chain with one asset, and the means to send anything to it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.rpc = Rpc(url, LOCAL_CHAIN_ID)
        self.outbox = Outbox(folder / "outbox", self.rpc, wait_s=10.0, poll_s=0.01)
        self.ledger = OceanLedger(self.rpc, LOCAL, self.outbox)
        self.chain: Chain = real_chain(url, folder / "outbox")
        self.asset: Created = self.ledger.create_asset(self.chain.wallets["alice"], "asset", "A model", "MODEL", self.chain.terms())

    def fee(self, datatoken: Address, signer: str = "operator", amount: int = 0) -> ProviderFee:
        until = UnixSeconds(int(self.chain.now()) + 3600)
        wallet = self.chain.wallets[signer]
        return sign_provider_fee(wallet, datatoken, 0, self.chain.ocean, TokenWei(amount), until, time.time)

    def order(self, buyer: str = "bob") -> TransactionHash:
        wallet = self.chain.wallets[buyer]
        self.ledger.buy_datatoken(wallet, f"buy {buyer}", self.asset.datatoken, self.asset.exchange, TokenWei(2 * ONE))
        fee = self.fee(self.asset.datatoken)
        return self.ledger.start_order(wallet, f"order {buyer}", self.asset.datatoken, wallet.address, 0, fee).transaction


@pytest.fixture
def bench(anvil: str, tmp_path: Path) -> Bench:
    return Bench(anvil, tmp_path)


def clone_of(bench: Bench, nft: Address) -> Address:
    """A datatoken of Ocean's own code that Mallory deployed herself and told that it belongs to `nft`."""
    mallory = bench.chain.wallets["mallory"]
    nonce = bench.rpc.sent_count(mallory.address)
    bench.outbox.send(mallory, "clone", Action(None, deployment_data("ERC20Template", [])))
    clone = contract_address(mallory.address, nonce)
    names = ["clone", "CLONE"]
    roles = [mallory.address, mallory.address, ZERO_ADDRESS, ZERO_ADDRESS]
    arguments = [names, roles, [nft, LOCAL.router], [10**30, 0], []]
    bench.outbox.send(mallory, "initialise", Action(clone, call_data("ERC20Template", "initialize", arguments)))
    bench.outbox.send(mallory, "mint", Action(clone, call_data("ERC20Template", "mint", [mallory.address, 10 * ONE])))
    return clone


def test_an_order_of_a_datatoken_outside_the_factory_does_not_count(bench: Bench) -> None:
    mallory = bench.chain.wallets["mallory"]
    clone = clone_of(bench, bench.asset.nft)
    action = orders.order_action(clone, mallory.address, 0, bench.fee(bench.asset.datatoken))
    mined = bench.outbox.send(mallory, "order", action)
    assert mined.status == 1
    asked = bench.ledger.order_facts(mined.transaction, bench.asset.datatoken)
    assert (asked.status, asked.emitter, asked.consumer) == (1, None, None)
    unasked = bench.ledger.order_facts(mined.transaction)
    assert (unasked.status, unasked.emitter) == (1, None)
    # even who believes the clone's address learns that it is not the asset's
    named = bench.ledger.order_facts(mined.transaction, clone)
    assert (named.emitter, named.nft, named.is_from_factory) == (clone, bench.asset.nft, False)


def test_a_clone_of_an_nft_outside_the_factory_does_not_count(bench: Bench) -> None:
    mallory = bench.chain.wallets["mallory"]
    clone = clone_of(bench, mallory.address)
    mined = bench.outbox.send(mallory, "order", orders.order_action(clone, mallory.address, 0, bench.fee(clone)))
    assert bench.ledger.order_facts(mined.transaction).emitter is None
    assert not bench.ledger.order_facts(mined.transaction, clone).is_from_factory


def test_a_strangers_reuse_of_an_order_is_no_order(bench: Bench) -> None:
    ordered, mallory = bench.order(), bench.chain.wallets["mallory"]
    signed = orders.fee_argument(bench.fee(bench.asset.datatoken))
    reuse = call_data("ERC20Template", "reuseOrder", [bytes.fromhex(ordered[2:]), signed])
    mined = bench.outbox.send(mallory, "reuse", Action(bench.asset.datatoken, reuse))
    facts = bench.ledger.order_facts(mined.transaction, bench.asset.datatoken)
    assert (facts.found, facts.status, facts.emitter, facts.provider_fee) == (True, 1, None, None)
    told = bench.ledger.reuse_of(mined.transaction, bench.asset.datatoken)
    assert told is not None and (told.original, len(told.signed_fees)) == (ordered, 1)
    assert bench.ledger.reuses(ordered, bench.asset.datatoken, mined.block) == (told,)
    assert bench.ledger.reuses(ordered, bench.asset.datatoken, mined.block + 1) == ()
    assert bench.ledger.reuses(mined.transaction, bench.asset.datatoken, 0) == ()


def test_a_reverted_order_does_not_count(bench: Bench) -> None:
    mallory = bench.chain.wallets["mallory"]
    action = orders.order_action(bench.asset.datatoken, mallory.address, 0, bench.fee(bench.asset.datatoken))
    nonce = bench.rpc.sent_count(mallory.address)
    signed = sign_transaction(mallory, LOCAL_CHAIN_ID, action, nonce, 500_000, bench.rpc.fees())
    bench.rpc.broadcast(signed.raw)
    until = time.monotonic() + 10
    while bench.rpc.receipt(signed.transaction) is None:  # anvil answers before it has mined
        assert time.monotonic() < until
        time.sleep(0.01)
    facts = bench.ledger.order_facts(signed.transaction, bench.asset.datatoken)
    assert (facts.found, facts.status, facts.emitter, facts.consumer) == (True, 0, None, None)


def test_an_order_that_a_reorganisation_undid_is_not_found_and_its_key_sends_the_same_one(bench: Bench) -> None:
    bob = bench.chain.wallets["bob"]
    bench.ledger.buy_datatoken(bob, "buy", bench.asset.datatoken, bench.asset.exchange, TokenWei(2 * ONE))
    fee = bench.fee(bench.asset.datatoken)
    # approved before the snapshot, so that only the order itself is undone
    bench.outbox.send(bob, "approve", orders.approve_action(bench.chain.ocean, bench.asset.datatoken, ONE))
    snapshot = bench.rpc.ask("evm_snapshot", [])
    first = bench.ledger.start_order(bob, "order", bench.asset.datatoken, bob.address, 0, fee)
    assert bench.ledger.order_facts(first.transaction, bench.asset.datatoken).found
    bench.rpc.ask("evm_revert", [snapshot])
    assert not bench.ledger.order_facts(first.transaction, bench.asset.datatoken).found
    again = bench.ledger.start_order(bob, "order", bench.asset.datatoken, bob.address, 0, fee)
    assert again.transaction == first.transaction
    assert bench.ledger.order_facts(first.transaction, bench.asset.datatoken).status == 1


def test_a_transaction_waiting_for_a_block_is_unknown_and_then_found(bench: Bench) -> None:
    alice = bench.chain.wallets["alice"]
    patient = Outbox(bench.outbox._folder, bench.rpc, wait_s=0.2, poll_s=0.05)
    bench.rpc.ask("evm_setAutomine", [False])
    try:
        with pytest.raises(OutcomeUnknown, match="in no block"):
            patient.send(alice, "waiting", Action(alice.address, b""))
        assert patient.is_live("waiting")
    finally:
        bench.rpc.ask("evm_setAutomine", [True])
        bench.rpc.ask("anvil_mine", ["0x1"])
    assert patient.send(alice, "waiting", Action(alice.address, b"")).status == 1


def test_a_transaction_that_the_node_dropped_is_handed_over_again(bench: Bench) -> None:
    alice = bench.chain.wallets["alice"]
    impatient = Outbox(bench.outbox._folder, bench.rpc, wait_s=0.1, poll_s=0.05)
    bench.rpc.ask("evm_setAutomine", [False])
    try:
        with pytest.raises(OutcomeUnknown):
            impatient.send(alice, "dropped", Action(alice.address, b""))
        bench.rpc.ask("anvil_dropAllTransactions", [])
    finally:
        bench.rpc.ask("evm_setAutomine", [True])
    assert bench.outbox.send(alice, "dropped", Action(alice.address, b"")).status == 1


def test_a_revert_in_a_block_says_why(bench: Bench) -> None:
    """The estimate went well, and then somebody who pays more for the same block took what this transaction needed."""
    bob, carol = bench.chain.wallets["bob"], bench.chain.wallets["carol"]
    bench.ledger.buy_datatoken(bob, "buy", bench.asset.datatoken, bench.asset.exchange, TokenWei(2 * ONE))
    bench.outbox.send(bob, "allow", orders.approve_action(bench.asset.datatoken, carol.address, ONE))
    give = Action(bench.asset.datatoken, call_data("ERC20Template", "transfer", [carol.address, ONE]))
    take = Action(bench.asset.datatoken, call_data("ERC20Template", "transferFrom", [bob.address, carol.address, ONE]))
    impatient = Outbox(bench.outbox._folder, bench.rpc, wait_s=0.05, poll_s=0.01)
    bench.rpc.ask("evm_setAutomine", [False])
    try:
        with pytest.raises(OutcomeUnknown):
            impatient.send(bob, "give", give)
        nonce = bench.rpc.sent_count(carol.address)
        dear = Fees(200 * 10**9, 100 * 10**9)
        bench.rpc.broadcast(sign_transaction(carol, LOCAL_CHAIN_ID, take, nonce, 200_000, dear).raw)
    finally:
        bench.rpc.ask("anvil_mine", ["0x1"])
        bench.rpc.ask("evm_setAutomine", [True])
    # reverted, so it did nothing: the key tries once more, and the estimate now says why not
    with pytest.raises(Refused, match="transfer amount exceeds balance"):
        bench.outbox.send(bob, "give", give)
    mined = [bench.rpc.receipt(each.transaction) for each in bench.outbox._read("give")]
    assert [each.status for each in mined if each is not None] == [0]


def test_a_transaction_with_two_orders_says_so(bench: Bench) -> None:
    """Sessions and receipts are named by the transaction, so the gate must be able to refuse one that holds two."""
    bob, datatoken = bench.chain.wallets["bob"], bench.asset.datatoken
    for number in range(2):
        bench.ledger.buy_datatoken(bob, f"buy {number}", datatoken, bench.asset.exchange, TokenWei(2 * ONE))
    for token in (datatoken, bench.chain.ocean):
        approval = call_data("ERC20Template", "approve", [LOCAL.factory, 10 * ONE])
        bench.outbox.send(bob, f"approve {token}", Action(token, approval))
    order = (datatoken, bob.address, 0, orders.fee_argument(bench.fee(datatoken)), (ZERO_ADDRESS, ZERO_ADDRESS, 0))
    twice = Action(LOCAL.factory, call_data("ERC721Factory", "startMultipleTokenOrder", [[order, order]]))
    mined = bench.outbox.send(bob, "twice", twice)
    assert bench.ledger.order_facts(mined.transaction, datatoken).orders == 2
    assert bench.ledger.order_facts(bench.order("alice"), datatoken).orders == 1
