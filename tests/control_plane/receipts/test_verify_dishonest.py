"""What a dishonest operator may try with log, receipts and keys, and what finds it out."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.chain.ledger import KEYS_LABEL, MODEL_LABEL, OPERATOR_LABEL, DataRecord, data_key
from control_plane.curve import CURVE_ORDER
from control_plane.did import Bytes32, UnixMillis, UnixSeconds
from control_plane.receipts.anchors import LOG_KEY, anchor_value
from control_plane.receipts.checkpoint import Checkpoint, NoteSigner
from control_plane.receipts.checks import at_time
from control_plane.receipts.merkle import Tree, leaf_hash
from control_plane.receipts.proof import Proof
from control_plane.receipts.receipt import leaf_bytes, receipt_id
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import Issued
from control_plane.receipts.verify import verify
from tests.control_plane.receipts.verifying import ForgedLog, anchored, assert_fails, verdicts
from tests.fixtures_log import LogMarket


def test_a_dropped_receipt_is_found_once_its_promise_has_passed(market: LogMarket) -> None:
    made = market.issue(3)
    forged = ForgedLog(market, [made[0], made[2]]).anchor()
    found = verify(market.ledger, made[1], log=forged.public())
    assert not found.is_verified and verdicts(found)["inclusion"] == "not checked"
    market.ledger.advance_time(3600 + 601)
    found = verify(market.ledger, made[1], log=forged.public())
    assert_fails(found, "inclusion", "is not among the 2 leaves")
    assert "promised before" in found.failed[0].evidence


def test_a_receipt_never_anchored_fails_once_its_promise_has_passed(market: LogMarket) -> None:
    anchored(market)
    (late,) = market.issue(1)
    market.log.integrate()
    market.ledger.advance_time(3600 + 601)
    assert_fails(market.verify(late), "anchor", "promised before")


def test_a_log_put_in_another_order_contradicts_its_anchor(market: LogMarket) -> None:
    made = anchored(market)
    reordered = ForgedLog(market, [made[1], made[0], made[2]])
    assert_fails(verify(market.ledger, made[0], log=reordered.public()), "anchor", "fork")


def test_an_edited_receipt_in_a_rewritten_log_contradicts_its_anchor(market: LogMarket) -> None:
    made = anchored(market)
    edited = market.resign(made[1], units_out=1000)
    rewritten = ForgedLog(market, [made[0], edited, made[2], made[2]])
    assert_fails(verify(market.ledger, edited, log=rewritten.public()), "anchor", "fork")


def test_an_edited_receipt_that_is_not_signed_again_has_no_known_signer(market: LogMarket) -> None:
    made = anchored(market)
    signed = made[0].signed
    edited = replace(signed, receipt=replace(signed.receipt, units_out=1000))
    issued = Issued(edited, made[0].salt, market.resign(made[0], units_out=1000).id)
    found = verify(market.ledger, issued, market.log.prove(made[0].id))
    assert_fails(found, "signature", "named")
    assert_fails(found, "inclusion", "does not lead to the root")


def test_a_backdated_receipt_is_found_by_the_anchor_before_it(market: LogMarket) -> None:
    anchored(market)
    market.ledger.advance_time(4000)
    anchored(market)
    market.ledger.advance_time(4000)
    (made,) = market.issue(1)
    early = UnixMillis(made.signed.receipt.started_at - 7_000_000)
    backdated = market.resign(made, started_at=early, finished_at=early, merge_by=made.signed.receipt.merge_by)
    leaves = list(market.store.receipts_of(order=market.order, limit=6))
    forged = ForgedLog(market, [*leaves, backdated]).anchor()
    found = verify(market.ledger, backdated, log=forged.public())
    assert_fails(found, "time", "backdated")
    assert [check.name for check in found.failed] == ["time"]


def test_a_receipt_from_the_future_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    later = UnixMillis(made.signed.receipt.finished_at + 2_000_000)
    future = market.resign(made, started_at=later, finished_at=later)
    found = verify(market.ledger, future, log=ForgedLog(market, [future]).anchor().public())
    assert_fails(found, "time", "after the anchor")


def test_a_receipt_anchored_after_its_promise_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    market.log.integrate()
    market.ledger.advance_time(3600 + 700)
    market.anchor()
    assert_fails(market.verify(made), "time", "anchored only")


def test_times_that_run_backwards_are_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    turned = market.resign(made, started_at=UnixMillis(made.signed.receipt.finished_at + 1))
    assert_fails(verify(market.ledger, turned, log=ForgedLog(market, [turned]).anchor().public()), "time", "in this order")


def test_a_sequence_given_twice_shows_to_who_holds_both(market: LogMarket) -> None:
    made = anchored(market)
    twin = market.resign(made[1], units_out=77)
    assert_fails(market.verify(made[1], others=[twin.signed]), "sequence", "given twice")


def test_a_gap_in_an_order_shows_to_its_buyer(market: LogMarket) -> None:
    made = anchored(market)
    other = market.resign(made[0], units_out=77)
    assert_fails(market.verify(made[1], others=[other.signed]), "sequence", "previous is")
    assert_fails(market.verify(other, others=[made[1].signed]), "sequence", "follows")
    headless = market.resign(made[1], previous=Bytes32("0x" + "00" * 32))
    assert_fails(market.verify(headless), "sequence", "only the first has none")


def test_another_digest_than_the_chain_s_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    lied = market.resign(made, model_digest=Bytes32("0x" + "ee" * 32))
    found = verify(market.ledger, lied, log=ForgedLog(market, [lied]).anchor().public())
    assert_fails(found, "model", "0x" + "d1" * 32)
    assert [check.name for check in found.failed] == ["model"]


def test_the_digest_that_counts_is_the_one_at_the_order_s_block(market: LogMarket) -> None:
    made = anchored(market)
    value = bytes.fromhex("ee" * 32)
    market.ledger.record_data(market.alice, "new model", market.nft, data_key(MODEL_LABEL), value)
    assert market.verify(made[0]).is_verified  # an edit after the sale changes nothing for this order
    lied = market.resign(made[0], model_digest=Bytes32("0x" + value.hex()))
    assert_fails(market.verify(lied), "model", "0x" + "d1" * 32)


def test_two_checkpoints_of_one_size_are_a_fork(market: LogMarket) -> None:
    made = anchored(market)
    twin = market.resign(made[2], units_out=5)
    forged = ForgedLog(market, [made[0], made[1], twin])
    found = verify(market.ledger, made[0], log=forged.public())
    assert_fails(found, "anchor", "fork")


def test_a_log_that_shrank_on_chain_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    value = anchor_value(1, market.log.root(1))
    market.ledger.record_data(market.operator, "smaller", market.log_nft, LOG_KEY, value)
    assert_fails(market.verify(made[0]), "anchor", "smaller")


def test_an_anchor_that_is_no_anchor_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    market.ledger.record_data(market.operator, "odd", market.log_nft, LOG_KEY, b"hello")
    assert_fails(market.verify(made[0]), "anchor", "holds no anchor")


def test_a_rewritten_past_before_an_honest_anchor_is_refused(market: LogMarket) -> None:
    """The operator anchors 3 leaves, rewrites one, and anchors 6: the later anchor does not continue the first."""
    made = anchored(market)
    more = market.issue(3)
    forged = ForgedLog(market, [made[0], market.resign(made[1], units_out=5), made[2], *more]).anchor()
    found = verify(market.ledger, more[0], log=forged.public())
    assert_fails(found, "anchor", "fork")


def test_a_receipt_signed_by_a_stranger_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    stranger = ReceiptSigner(b"\x11" * 32, market.signer.chain_id, market.log_nft)
    signed = stranger.sign(made.signed.receipt)
    forged = Issued(signed, made.salt, receipt_id(signed))
    found = verify(market.ledger, forged, log=ForgedLog(market, [forged]).anchor().public())
    assert_fails(found, "signature", f"signed by {stranger.address}")
    assert [check.name for check in found.failed] == ["signature"]


def test_an_envelope_with_a_foreign_id_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    assert_fails(verify(market.ledger, {**made[0].to_json(), "id": made[1].id}), "format", "this receipt's own")


def test_a_stranger_s_log_cannot_speak_for_an_asset(market: LogMarket) -> None:
    """Mallory makes a log of her own, with a real order and the real digest: the asset does not name her log."""
    other = market.ledger.create_log_nft(market.alice, "mallory's log", "log", "LOG").nft
    (made,) = market.issue(1)
    mallory = ReceiptSigner(b"\x11" * 32, market.signer.chain_id, other)
    signed = mallory.sign(made.signed.receipt)
    notes = NoteSigner(f"posthuman/{market.signer.chain_id}/{other}", Ed25519PrivateKey.from_private_bytes(b"\x12" * 32))
    value = bytes.fromhex(mallory.address[2:]) + notes.public_key
    market.ledger.record_data(market.alice, "mallory's keys", other, data_key(KEYS_LABEL), value)
    tree = Tree([leaf_hash(leaf_bytes(signed))])
    market.ledger.record_data(market.alice, "mallory's anchor", other, LOG_KEY, anchor_value(1, tree.root()))
    proof = Proof(0, (), notes.sign(Checkpoint(notes.name, 1, tree.root()).text()))
    found = verify(market.ledger, Issued(signed, made.salt, receipt_id(signed)), proof)
    assert_fails(found, "operator", f"not {other}")
    assert [check.name for check in found.failed] == ["operator"]


def test_the_high_s_twin_of_a_receipt_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    raw = made.signed.signature
    s = int.from_bytes(raw[32:64], "big")
    twin = replace(made.signed, signature=raw[:32] + (CURVE_ORDER - s).to_bytes(32, "big") + bytes([55 - raw[64]]))
    issued = Issued(twin, made.salt, receipt_id(twin))
    assert_fails(verify(market.ledger, issued, log=ForgedLog(market, [issued]).anchor().public()), "signature", "low s")


def test_a_key_that_was_replaced_speaks_only_for_what_was_anchored_in_its_time(market: LogMarket) -> None:
    old = anchored(market)
    stolen = market.signer
    market.record_keys(ReceiptSigner(b"\x21" * 32, stolen.chain_id, market.log_nft).address, market.notes.public_key)
    assert market.verify(old[0]).is_verified  # anchored before the change
    market.ledger.advance_blocks(2)
    between = market.issue(1)
    leaves = [*old, *between]
    ForgedLog(market, leaves).anchor()
    market.ledger.advance_blocks(2)
    (late,) = market.issue(1)
    found = verify(market.ledger, late, log=ForgedLog(market, [*leaves, late]).anchor().public())
    assert_fails(found, "signature", f"signed by {stolen.address}")


def test_an_operator_that_the_publisher_dropped_cannot_go_on(market: LogMarket) -> None:
    made = anchored(market)
    market.ledger.record_data(market.alice, "moved", market.nft, data_key(OPERATOR_LABEL), bytes(20))
    assert market.verify(made[0]).is_verified
    anchored(market, 1)
    (late,) = anchored(market, 1)
    assert_fails(market.verify(late), "operator", "named log 0x" + "00" * 20)


def test_a_log_rewritten_after_an_anchor_does_not_verify_by_its_newer_anchor_alone(market: LogMarket) -> None:
    """Without the public log nobody can see that two anchors contradict each other: only the first over the leaf may count."""
    made = anchored(market)
    edited = market.resign(made[1], units_out=7)
    rewritten = ForgedLog(market, [made[0], edited, made[2], market.issue()[0]]).anchor()
    found = verify(market.ledger, edited, rewritten.public().prove(bytes.fromhex(edited.id[2:])))
    assert not found.is_verified
    assert "anchor" in {check.name for check in found.missing}


def test_a_log_that_the_asset_named_later_cannot_speak_of_earlier_calls(market: LogMarket) -> None:
    """The publisher of today could otherwise make up calls of the time before, about orders that are real."""
    nft, datatoken, did = market.publish("second")
    market.ledger.record_data(market.alice, "second is nobody's", nft, data_key(OPERATOR_LABEL), bytes(20))
    order = market.buy("second order", datatoken)
    (honest,) = market.issue()
    market.ledger.advance_time(200 * 24 * 3600)
    named = bytes.fromhex(market.log_nft[2:])
    market.ledger.record_data(market.alice, "second is ours", nft, data_key(OPERATOR_LABEL), named)
    made_up = market.resign(honest, did=did, order=order)
    forged = ForgedLog(market, [made_up]).anchor()
    assert_fails(verify(market.ledger, made_up, log=forged.public()), "operator", "when the call ended")


def test_a_promise_without_an_end_is_none(market: LogMarket) -> None:
    (honest,) = market.issue()
    patient = market.resign(honest, merge_by=2**62)
    forged = ForgedLog(market, [patient]).anchor()
    assert_fails(verify(market.ledger, patient, log=forged.public()), "time", "promises nothing")


def test_a_key_that_the_log_named_later_cannot_sign_earlier_calls(market: LogMarket) -> None:
    keys = in_force_history(market, (0, 100, 200))
    assert [record.block for record in at_time(keys, 100_500, 1_000)] == [1, 2]
    assert [record.block for record in at_time(keys, 150_000, 1_000)] == [2]
    assert [record.block for record in at_time(keys, 250_000, 1_000)] == [3]
    assert at_time(keys[1:], 50_000, 1_000) == ()
    assert at_time((), 50_000, 1_000) == ()


def in_force_history(market: LogMarket, written_at: tuple[int, ...]) -> tuple[DataRecord, ...]:
    return tuple(
        DataRecord(market.log_nft, data_key(KEYS_LABEL), b"", block, market.order, UnixSeconds(at), 9)
        for block, at in enumerate(written_at, start=1)
    )
