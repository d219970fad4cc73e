"""Checks a receipt as a stranger would: with a node of one's own choice, the receipt and the public log, and nothing else.

In: a `LedgerReader`, an envelope, a proof or the public log. Out: a `Verification`, each check named. This module must never take
the operator's word for anything: signer, log, model and anchors are all read from the chain.

What it proves: what the operator claimed, when, and that the story never changed. It does not prove what the processor computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from control_plane.chain.histories import recorded
from control_plane.chain.ledger import KEYS_LABEL, MODEL_LABEL, OPERATOR_LABEL, DataRecord, LedgerReader, data_key
from control_plane.chain.published import Reuse
from control_plane.errors import BadInput, IntegrityBroken, NotFound
from control_plane.receipts.anchors import Anchor, read_anchors
from control_plane.receipts.checkpoint import Checkpoint, open_checkpoint, origin_of
from control_plane.receipts.checks import (
    Window,
    check_asset,
    check_bytes,
    check_chain,
    check_model,
    check_operator,
    check_order,
    check_sequence,
    check_signer,
    check_term,
    check_time,
    computing,
    moment,
    parse_keys,
)
from control_plane.receipts.merkle import extends, includes
from control_plane.receipts.proof import Proof
from control_plane.receipts.public_log import PublicLog
from control_plane.receipts.receipt import Issued, SignedReceipt
from control_plane.receipts.verification import Check, Verdict, Verification, failed, not_checked, ok

SKEW_S = 600
"""How far the operator's clock and the chain's block times may differ; also how long an anchor may wait to be mined."""


def verify(
    reader: LedgerReader,
    envelope: Mapping[str, Any] | Issued,
    proof: Proof | None = None,
    *,
    log: PublicLog | None = None,
    request: bytes | None = None,
    response: bytes | None = None,
    others: Sequence[SignedReceipt] = (),
    service_index: int = 0,
    skew_s: int = SKEW_S,
) -> Verification:
    """Every check that these inputs allow, in reading order.

    envelope: `{"signed", "salt", "id"}`, as the buyer got it. proof: a `tlog-proof@v1`; built from `log` when not given.
    log: needed when the proof's checkpoint is not itself anchored, and to compare neighbouring anchors.
    request, response: the exact HTTP body bytes. others: more receipts of the same order.

    Raises Unavailable when the node or the log does not answer; nothing is decided then.
    """
    try:
        issued = envelope if isinstance(envelope, Issued) else Issued.from_json(envelope)
    except BadInput as error:
        return Verification((failed("format", error.message),))
    signed, receipt, network = issued.signed, issued.signed.receipt, reader.network
    chain = check_chain(signed, network)
    if chain.verdict is not Verdict.OK:
        return Verification((ok("format", f"receipt {issued.id}"), chain))

    head = reader.head()
    keys = reader.data_history(signed.log, data_key(KEYS_LABEL))
    facts = reader.order_facts(receipt.order)
    digests: tuple[DataRecord, ...] = ()
    operators: tuple[DataRecord, ...] = ()
    if facts.nft is not None and facts.emitter is not None:
        digests = recorded(reader, facts.nft, facts.emitter, MODEL_LABEL)
        operators = recorded(reader, facts.nft, facts.emitter, OPERATOR_LABEL)
    reuses: tuple[Reuse, ...] = ()
    if facts.emitter is not None and receipt.sequence > 0 and computing(facts, service_index) is not None:
        reuses = reader.reuses(receipt.order, facts.emitter, facts.block)

    is_late = head.timestamp * 1000 > receipt.merge_by + skew_s * 1000
    proof, inclusion, note, checkpoint = _check_inclusion(issued, proof, log, keys, is_late)
    anchored, window = _check_anchor(reader, signed, proof, checkpoint, log, head.number, is_late)
    return Verification(
        (
            ok("format", f"receipt {issued.id}"),
            chain,
            check_signer(signed, keys, window, network, skew_s * 1000),
            *check_bytes(signed, issued.salt, request, response),
            check_order(receipt, facts, network, service_index, reuses),
            check_asset(receipt, facts, network),
            check_term(receipt, facts, service_index, skew_s * 1000),
            check_operator(signed, facts, operators, window, network, skew_s * 1000),
            check_model(receipt, facts, digests, network),
            check_sequence(signed, others),
            inclusion,
            note,
            anchored,
            check_time(receipt, window, skew_s * 1000),
        )
    )


def _check_inclusion(
    issued: Issued, proof: Proof | None, log: PublicLog | None, keys: Sequence[DataRecord], is_late: bool
) -> tuple[Proof | None, Check, Check, Checkpoint | None]:
    """The receipt is a leaf of a checkpoint that the log's own key signed."""
    signed, hashed = issued.signed, bytes.fromhex(issued.id[2:])
    unseen = not_checked("checkpoint", "there is no checkpoint to check")
    promised = f"promised before {moment(signed.receipt.merge_by)}"
    if proof is None and log is None:
        return None, not_checked("inclusion", "give a proof or the public log"), unseen, None
    try:
        proof = proof if proof is not None or log is None else log.prove(hashed)
        assert proof is not None  # noqa: S101  # one of the two was given
        claimed = proof.claims()
    except NotFound as error:
        return None, (failed if is_late else not_checked)("inclusion", f"{error.message}; {promised}"), unseen, None
    except BadInput as error:
        return None, failed("inclusion", error.message), unseen, None
    if not includes(hashed, proof.index, claimed.size, proof.path, claimed.root):
        evidence = f"the path from leaf {proof.index} does not lead to the root of {claimed.size} leaves"
        return proof, failed("inclusion", evidence), unseen, None
    inclusion = ok("inclusion", f"leaf {proof.index} of {claimed.size}, {len(proof.path)} hashes up to root {claimed.root.hex()}")
    origin = origin_of(signed.chain_id, signed.log)
    problem = f"log {signed.log} names no checkpoint key on chain"
    for key in dict.fromkeys(parse_keys(record)[1] for record in reversed(keys)):
        try:
            checkpoint = open_checkpoint(proof.checkpoint, origin, key)
        except BadInput as error:
            problem = error.message
        else:
            return proof, inclusion, ok("checkpoint", f"{origin}, signed by Ed25519 key {key.hex()} named on chain"), checkpoint
    return proof, inclusion, failed("checkpoint", problem), None


