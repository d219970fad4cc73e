"""Evaluations: one canonical form for ever, signed in a domain of their own, and what no statement may look like."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account.messages import encode_typed_data
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.curve import CURVE_ORDER
from control_plane.did import Address, Bytes32, Did, UnixMillis
from control_plane.errors import BadInput
from control_plane.receipts.evaluation import (
    Evaluation,
    SignedEvaluation,
    micronats,
    statement_bytes,
    statement_hash,
    texts_digest,
)
from control_plane.receipts.signing import ReceiptSigner, address_of, evaluation_digest, recover_evaluator

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "evaluation.json").read_text(encoding="utf-8"))
LOG = Address("0xCcCCccccCCCCcCCCCCCcCcCccCcCCCcCcccccccC")
SIGNER = ReceiptSigner(b"\x07" * 32, 8996, LOG)
STATEMENT: dict[str, Any] = VECTORS["cases"][0]["statement"]

bytes32 = st.binary(min_size=32, max_size=32).map(lambda raw: Bytes32("0x" + raw.hex()))
addresses = st.integers(1, CURVE_ORDER - 1).map(
    lambda number: address_of(PrivateKey(number.to_bytes(32, "big")).public_key.format(compressed=False))
)
uint64, counts = st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1)
evaluations = st.builds(
    Evaluation,
    did=bytes32.map(lambda value: Did("did:op:" + value[2:])),
    nft=addresses,
    evaluator=addresses,
    model_digest=bytes32,
    dataset_digest=bytes32,
    is_sampled=st.just(True),
    sample_seed=uint64,
    samples=counts,
    max_tokens=uint64,
    tokens=counts,
    loss_micronats=uint64,
    evaluated_at=uint64.map(UnixMillis),
)


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_released_form_never_changes(case: dict[str, Any]) -> None:
    signed = SignedEvaluation.from_json(case["statement"])
    assert statement_bytes(signed).decode() == case["bytes"]
    assert statement_hash(signed) == case["hash"]
    assert evaluation_digest(signed.evaluation, signed.chain_id, signed.log).hex() == case["digest"]
    assert recover_evaluator(signed) == case["signer"] == SIGNER.address
    assert SIGNER.sign_evaluation(signed.evaluation) == signed


def test_the_digest_of_texts_never_changes() -> None:
    texts = [text.encode() for text in VECTORS["texts"]]
    assert texts_digest(texts) == VECTORS["texts_digest"]
    assert len({texts_digest(each) for each in (texts, texts[::-1], [b"".join(texts)], [*texts, b""], [])}) == 5


@settings(max_examples=40)
@given(said=evaluations, chain_id=st.integers(1, 2**40), log=addresses)
def test_the_digest_is_the_one_eth_account_computes(said: Evaluation, chain_id: int, log: Address) -> None:
    def fields(*pairs: str) -> list[dict[str, str]]:
        return [dict(zip(("type", "name"), pair.split(), strict=True)) for pair in pairs]

    theirs = encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": fields("string name", "string version", "uint256 chainId", "address verifyingContract"),
                "Evaluation": fields(
                    *(
                        "string did",
                        "address nft",
                        "address evaluator",
                        "bytes32 modelDigest",
                        "bytes32 datasetDigest",
                        "bool isSampled",
                    ),
                    *("uint64 sampleSeed", "uint64 samples", "uint64 maxTokens", "uint64 tokens", "uint64 lossMicronats"),
                    "uint64 evaluatedAt",
                ),
            },
            "primaryType": "Evaluation",
            "domain": {"name": "Posthuman evaluation", "version": "1", "chainId": chain_id, "verifyingContract": log},
            "message": {
                "did": said.did,
                "nft": said.nft,
                "evaluator": said.evaluator,
                "modelDigest": bytes.fromhex(said.model_digest[2:]),
                "datasetDigest": bytes.fromhex(said.dataset_digest[2:]),
                "isSampled": said.is_sampled,
                "sampleSeed": said.sample_seed,
                "samples": said.samples,
                "maxTokens": said.max_tokens,
                "tokens": said.tokens,
                "lossMicronats": said.loss_micronats,
                "evaluatedAt": said.evaluated_at,
            },
        }
    )
    assert evaluation_digest(said, chain_id, log) == keccak(b"\x19" + theirs.version + theirs.header + theirs.body)


@settings(max_examples=30)
@given(said=evaluations)
def test_what_is_signed_comes_back_from_its_text(said: Evaluation) -> None:
    signed = SIGNER.sign_evaluation(said)
    assert SignedEvaluation.from_json(json.loads(statement_bytes(signed))) == signed
    assert recover_evaluator(signed) == SIGNER.address


@pytest.mark.parametrize("field", list(STATEMENT["evaluation"]))
def test_a_changed_statement_has_another_signer(field: str) -> None:
    signed = SignedEvaluation.from_json(STATEMENT)
    value = getattr(signed.evaluation, field)
    changed: Any = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value[:-1] + "9"
    forged = replace(signed, evaluation=replace(signed.evaluation, **{field: changed}))
    assert recover_evaluator(forged) != SIGNER.address


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2}, "version"),
        ({"version": True}, "version"),
        ({"chain_id": 0}, "chain_id"),
        ({"signature": "0x00"}, "signature"),
        ({"signature": "0x" + "zz" * 65}, "signature"),
        ({"signature": 5}, "signature"),
        ({"log": "0x12"}, "log"),
        ({"more": 1}, "signed evaluation"),
        ({"evaluation": None}, "evaluation"),
        ({"evaluation": {}}, "evaluation"),
        *(
            ({"evaluation": {**STATEMENT["evaluation"], **change}}, field)
            for change, field in (
                ({"loss_micronats": 4.5}, "evaluation.loss_micronats"),
                ({"loss_micronats": -1}, "evaluation.loss_micronats"),
                ({"tokens": 2**64}, "evaluation.tokens"),
                ({"tokens": True}, "evaluation.tokens"),
                ({"tokens": 0}, "evaluation"),
                ({"samples": 0}, "evaluation"),
                ({"is_sampled": 1}, "evaluation.is_sampled"),
                ({"is_sampled": False}, "evaluation.sample_seed"),
                ({"did": "did:op:x"}, "evaluation.did"),
                ({"nft": None}, "evaluation.nft"),
                ({"model_digest": "0x1"}, "evaluation.model_digest"),
                ({"a strange one": 1}, "evaluation"),
            )
        ),
    ],
)
def test_what_is_no_statement_is_refused_by_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        SignedEvaluation.from_json({**STATEMENT, **change})
    assert refused.value.field == field


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -0.1, 1e300])
def test_a_loss_that_is_none_is_not_stated(loss: float) -> None:
    with pytest.raises(BadInput, match="loss"):
        micronats(loss)


def test_a_loss_is_stated_to_a_millionth() -> None:
    assert (micronats(4.8951234), micronats(0.0)) == (4895123, 0)
