"""What everybody earned, read from a real chain's events, is what their balances grew by."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.chain.assets import read
from control_plane.chain.contracts import call_data
from control_plane.chain.fees import sign_provider_fee
from control_plane.chain.networks import LOCAL, LOCAL_CHAIN_ID
from control_plane.chain.outbox import Outbox
from control_plane.chain.revenue import revenue
from control_plane.chain.rpc import Rpc
from control_plane.chain.transaction import Action
from control_plane.did import ZERO_ADDRESS, TokenWei, TransactionHash, UnixSeconds
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


@pytest.mark.live
def test_a_provider_fee_is_parted_with_the_community_where_ocean_takes_a_share(anvil: str, tmp_path: Path) -> None:
    chain = real_chain(anvil, tmp_path / "outbox")
    rpc, ledger = Rpc(anvil, LOCAL_CHAIN_ID), chain.ledger
    alice, bob, operator = (chain.wallets[name] for name in ("alice", "bob", "operator"))
    (owner,) = read(rpc, "FactoryRouter", LOCAL.router, "routerOwner")
    fees = ("swapOceanFee", "swapNonOceanFee", "consumeFee", "providerFee")
    swap, other, consume, nothing = (read(rpc, "FactoryRouter", LOCAL.router, each)[0] for each in fees)
    made = ledger.create_asset(alice, "shared", "Shared", "SHARED", chain.terms())

    def set_share(share: int) -> None:
        data = call_data("FactoryRouter", "updateOPCFee", [swap, other, consume, share])
        rpc.ask("anvil_impersonateAccount", [owner])
        rpc.ask("anvil_setBalance", [owner, hex(10 * ONE)])
        sent = rpc.ask("eth_sendTransaction", [{"from": owner, "to": LOCAL.router, "data": "0x" + bytes(data).hex()}])
        rpc.ask("anvil_stopImpersonatingAccount", [owner])
        mined = rpc.receipt(TransactionHash(str(sent)))
        assert mined is not None and mined.status == 1

    ledger.buy_datatoken(bob, "buy shared", made.datatoken, made.exchange, TokenWei(2 * ONE))
    until = UnixSeconds(int(chain.now()) + 600)
    fee = sign_provider_fee(operator, made.datatoken, 1, chain.ocean, TokenWei(10**17), until, chain.now, "posthuman")
    set_share(10**17)
    try:
        before = ledger.balance(chain.ocean, operator.address)
        ledger.start_order(bob, "order shared", made.datatoken, bob.address, 1, fee)
        found = [each for each in revenue(rpc, LOCAL, [made.datatoken]) if each.token == chain.ocean]
        mine = sum(each.amount for each in found if each.to == operator.address and each.kind in ("provider", "publish"))
        assert mine == ledger.balance(chain.ocean, operator.address) - before == 9 * 10**16 + 5 * 10**16
        assert 10**16 in [each.amount for each in found if each.kind == "community"]
    finally:
        set_share(nothing)


@pytest.mark.live
def test_an_order_whose_fee_is_nothing_of_no_token_is_paid(anvil: str, tmp_path: Path) -> None:
    """As the stock `ocean.py` makes datatokens: a publish fee of 0, in the token at address 0."""
    chain = real_chain(anvil, tmp_path / "outbox")
    rpc, ledger = Rpc(anvil, LOCAL_CHAIN_ID), chain.ledger
    alice, bob, operator = (chain.wallets[name] for name in ("alice", "bob", "operator"))
    free = replace(chain.terms(rate=0, publish_fee=0), base_token=ZERO_ADDRESS)
    made = ledger.create_asset(alice, "words", "Words", "WORDS", free)
    assert ledger.sale(made.datatoken, made.exchange).publish_fee_token == ZERO_ADDRESS
    ledger.buy_datatoken(bob, "take words", made.datatoken, None, TokenWei(0))
    until = UnixSeconds(int(chain.now()) + 600)
    fee = sign_provider_fee(operator, made.datatoken, 0, chain.ocean, TokenWei(0), until, chain.now)
    ledger.start_order(bob, "order words", made.datatoken, bob.address, 0, fee)
    assert {each.kind for each in revenue(rpc, LOCAL, [made.datatoken])} == {"order", "community"}
