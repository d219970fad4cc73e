"""Sent at most once, whatever is lost on the way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Fees
from control_plane.chain.transaction import Action
from control_plane.errors import Conflict, IntegrityBroken, OutcomeUnknown, Refused, Unavailable
from tests.control_plane.chain.fixtures_outbox import OTHER, TO, WALLET, WRITE
from tests.simulators.node import SimulatedNode


def test_a_transaction_is_sent_and_found(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    mined = outbox().send(WALLET, "key", WRITE)
    assert (mined.status, mined.sender, mined.to) == (1, WALLET.address, TO)
    assert [heard.data for heard in node.heard] == [b"write"]


def test_the_same_key_sends_once_also_from_a_new_process(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    assert outbox().send(WALLET, "key", WRITE) == outbox().send(WALLET, "key", WRITE)
    assert len(node.heard) == 1


def test_what_is_signed_is_on_disk_before_the_node_hears_of_it(
    node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path
) -> None:
    node.failures = ["before"]
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["key"] == "key"
    assert record["attempts"][0]["data"] == "0x" + b"write".hex()
    assert WALLET._key.to_hex() not in path.read_text()
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_is_unknown_and_heals_with_the_same_transaction(
    node: SimulatedNode, outbox: Callable[..., Outbox], when: str
) -> None:
    node.failures = [when]
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    assert outbox().is_live("key")
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert len({heard.transaction for heard in node.heard}) == 1
    assert node.counts[-1] == {WALLET.address: 1}


def test_a_transaction_in_no_block_is_unknown_and_found_later(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown, match="in no block"):
        outbox().send(WALLET, "key", WRITE)
    node.mine()
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert len(node.heard) == 1


def test_a_transaction_that_the_node_forgot_is_handed_over_again(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    node.pool.clear()
    node.is_mining = True
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert len({heard.transaction for heard in node.heard}) == 1


def test_a_node_that_is_down_before_sending_leaves_nothing(
    node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path
) -> None:
    node.is_down = True
    with pytest.raises(Unavailable):
        outbox().send(WALLET, "key", WRITE)
    node.is_down = False
    assert not outbox().is_live("key")
    assert outbox().send(WALLET, "key", WRITE).status == 1


def test_a_revert_seen_beforehand_is_refused_and_nothing_is_sent(
    node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path
) -> None:
    node.refuses_estimates = True
    with pytest.raises(Refused, match="NOT YOU"):
        outbox().send(WALLET, "key", WRITE)
    assert node.heard == []
    assert not list(tmp_path.glob("*.json"))


def test_a_revert_in_a_block_is_refused_with_its_reason(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.reverts = {b"write"}
    with pytest.raises(Refused, match="reverted: the contract refused: NOT NOW"):
        outbox().send(WALLET, "key", WRITE)
    assert not outbox().is_live("key")


def test_a_reverted_transaction_did_nothing_so_its_key_may_send_again(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.reverts = {b"write"}
    with pytest.raises(Refused):
        outbox().send(WALLET, "key", WRITE)
    node.reverts = set()
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert [heard.nonce for heard in node.heard] == [0, 1]


def test_a_revert_that_a_reorganisation_could_undo_is_not_sent_again(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.reverts = {b"write"}
    with pytest.raises(Refused):
        outbox(3).send(WALLET, "key", WRITE)
    node.reverts = set()
    with pytest.raises(Refused):
        outbox(3).send(WALLET, "key", WRITE)
    assert len(node.heard) == 1
    node.advance(2)
    assert outbox(3).send(WALLET, "key", WRITE).status == 1


def test_a_spent_nonce_is_signed_anew_once_that_is_final(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox(3).send(WALLET, "key", WRITE)
    node.spend_nonce(WALLET.address)
    with pytest.raises(OutcomeUnknown):  # the receipt may only be late: a second signature now could do it twice
        outbox(3).send(WALLET, "key", WRITE)
    assert len({heard.transaction for heard in node.heard}) == 1
    node.advance(3)
    node.is_mining = True
    assert outbox(3).send(WALLET, "key", WRITE).status == 1
    assert [heard.nonce for heard in node.heard if heard.nonce == 1] == [1]


def test_a_transaction_that_was_mined_after_all_counts_also_from_history(
    node: SimulatedNode, outbox: Callable[..., Outbox]
) -> None:
    first = outbox().send(WALLET, "key", WRITE)
    late = node.mined.pop(first.transaction)  # the node does not show the receipt: it seems dead
    second = outbox().send(WALLET, "key", WRITE)
    assert second.transaction != first.transaction
    node.mined = {late.transaction: late}
    assert outbox().send(WALLET, "key", WRITE) == late


def test_a_key_does_not_stand_for_another_action(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    outbox().send(WALLET, "key", WRITE)
    for other in (Action(TO, b"other"), Action(WALLET.address, b"write"), Action(TO, b"write", 1)):
        with pytest.raises(Conflict):
            outbox().send(WALLET, "key", other)
    assert len(node.heard) == 1


def test_identity_says_which_bytes_name_the_thing(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    outbox().send(WALLET, "key", Action(TO, b"order 1 fee A"), 7)
    assert outbox().send(WALLET, "key", Action(TO, b"order 1 fee B"), 7).status == 1
    assert [heard.data for heard in node.heard] == [b"order 1 fee A"]
    with pytest.raises(Conflict):
        outbox().send(WALLET, "key", Action(TO, b"order 2 fee B"), 7)


def test_a_dead_action_may_be_replaced_by_another(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.reverts = {b"write"}
    with pytest.raises(Refused):
        outbox().send(WALLET, "key", WRITE)
    assert outbox().send(WALLET, "key", Action(TO, b"better")).status == 1


def test_what_a_node_does_not_take_is_refused_and_may_be_tried_again(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.failures = ["insufficient funds for gas"]
    with pytest.raises(Refused, match="insufficient funds"):
        outbox().send(WALLET, "key", WRITE)
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert len({heard.transaction for heard in node.heard}) == 1


@pytest.mark.parametrize(
    "words", ["max fee per gas less than block base fee", "insufficient funds for gas", "intrinsic gas too low", "txpool is full"]
)
def test_what_the_first_node_refused_and_does_not_know_is_dead(
    node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path, words: str
) -> None:
    node.failures, node.asks = [words], Fees(2, 1)
    with pytest.raises(Refused, match=words):
        outbox().send(WALLET, "key", WRITE)
    assert not outbox().is_live("key")
    node.asks = None
    assert outbox().send(WALLET, "key", Action(TO, b"another")).status == 1  # it stands for nothing yet
    assert [(heard.nonce, heard.data) for heard in node.heard] == [(0, b"another")]
    (path,) = tmp_path.glob("*.json")
    assert [each["refused"] for each in json.loads(path.read_text())["attempts"]] == [words, ""]


def test_what_the_node_refused_and_knows_all_the_same_is_live(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.is_mining = False
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    node.failures = ["internal error"]
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    assert outbox().is_live("key")
    node.mine()
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert len(node.heard) == 1


def test_a_node_that_refused_and_kept_it_does_not_make_it_happen_twice(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    node.failures = ["internal error"]
    with pytest.raises(Refused):
        outbox().send(WALLET, "key", WRITE)
    node.is_mining = False
    node.broadcast(bytes.fromhex(outbox()._read("key")[0].raw[2:]))  # the node told a lie, and counts it as waiting
    with pytest.raises(OutcomeUnknown, match="something waits at its nonce 0"):
        outbox().send(WALLET, "key", WRITE)
    node.mine()
    assert outbox().send(WALLET, "key", WRITE).status == 1
    assert len(node.heard) == 1


def test_a_refused_transaction_whose_nonce_went_to_another_key_is_signed_anew(
    node: SimulatedNode, outbox: Callable[..., Outbox]
) -> None:
    node.failures = ["txpool is full"]
    with pytest.raises(Refused):
        outbox(3).send(WALLET, "key", WRITE)
    assert outbox(3).send(WALLET, "other", Action(TO, b"other")).status == 1
    assert outbox(3).send(WALLET, "key", WRITE).status == 1
    assert [(heard.nonce, heard.data) for heard in node.heard] == [(0, b"other"), (1, b"write")]


@pytest.mark.parametrize("wait_s", [0.0, 0.3, 7.0])
def test_send_waits_no_longer_than_it_may(node: SimulatedNode, outbox: Callable[..., Outbox], wait_s: float) -> None:
    node.is_mining = False
    box = outbox(wait_s=wait_s)
    began = box._clock()
    with pytest.raises(OutcomeUnknown):
        box.send(WALLET, "key", WRITE)
    assert box._clock() - began == pytest.approx(wait_s)


@pytest.mark.parametrize("words", ["already known", "transaction already imported", "nonce too low"])
def test_a_node_that_knows_it_already_is_no_error(node: SimulatedNode, outbox: Callable[..., Outbox], words: str) -> None:
    node.failures = ["after"]
    with pytest.raises(OutcomeUnknown):
        outbox().send(WALLET, "key", WRITE)
    mined, node.mined = node.mined, {}
    node.counts = [{}]  # not mined yet, as far as this node says
    node.failures = [words]
    box = outbox()
    box._sleep = lambda _seconds: setattr(node, "mined", mined)
    assert box.send(WALLET, "key", WRITE).status == 1


def test_a_chain_begun_anew_knows_nothing_of_the_old_one(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    outbox().send(WALLET, "key", WRITE)
    node.first, node.mined, node.counts = "0x" + "11" * 32, {}, [{}]
    assert not outbox().is_live("key")
    assert outbox().send(WALLET, "key", WRITE).status == 1


def test_a_damaged_file_stops_everything(node: SimulatedNode, outbox: Callable[..., Outbox], tmp_path: Path) -> None:
    outbox().send(WALLET, "key", WRITE)
    (path,) = tmp_path.glob("*.json")
    path.write_text('{"attempts": [{}]}')
    with pytest.raises(IntegrityBroken):
        outbox().send(WALLET, "key", WRITE)
    assert len(node.heard) == 1


def test_many_senders_of_one_account_use_each_nonce_once(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    failed: list[BaseException] = []

    def send(number: int) -> None:
        try:
            outbox().send(WALLET, f"key {number % 10}", Action(TO, str(number % 10).encode()))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(heard.nonce for heard in node.heard) == list(range(10))
    assert sorted(heard.data for heard in node.heard) == [str(number).encode() for number in range(10)]


def test_two_accounts_have_their_own_nonces(node: SimulatedNode, outbox: Callable[..., Outbox]) -> None:
    outbox().send(WALLET, "a", WRITE)
    outbox().send(OTHER, "b", WRITE)
    assert [(heard.sender, heard.nonce) for heard in node.heard] == [(WALLET.address, 0), (OTHER.address, 0)]
