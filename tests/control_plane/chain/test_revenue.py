"""What everybody earned, read from a real chain's events, is what their balances grew by."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from control_plane.chain.contracts import call_data
from control_plane.chain.fees import sign_provider_fee
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID
from control_plane.chain.outbox import Outbox
from control_plane.chain.revenue import revenue
from control_plane.chain.rpc import Rpc
from control_plane.chain.transaction import Action
from control_plane.did import TokenWei, UnixSeconds
from tests.fixtures_chain import ONE, anvil, real_chain

__all__ = ["anvil"]


@pytest.mark.live
def test_an_order_and_a_sale_are_earned_by_whom_the_chain_paid(anvil: str, tmp_path: Path) -> None:
    chain = real_chain(anvil, tmp_path / "outbox")
    rpc, ledger = Rpc(anvil, LOCAL_CHAIN_ID), chain.ledger
    alice, bob, operator = (chain.wallets[name] for name in ("alice", "bob", "operator"))
    made = ledger.create_asset(alice, "asset", "Tiny", "TINY", chain.terms(swap_fee=10**16))
    assert revenue(rpc, LOCAL, [made.datatoken]) == ()
    before = {who.address: ledger.balance(chain.ocean, who.address) for who in (alice, operator)}
    bought = ledger.buy_datatoken(bob, "buy", made.datatoken, made.exchange, TokenWei(2 * ONE))
    until = UnixSeconds(int(chain.now()) + 600)
    fee = sign_provider_fee(operator, made.datatoken, 1, chain.ocean, TokenWei(10**17), until, chain.now, "posthuman")
    sent = ledger.start_order(bob, "order", made.datatoken, bob.address, 1, fee)

    found = revenue(rpc, LOCAL, [made.datatoken])
    sums: dict[tuple[str, str], int] = defaultdict(int)
    for each in found:
        sums[each.kind, each.to] += each.amount
        assert each.transaction in (bought.sent.transaction, sent.transaction)
    assert sums["publish", operator.address] == 5 * 10**16
    assert sums["provider", operator.address] == 10**17
    assert sums["swap", operator.address] == 10**16
    assert sums["sale", alice.address] == ONE
    assert sums["order", alice.address] == 97 * 10**16 == ledger.balance(made.datatoken, alice.address)
    (community,) = {each.to for each in found if each.kind == "community"}
    assert sums["community", community] == 10**15 + 3 * 10**16
    assert ledger.balance(made.datatoken, community) == 3 * 10**16
    grown = {who: ledger.balance(chain.ocean, who) - was for who, was in before.items()}
    assert grown[operator.address] == 15 * 10**16  # swap fees lie in the exchange until they are collected
    assert bought.paid == ONE + 10**16 + 10**15


@pytest.mark.live
def test_a_gift_of_datatokens_is_no_revenue(anvil: str, tmp_path: Path) -> None:
    chain = real_chain(anvil, tmp_path / "outbox")
    rpc, alice, bob = Rpc(anvil, LOCAL_CHAIN_ID), chain.wallets["alice"], chain.wallets["bob"]
    made = chain.ledger.create_asset(alice, "gift", "Gift", "GIFT", chain.terms(rate=0, publish_fee=0))
    chain.ledger.buy_datatoken(bob, "take", made.datatoken, None, TokenWei(0))
    outbox = Outbox(tmp_path / "outbox", rpc, poll_s=0.01)
    outbox.send(bob, "transfer", Action(made.datatoken, call_data("ERC20Template", "transfer", [alice.address, ONE])))
    assert chain.ledger.balance(made.datatoken, alice.address) == ONE
    assert revenue(rpc, LOCAL, [made.datatoken]) == ()
