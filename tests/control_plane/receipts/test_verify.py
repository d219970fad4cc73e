"""What a stranger finds: an honest receipt passes every check, and each dishonest drill fails the check that is named for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.chain.ledger import Network
from control_plane.did import Address, Did, TransactionHash, UnixMillis
from control_plane.errors import Unavailable
from control_plane.receipts.checkpoint import Checkpoint, NoteSigner
from control_plane.receipts.proof import Proof
from control_plane.receipts.receipt import CallStatus
from control_plane.receipts.verification import Verification
from control_plane.receipts.verify import verify
from tests.control_plane.receipts.verifying import REQUIRED, ForgedLog, anchored, assert_fails, verdicts
from tests.fixtures_log import DIGEST, REQUEST, RESPONSE, LogMarket
from tests.simulators.ledger import SimulatedLedger
from tests.simulators.network import SIMULATED


def test_an_anchored_receipt_passes_every_check(market: LogMarket) -> None:
    made = anchored(market)
    for issued in made:
        others = [other.signed for other in made if other != issued]
        found = market.verify(issued, request=REQUEST, response=RESPONSE, others=others)
        assert found.is_verified and not found.failed and not found.missing
        assert set(verdicts(found).values()) == {"ok"}
        assert [check.name for check in found.checks if check.is_required and check.name != "format"] == REQUIRED
        assert all(check.evidence for check in found.checks)


def test_what_only_the_buyer_has_may_be_left_out(market: LogMarket) -> None:
    made = anchored(market)
    found = market.verify(made[1])
    assert found.is_verified
    assert [name for name, verdict in verdicts(found).items() if verdict == "not checked"] == ["request", "response", "sequence"]


def test_a_proof_file_alone_is_enough_when_its_checkpoint_is_anchored(market: LogMarket) -> None:
    made = anchored(market)
    proof = Proof.from_text(market.log.prove(made[0].id).to_text())
    assert verify(market.ledger, made[0].to_json(), proof).is_verified


def test_a_proof_file_of_a_later_checkpoint_needs_the_public_log(market: LogMarket) -> None:
    made = anchored(market)
    market.issue(4)
    market.log.integrate()
    proof = market.log.prove(made[0].id)
    alone = verify(market.ledger, made[0], proof)
    assert not alone.is_verified and not alone.failed
    assert "give the public log" in next(check.evidence for check in alone.missing if check.name == "anchor")
    assert verify(market.ledger, made[0], proof, log=market.public()).is_verified


def test_receipts_stay_verified_as_log_and_anchors_grow(market: LogMarket) -> None:
    made = anchored(market, 90)
    old_proof = market.log.prove(made[5].id)
    for _ in range(3):
        market.ledger.advance_time(700)
        made += anchored(market, 90)
    market.issue(5)
    market.log.integrate()
    for issued in made[::37]:
        assert market.verify(issued).is_verified
    assert verify(market.ledger, made[5], old_proof, log=market.public()).is_verified
    assert verify(market.ledger, made[5], old_proof).is_verified


def test_a_stream_that_was_cut_is_verified_like_any_other(market: LogMarket) -> None:
    market.reserve(is_streaming=True)
    market.store.reap(lambda _name: False)
    (cut,) = market.store.receipts_of(order=market.order)
    assert cut.signed.receipt.status is CallStatus.CUT
    market.log.integrate()
    market.anchor()
    assert market.verify(cut, request=REQUEST).is_verified


def test_a_receipt_that_waits_is_neither_verified_nor_failed(market: LogMarket) -> None:
    anchored(market)
    (late,) = market.issue(1)
    found = market.verify(late)
    assert not found.is_verified and not found.failed
    assert {check.name for check in found.missing} == {"inclusion", "checkpoint", "anchor", "time"}
    market.log.integrate()
    found = market.verify(late)
    assert not found.is_verified and not found.failed
    assert {check.name for check in found.missing} == {"anchor", "time"}
    market.anchor()
    assert market.verify(late).is_verified


def test_an_order_and_an_anchor_that_are_too_young_wait(tmp_path: Path) -> None:
    market = LogMarket(tmp_path)
    made = anchored(market)
    slow: Network = replace(SIMULATED, confirmations=50)
    market.ledger._network = slow
    found = market.verify(made[0])
    assert verdicts(found)["order"] == verdicts(found)["anchor"] == "not checked"
    market.ledger.advance_blocks(60)
    assert market.verify(made[0]).is_verified


def test_without_proof_and_log_nothing_is_claimed(market: LogMarket) -> None:
    made = anchored(market)
    found = verify(market.ledger, made[0])
    assert not found.is_verified and not found.failed
    assert "give a proof" in next(check.evidence for check in found.missing if check.name == "inclusion")


def test_a_node_that_is_down_decides_nothing(market: LogMarket) -> None:
    made = anchored(market)
    market.ledger.is_down = True
    with pytest.raises(Unavailable):
        market.verify(made[0])


def changed_order(market: LogMarket, **changes: object) -> Verification:
    made = anchored(market)
    facts = market.ledger.order_facts(market.order)
    market.ledger.add_order(replace(facts, **changes))  # type: ignore[arg-type]  # names of fields
    return market.verify(made[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": 0}, "reverted"),
        ({"is_from_factory": False}, "no OrderStarted event"),
        ({"consumer": Address("0x" + "00" * 20)}, "consumer"),
        ({"service_index": 1}, "service index"),
        ({"amount": 10**18 - 1}, "paid"),
    ],
    ids=["reverted", "foreign contract", "another consumer", "another service", "too little"],
)
def test_an_order_that_does_not_count_is_refused(market: LogMarket, changes: dict[str, object], words: str) -> None:
    assert_fails(changed_order(market, **changes), "order", words)


def test_an_order_that_does_not_exist_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    market.ledger.forget(market.order)
    assert_fails(market.verify(made[0]), "order", "no transaction")


def test_an_order_of_another_asset_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    _nft, datatoken, _did = market.publish("second")
    other = market.buy("other", datatoken)
    moved = market.resign(made, order=other)
    assert_fails(
        verify(market.ledger, moved, log=ForgedLog(market, [moved]).anchor().public()), "asset", "the order is for did:op:"
    )
    renamed = market.resign(made, did=Did("did:op:" + "12" * 32))
    assert_fails(verify(market.ledger, renamed, log=ForgedLog(market, [renamed]).public()), "asset", "did:op:" + "12" * 32)


def test_a_call_after_the_order_s_end_or_before_its_beginning_is_refused(market: LogMarket) -> None:
    market.order = market.buy("short", valid_for_s=30)
    (made,) = market.issue(1)
    market.ledger.advance_time(60)
    (late,) = market.issue(1)
    market.log.integrate()
    market.anchor()
    assert market.verify(made).is_verified
    assert_fails(market.verify(late), "term", "after the order's end")
    early = UnixMillis(made.signed.receipt.started_at - 3_600_000)
    before = market.resign(made, started_at=early)
    assert_fails(market.verify(before), "term", "before the order")


def test_other_bytes_than_the_buyer_s_are_refused(market: LogMarket) -> None:
    made = anchored(market)
    assert_fails(market.verify(made[0], request=REQUEST + b" "), "request", "do not hash")
    assert_fails(market.verify(made[0], response=b""), "response", "do not hash")
    found = verify(market.ledger, replace(made[0], salt=bytes(32)), log=market.public(), request=REQUEST)
    assert_fails(found, "request", "do not hash")


def test_a_receipt_of_another_chain_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    elsewhere = SimulatedLedger(replace(SIMULATED, chain_id=137))
    assert_fails(verify(elsewhere, made[0], log=market.public()), "chain", "chain 8996")


def test_a_checkpoint_by_an_unknown_key_or_of_another_log_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    proof = market.log.prove(made[0].id)
    text = Checkpoint(market.notes.name, 3, market.log.root(3)).text()
    stranger = NoteSigner(market.notes.name, Ed25519PrivateKey.from_private_bytes(b"\x13" * 32))
    assert_fails(verify(market.ledger, made[0], replace(proof, checkpoint=stranger.sign(text))), "checkpoint", "0 of them")
    elsewhere = Checkpoint("posthuman/1/elsewhere", 3, market.log.root(3)).text()
    assert_fails(verify(market.ledger, made[0], replace(proof, checkpoint=market.notes.sign(elsewhere))), "checkpoint", "origin")


def test_a_proof_of_another_receipt_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    assert_fails(verify(market.ledger, made[0], market.log.prove(made[1].id)), "inclusion", "does not lead")
    proof = market.log.prove(made[0].id)
    for broken in (replace(proof, index=1), replace(proof, path=proof.path[:-1]), replace(proof, checkpoint="nonsense")):
        assert any(check.name == "inclusion" for check in verify(market.ledger, made[0], broken).failed)


@pytest.mark.parametrize("record", [{}, [], None, "x", {"signed": {}, "salt": "0x", "id": "0x"}], ids=str)
def test_what_is_no_receipt_fails_as_such(market: LogMarket, record: object) -> None:
    found = verify(market.ledger, record)  # type: ignore[arg-type]  # what a stranger may hand in
    assert [check.name for check in found.failed] == ["format"]


def test_an_unknown_version_is_refused(market: LogMarket) -> None:
    made = anchored(market)
    record = made[0].to_json()
    assert_fails(verify(market.ledger, {**record, "signed": {**record["signed"], "version": 2}}), "format", "version")


def test_a_transaction_that_is_no_order_is_refused(market: LogMarket) -> None:
    (made,) = market.issue(1)
    lied = market.resign(made, order=TransactionHash("0x" + "77" * 32), model_digest=DIGEST)
    found = verify(market.ledger, lied, log=ForgedLog(market, [lied]).anchor().public())
    assert {"order", "asset", "operator", "model"} <= {check.name for check in found.failed}