def _check_anchor(
    reader: LedgerReader,
    signed: SignedReceipt,
    proof: Proof | None,
    checkpoint: Checkpoint | None,
    log: PublicLog | None,
    head: int,
    is_late: bool,
) -> tuple[Check, Window]:
    """The checkpoint is on chain, or tied by consistency proofs to the anchors around the receipt."""
    nowhere = Window(None, None, head)
    try:
        anchors = read_anchors(reader, signed.log)
    except IntegrityBroken as error:
        return failed("anchor", error.message), nowhere
    if proof is None or checkpoint is None:
        return not_checked("anchor", "there is no checked checkpoint to look for"), nowhere
    for found in anchors:
        if found.size == checkpoint.size and found.root != checkpoint.root:
            evidence = (
                f"fork: {found.transaction} anchors {found.size} leaves with root {found.root.hex()}, the checkpoint says another"
            )
            return failed("anchor", evidence), nowhere
    deep = [found for found in anchors if found.confirmations >= reader.network.confirmations]
    before = next((found for found in reversed(deep) if found.size <= proof.index), None)
    covering = next((found for found in deep if found.size > proof.index), None)
    if covering is None:
        promised = f"leaf {proof.index} is in no anchor that is final enough; promised before {moment(signed.receipt.merge_by)}"
        return (failed if is_late else not_checked)("anchor", promised), Window(before, None, head)
    if log is None:
        # Only the first anchor over the leaf will do: a later one could be of a rewritten log that the first contradicts.
        if covering.size != checkpoint.size:
            return not_checked(
                "anchor", "the proof's checkpoint is not the anchor that first covers it: give the public log"
            ), nowhere
        return ok("anchor", _shown(covering, "is exactly this checkpoint")), Window(before, covering, head)
    window = Window(before, covering, head)
    around = dict.fromkeys(found for found in (before, covering, deep[-1]) if found is not None and found.size)
    if max(checkpoint.size, *(found.size for found in around)) > log.size:
        return not_checked(
            "anchor", f"the public log was read at {log.size} leaves, before this proof or anchor: read it again"
        ), window
    for found in around:
        problem = _contradiction(found, checkpoint, log)
        if problem is not None:
            return failed("anchor", problem), window
    return ok("anchor", _shown(covering, f"holds leaf {proof.index}, consistent with the checkpoint of {checkpoint.size}")), window


def _contradiction(anchor: Anchor, checkpoint: Checkpoint, log: PublicLog) -> str | None:
    """Why an anchor and the checkpoint cannot be two states of one log; None when the log's tiles show that they are."""
    old, new = sorted(((anchor.size, anchor.root), (checkpoint.size, checkpoint.root)))
    try:
        path = log.consistency(old[0], new[0])
    except (BadInput, NotFound, IndexError) as error:
        return f"the log cannot show that {anchor.transaction} ({anchor.size} leaves) and its checkpoint agree: {error}"
    if extends(old[0], new[0], old[1], new[1], path):
        return None
    return f"fork: {anchor.transaction} anchors {anchor.size} leaves that the checkpoint of {checkpoint.size} leaves contradicts"


def _shown(anchor: Anchor, what: str) -> str:
    return (
        f"{anchor.transaction} in block {anchor.block} of {moment(anchor.written_at * 1000)} "
        f"({anchor.size} leaves, root {anchor.root.hex()}) {what}"
    )
