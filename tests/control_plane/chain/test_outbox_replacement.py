"""A transaction whose fee became too low is replaced at its nonce, and happens once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.outbox import RAISE_MOST, Outbox
from control_plane.chain.rpc import Fees, Rpc
from control_plane.chain.transaction import Action, cost_of, sign_transaction
from control_plane.errors import OutcomeUnknown, Refused
from deploy.local.chain import local_accounts
from tests.control_plane.chain.fixtures_outbox import TO, WALLET, WRITE
from tests.fixtures_chain import running_anvil
from tests.simulators.node import SimulatedNode


def test_a_transaction_whose_fee_became_too_low_is_replaced(
    node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path
) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    node.base_fee *= 10
    mined = outbox(wait_s=20.0, mine_after_s=2.0).send(WALLET, "key", WRITE)
    first, second = dict.fromkeys(node.heard)  # handed over again does not count
    assert (mined.transaction, mined.status) == (second.transaction, 1)
    assert (second.nonce, second.to, second.data) == (first.nonce, first.to, first.data)
    assert second.most >= 2 * node.base_fee
    assert min(second.most / first.most, second.tip / first.tip) >= 1.125
    (path,) = tmp_path.glob("*.json")
    assert [each["transaction"] for each in json.loads(path.read_text())["attempts"]] == [first.transaction, second.transaction]
    assert outbox().send(WALLET, "key", WRITE) == mined
    assert node.counts[-1] == {WALLET.address: 1}


def test_the_age_of_a_transaction_counts_across_short_waits(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    for _ in range(8):
        with pytest.raises(OutcomeUnknown):
            outbox(wait_s=1.0).send(WALLET, "key", WRITE)
    assert [heard.nonce for heard in dict.fromkeys(node.heard)] == [0, 0]


def test_the_outcome_is_whichever_attempt_was_mined(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    first = dict(node.pool)
    with pytest.raises(OutcomeUnknown):
        outbox(wait_s=6.0).send(WALLET, "key", WRITE)
    assert len(set(node.heard)) == 2
    node.pool = first  # the miner never heard of the second one
    node.mine()
    assert outbox().send(WALLET, "key", WRITE).transaction == node.heard[0].transaction
    assert outbox().is_live("key")


def test_a_replacement_is_on_disk_before_the_node_hears_of_it(
    node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path
) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox(wait_s=4.9).send(WALLET, "key", WRITE)
    node.failures = ["", "before"]
    with pytest.raises(OutcomeUnknown):
        outbox(wait_s=2.0).send(WALLET, "key", WRITE)
    (path,) = tmp_path.glob("*.json")
    assert [each["refused"] for each in json.loads(path.read_text())["attempts"]] == ["", ""]
    node.is_mining = True
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert node.counts[-1] == {WALLET.address: 1}


def test_a_refused_replacement_leaves_the_first_one_live(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox(wait_s=4.9).send(WALLET, "key", WRITE)
    node.failures = ["", "insufficient funds for gas"]
    with pytest.raises(OutcomeUnknown, match="the node says: insufficient funds"):
        outbox(wait_s=2.0).send(WALLET, "key", WRITE)
    assert outbox().is_live("key")
    node.mine()
    assert outbox().send(WALLET, "key", WRITE).transaction == node.heard[0].transaction


def test_a_replacement_that_reverts_is_the_outcome(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    node.base_fee, node.reverts = 10 * node.base_fee, {b"write"}
    with pytest.raises(Refused, match="reverted"):
        outbox(wait_s=20.0, mine_after_s=2.0).send(WALLET, "key", WRITE)
    assert not outbox().is_live("key")


def test_a_later_transaction_moves_the_stuck_one_before_it(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "stuck", WRITE)
    node.base_fee *= 10
    assert outbox(wait_s=30.0, mine_after_s=2.0).send(WALLET, "later", Action(TO, b"later")).status == 1
    assert outbox().send(WALLET, "stuck", WRITE).status == 1
    assert node.counts[-1] == {WALLET.address: 2}
    assert {heard.data for heard in node.heard if heard.nonce == 0} == {b"write"}


def test_fees_are_not_raised_for_ever_on_a_chain_that_makes_no_blocks(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox(wait_s=600.0).send(WALLET, "key", WRITE)
    assert max(heard.most for heard in node.heard) <= RAISE_MOST * node.fees().most * 9 // 8
    assert len({heard.transaction for heard in node.heard}) < 20


@pytest.mark.parametrize("fees", [Fees(20, 3), Fees(20, 0), Fees(20, None)])
def test_what_a_transaction_offers_is_read_back_from_its_bytes(fees: Fees) -> None:
    signed = sign_transaction(WALLET, 8996, WRITE, 0, 21_000, fees)
    assert (cost_of(signed.raw).gas, cost_of(signed.raw).fees) == (21_000, fees)


@pytest.fixture
def own_anvil(tmp_path: Path) -> Iterator[Rpc]:
    """A chain for one test, which changes how it mines."""
    with running_anvil(tmp_path / "anvil") as url:
        yield Rpc(url, LOCAL_CHAIN_ID)


@pytest.mark.live
def test_on_a_real_node_a_fee_that_became_too_low_is_replaced_and_nothing_stays_blocked(own_anvil: Rpc, tmp_path: Path) -> None:
    alice = local_accounts()["alice"]
    short = Outbox(tmp_path / "outbox", own_anvil, wait_s=0.1, poll_s=0.02, replace_after_s=0.3)
    patient = Outbox(tmp_path / "outbox", own_anvil, wait_s=15.0, poll_s=0.02, replace_after_s=0.3)
    own_anvil.ask("evm_setAutomine", [False])
    for key in ("stuck", "later"):
        with pytest.raises(OutcomeUnknown):
            short.send(alice, key, Action(TO, key.encode()))
    own_anvil.ask("anvil_setNextBlockBaseFeePerGas", [hex(20 * own_anvil.fees().most)])
    own_anvil.ask("anvil_mine", ["0x1"])
    assert [own_anvil.receipt(short._read(key)[0].transaction) for key in ("stuck", "later")] == [None, None]
    own_anvil.ask("evm_setIntervalMining", [1])
    later, stuck = (patient.send(alice, key, Action(TO, key.encode())) for key in ("later", "stuck"))
    assert (later.status, stuck.status) == (1, 1)
    assert own_anvil.sent_count(alice.address) == 2
    attempts = patient._read("stuck")
    assert len(attempts) > 1
    assert {each.nonce for each in attempts} == {0}
    assert len([each for each in attempts if own_anvil.receipt(each.transaction)]) == 1


class Behind(Rpc):
    """Knows of a much lower fee than the node asks."""

    def fees(self) -> Fees:
        return Fees(2, 1)


@pytest.mark.live
def test_on_a_real_node_a_refused_first_broadcast_leaves_the_key_free(own_anvil: Rpc, tmp_path: Path) -> None:
    alice = local_accounts()["alice"]
    behind = Outbox(tmp_path / "outbox", Behind(own_anvil.url, LOCAL_CHAIN_ID), wait_s=5.0)
    with pytest.raises(Refused, match="base fee"):
        behind.send(alice, "key", WRITE)
    box = Outbox(tmp_path / "outbox", own_anvil, wait_s=5.0)
    assert not box.is_live("key")
    assert box.send(alice, "key", WRITE).status == 1
    assert [bool(each.refused) for each in box._read("key")] == [True, False]
