"""Checks an evaluation as a stranger would: with a node of one's own choice and the statement, and nothing else.

In: a `LedgerReader`, a statement, its texts where one has them. Out: a `Verification`, each check named. This module must never
take the operator's word for anything but the loss itself.

What it proves: the operator said so of this model. It does not prove that the loss is true, who asked for it, or when it was
measured: a statement is in no log, and whoever has the receipt key while it is named on chain can date one back to any time since.
"""

from __future__ import annotations

from collections.abc import Sequence

from control_plane.chain.histories import recorded
from control_plane.chain.ledger import KEYS_LABEL, MODEL_LABEL, OPERATOR_LABEL, AssetFacts, DataRecord, LedgerReader, data_key
from control_plane.did import did_of
from control_plane.errors import BadInput, NotFound
from control_plane.receipts.checks import at_time, in_force, moment, parse_keys
from control_plane.receipts.evaluation import SignedEvaluation, statement_hash, texts_digest
from control_plane.receipts.signing import recover_evaluator
from control_plane.receipts.verification import Check, Verification, failed, not_checked, ok
from control_plane.receipts.verify import SKEW_S


def verify_evaluation(
    reader: LedgerReader, statement: object, *, texts: Sequence[bytes] | None = None, skew_s: int = SKEW_S
) -> Verification:
    """Every check that these inputs allow, in reading order.

    statement: as `SignedEvaluation.to_json` writes it. texts: the exact bytes of what was evaluated, in order.
    Raises Unavailable when the node does not answer; nothing is decided then.
    """
    try:
        signed = SignedEvaluation.from_json(statement)
    except BadInput as error:
        return Verification((failed("format", error.message),))
    said, network = signed.evaluation, reader.network
    told = f"{said.loss:.6f} nats a token over {said.tokens} tokens, asked for by {said.evaluator}"
    form = ok("format", f"evaluation {statement_hash(signed)}: {told}")
    if signed.chain_id != network.chain_id:
        wrong = failed("chain", f"the evaluation is of chain {signed.chain_id}, the node of chain {network.chain_id}")
        return Verification((form, wrong))
    head = reader.head()

    try:
        facts: AssetFacts | None = reader.asset(said.nft)
    except NotFound:
        facts = None

    def then(history: tuple[DataRecord, ...]) -> tuple[DataRecord, ...]:
        """What stood there when the model was evaluated."""
        return at_time(in_force(history, 0, head.number, network.confirmations), said.evaluated_at, skew_s * 1000)

    def of_asset(label: str) -> tuple[DataRecord, ...]:
        return () if facts is None else recorded(reader, said.nft, facts.datatoken, label)

    return Verification(
        (
            form,
            ok("chain", f"chain {network.chain_id} ({network.name}), log {signed.log}"),
            _check_signer(signed, then(reader.data_history(signed.log, data_key(KEYS_LABEL)))),
            _check_asset(signed, facts),
            _check_operator(signed, then(of_asset(OPERATOR_LABEL))),
            _check_model(signed, then(of_asset(MODEL_LABEL))),
            _check_dataset(signed, texts),
            _check_time(signed, head.timestamp * 1000 + skew_s * 1000),
        )
    )


def _check_signer(signed: SignedEvaluation, keys: Sequence[DataRecord]) -> Check:
    try:
        signer = recover_evaluator(signed)
    except BadInput as error:
        return failed("signature", error.message)
    named = [parse_keys(record)[0] for record in keys]
    if signer not in named:
        known = ", ".join(str(address) for address in named) or "no key at all"
        return failed("signature", f"signed by {signer}; the log {signed.log} named {known} at that time")
    return ok("signature", f"signed by {signer}, the receipt key that log {signed.log} names on chain")


def _check_asset(signed: SignedEvaluation, facts: AssetFacts | None) -> Check:
    said = signed.evaluation
    found = did_of(said.nft, signed.chain_id)
    if found != said.did:
        return failed("asset", f"NFT {said.nft} is {found}, the evaluation is of {said.did}")
    if facts is None or not facts.is_from_factory:
        return failed("asset", f"NFT {said.nft} is not one of Ocean's factory")
    return ok("asset", f"{said.did} is NFT {said.nft}, of Ocean's factory")


def _check_operator(signed: SignedEvaluation, operators: Sequence[DataRecord]) -> Check:
    named = [record.value.hex() for record in operators]
    nft = signed.evaluation.nft
    if signed.log[2:].lower() not in named:
        logs = ", ".join("log 0x" + value for value in named) or "no log"
        return failed("operator", f"NFT {nft} named {logs}, not {signed.log}, when the model was evaluated")
    return ok("operator", f"NFT {nft} names log {signed.log} as the one its calls are recorded in")


def _check_model(signed: SignedEvaluation, digests: Sequence[DataRecord]) -> Check:
    named = ["0x" + record.value.hex() for record in digests]
    said = signed.evaluation
    if said.model_digest not in named:
        held = ", ".join(named) or "no digest"
        return failed("model", f"the evaluation is of {said.model_digest}; NFT {said.nft} held {held} at that time")
    return ok("model", f"{said.model_digest} stood on NFT {said.nft} when it was evaluated")


def _check_dataset(signed: SignedEvaluation, texts: Sequence[bytes] | None) -> Check:
    said = signed.evaluation
    if texts is None:
        return not_checked("dataset", "give the texts to check that they are the ones that were evaluated", is_required=False)
    found = texts_digest(texts)
    if found != said.dataset_digest:
        return failed("dataset", f"the evaluation is of texts {said.dataset_digest}, these are {found}", is_required=False)
    return ok("dataset", f"{len(texts)} texts, {found}", is_required=False)


def _check_time(signed: SignedEvaluation, latest_ms: int) -> Check:
    at = signed.evaluation.evaluated_at
    if at > latest_ms:
        return failed("time", f"evaluated {moment(at)}, which has not come yet")
    return ok("time", f"evaluated {moment(at)}, by the operator's word")
