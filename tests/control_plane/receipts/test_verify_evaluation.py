"""What a stranger finds of an evaluation: an honest one passes every check, and each dishonest one fails the check named for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, Terms, data_key
from control_plane.chain.lineage import Custody, Parent
from control_plane.did import Address, Bytes32, TokenWei, UnixMillis, did_of
from control_plane.receipts.evaluation import Evaluation, SignedEvaluation, texts_digest
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.verification import Verification
from control_plane.receipts.verify_evaluation import verify_evaluation
from tests.control_plane.receipts.verifying import assert_fails, verdicts
from tests.fixtures_log import DIGEST, ONE, LogMarket, market

__all__ = ["market"]

TEXTS = [b"The market stands by the harbour."]


def said(market: LogMarket, **changes: Any) -> Evaluation:
    market.ledger.advance_time(60)
    honest = Evaluation(
        did=market.did,
        nft=market.nft,
        evaluator=market.bob.address,
        model_digest=DIGEST,
        dataset_digest=texts_digest(TEXTS),
        is_sampled=True,
        sample_seed=0,
        samples=10,
        max_tokens=256,
        tokens=2000,
        loss_micronats=4_900_000,
        evaluated_at=UnixMillis(int(market.chain.now() * 1000)),
    )
    return replace(honest, **changes)


def checked(market: LogMarket, signed: SignedEvaluation, **more: Any) -> Verification:
    return verify_evaluation(market.ledger, signed.to_json(), **more)


def test_an_honest_statement_passes_every_check(market: LogMarket) -> None:
    found = checked(market, market.signer.sign_evaluation(said(market)), texts=TEXTS)
    assert found.is_verified
    assert verdicts(found) == dict.fromkeys(("format", "chain", "signature", "asset", "operator", "model", "dataset", "time"), "ok")
    assert f"4.900000 nats a token over 2000 tokens, asked for by {market.bob.address}" in found.checks[0].evidence


def test_an_asset_that_was_made_for_its_trainer_has_its_digest_and_log_in_one_record(market: LogMarket) -> None:
    terms = Terms(TokenWei(ONE), market.ledger.network.ocean, TokenWei(0), market.operator.address)
    kept = Custody(DIGEST, market.log_nft, Parent(market.nft, DIGEST, Bytes32("0x" + "ab" * 32)))
    wei, owner = TokenWei(200 * ONE), market.bob.address
    made = market.ledger.create_asset_for(market.operator, "derived", owner, "model", "MODEL", terms, wei, kept.value())
    did = did_of(made.nft, market.ledger.network.chain_id)
    assert checked(market, market.signer.sign_evaluation(said(market, did=did, nft=made.nft))).is_verified
    other = said(market, did=did, nft=made.nft, model_digest=Bytes32("0x" + "77" * 32))
    assert_fails(checked(market, market.signer.sign_evaluation(other)), "model", DIGEST)


def test_the_texts_may_be_left_out_and_others_are_found_out(market: LogMarket) -> None:
    signed = market.signer.sign_evaluation(said(market))
    without = checked(market, signed)
    assert without.is_verified and verdicts(without)["dataset"] == "not checked"
    assert_fails(checked(market, signed, texts=[b"others"]), "dataset", "these are")


def test_a_stranger_s_signature_is_refused(market: LogMarket) -> None:
    stranger = ReceiptSigner(b"\x05" * 32, market.signer.chain_id, market.signer.log)
    assert_fails(checked(market, stranger.sign_evaluation(said(market))), "signature", "signed by")


def test_a_changed_loss_has_no_known_signer(market: LogMarket) -> None:
    signed = market.signer.sign_evaluation(said(market))
    better = replace(signed, evaluation=replace(signed.evaluation, loss_micronats=1))
    assert_fails(checked(market, better), "signature", "signed by")


def test_a_receipts_signature_is_none_of_a_statement(market: LogMarket) -> None:
    (issued,) = market.issue()
    signed = replace(market.signer.sign_evaluation(said(market)), signature=issued.signed.signature)
    assert not checked(market, signed).is_verified


def test_another_asset_s_nft_is_refused(market: LogMarket) -> None:
    other, _, _ = market.publish("other")
    assert_fails(checked(market, market.signer.sign_evaluation(said(market, nft=other))), "asset", "the evaluation is of")


def test_another_digest_than_the_chain_s_is_refused(market: LogMarket) -> None:
    signed = market.signer.sign_evaluation(said(market, model_digest=Bytes32("0x" + "77" * 32)))
    assert_fails(checked(market, signed), "model", DIGEST)


def test_a_model_that_was_replaced_before_is_refused_and_one_replaced_after_is_not(market: LogMarket) -> None:
    before = market.signer.sign_evaluation(said(market))
    market.ledger.advance_time(5000)
    market.ledger.record_data(market.alice, "next model", market.nft, data_key(MODEL_LABEL), bytes.fromhex("22" * 32))
    market.ledger.advance_time(5000)
    assert checked(market, before).is_verified
    assert_fails(checked(market, market.signer.sign_evaluation(said(market))), "model", "22" * 32)


def test_a_log_that_the_asset_does_not_name_cannot_speak_for_it(market: LogMarket) -> None:
    market.ledger.advance_time(5000)
    market.ledger.record_data(market.alice, "other log", market.nft, data_key(OPERATOR_LABEL), bytes.fromhex("99" * 20))
    market.ledger.advance_time(5000)
    assert_fails(checked(market, market.signer.sign_evaluation(said(market))), "operator", "99" * 20)


def test_a_statement_from_the_future_is_refused(market: LogMarket) -> None:
    later = UnixMillis(int(market.chain.now() * 1000) + 10_000_000)
    assert_fails(checked(market, market.signer.sign_evaluation(said(market, evaluated_at=later))), "time", "has not come")


def test_a_statement_from_before_the_model_was_published_is_refused(market: LogMarket) -> None:
    assert_fails(checked(market, market.signer.sign_evaluation(said(market, evaluated_at=UnixMillis(1000)))), "model", "no digest")


def test_a_statement_of_another_chain_is_refused_before_anything_is_asked(market: LogMarket) -> None:
    elsewhere = ReceiptSigner(bytes([9]) * 32, 1, market.log_nft)
    found = checked(market, elsewhere.sign_evaluation(said(market)))
    assert_fails(found, "chain", "of chain 1")
    assert len(found.checks) == 2


@pytest.mark.parametrize("broken", [None, [], {}, {"version": 1}, "text"])
def test_what_is_no_statement_fails_its_form(market: LogMarket, broken: Any) -> None:
    assert_fails(verify_evaluation(market.ledger, broken), "format", "expected")


def test_an_nft_that_nobody_made_names_nothing(market: LogMarket) -> None:
    nowhere = Address("0x" + "12" * 20)
    found = checked(market, market.signer.sign_evaluation(said(market, nft=nowhere)))
    assert {check.name for check in found.failed} == {"asset", "operator", "model"}
