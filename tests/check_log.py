"""What must hold of a public log, read from its files and from the chain: for the outside checker.

In: a ledger reader, the address of a log's NFT, the log's files. Out: every invariant that is broken, in words. This module must
never read the database, the guard or a key of the market.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence

from control_plane.chain.fees import compute_time, names
from control_plane.chain.histories import recorded
from control_plane.chain.ledger import KEYS_LABEL, LOG_LABEL, MODEL_LABEL, OPERATOR_LABEL, DataRecord, LedgerReader, data_key
from control_plane.did import Address, Bytes32, did_of
from control_plane.errors import BadInput, IntegrityBroken, NotFound
from control_plane.receipts.anchors import read_anchors
from control_plane.receipts.checkpoint import open_checkpoint, origin_of
from control_plane.receipts.fsck import fsck
from control_plane.receipts.keys import KEYS_VALUE_BYTES, parse_keys_value
from control_plane.receipts.public_log import LogFiles, PublicLog
from control_plane.receipts.receipt import FIRST_PREVIOUS, Issued, Receipt, SignedReceipt, leaf_bytes, leaf_id, receipt_id
from control_plane.receipts.signing import recover_signer
from control_plane.receipts.tiles import TILE_WIDTH

SKEW_MS = 600_000
"""How far the clocks of callers, operator and blocks may differ."""


def anchor_invariants(ledger: LedgerReader, log_nft: Address) -> Iterator[str]:
    """What the chain alone says of a log: whose keys it has, and that its anchors grow."""
    keys = ledger.data_history(log_nft, data_key(KEYS_LABEL))
    if not keys:
        yield f"log {log_nft}: no keys on chain"
    if any(len(record.value) != KEYS_VALUE_BYTES for record in keys):
        yield f"log {log_nft}: keys of other lengths than 20 + 32 bytes"
    sizes = []
    for record in ledger.data_history(log_nft, data_key(LOG_LABEL)):
        if len(record.value) != 40:
            yield f"log {log_nft}: an anchor of {len(record.value)} bytes in block {record.block}"
        sizes.append(int.from_bytes(record.value[:8], "big"))
    if sizes != sorted(set(sizes)):
        yield f"log {log_nft}: anchored sizes do not grow: {sizes}"


def log_invariants(ledger: LedgerReader, log_nft: Address, files: LogFiles, given: Sequence[Issued]) -> Iterator[str]:
    """The log's own files against the chain. given: receipts that came with answers."""
    try:
        anchors = read_anchors(ledger, log_nft)  # before the checkpoint: what is anchored was public first
    except IntegrityBroken as error:
        yield error.message
        return
    signers, checkpoint_keys = _keys(ledger, log_nft)
    origin = origin_of(ledger.network.chain_id, log_nft)
    try:
        public = PublicLog(files)
    except NotFound:
        if anchors:
            yield f"log {log_nft}: {len(anchors)} anchors on chain, and no checkpoint to be read"
        yield from _given_invariants(ledger, given, [])
        return
    except BadInput as error:
        yield f"log {log_nft}: {error.message}"
        return
    signing = [key for key in checkpoint_keys if _is_signed(public.note, origin, key)]
    if not signing:
        yield f"log {log_nft}: its checkpoint is not signed by a key that the chain names"
        return
    yield from (f"log {log_nft}: {problem}" for problem in fsck(files, origin, signing[0], anchors=anchors).problems)
    try:
        leaves = [leaf for number in range(-(-public.size // TILE_WIDTH)) for leaf in public.entries(number)]
    except (BadInput, NotFound) as error:
        yield f"log {log_nft}: {error.message}"
        return
    yield from _leaf_invariants(ledger, log_nft, signers, leaves)
    yield from _given_invariants(ledger, given, leaves)


def _keys(ledger: LedgerReader, log_nft: Address) -> tuple[set[Address], list[bytes]]:
    """Receipt signers and checkpoint keys that the log's NFT ever named, the newest checkpoint key first."""
    history = reversed(ledger.data_history(log_nft, data_key(KEYS_LABEL)))
    found = [parse_keys_value(record.value) for record in history if len(record.value) == KEYS_VALUE_BYTES]
    return {signer for signer, _ in found}, list(dict.fromkeys(key for _, key in found))


def _is_signed(note: str, origin: str, key: bytes) -> bool:
    try:
        open_checkpoint(note, origin, key)
    except BadInput:
        return False
    return True


def _leaf_invariants(ledger: LedgerReader, log_nft: Address, signers: set[Address], leaves: Sequence[bytes]) -> Iterator[str]:
    orders: dict[str, list[SignedReceipt]] = defaultdict(list)
    for index, leaf in enumerate(leaves):
        try:
            signed = SignedReceipt.from_json(json.loads(leaf))
            signer = recover_signer(signed)
        except (BadInput, ValueError) as error:
            yield f"leaf {index}: no signed receipt: {error}"
            continue
        if leaf_bytes(signed) != leaf:
            yield f"leaf {index}: not in the one canonical form"
        if (signed.chain_id, signed.log) != (ledger.network.chain_id, log_nft):
            yield f"leaf {index}: of log {signed.log} on chain {signed.chain_id}"
        if signer not in signers:
            yield f"leaf {index}: signed by {signer}, the chain names {', '.join(sorted(signers))}"
        orders[signed.receipt.order].append(signed)
    assets = _Assets(ledger, log_nft)
    for order, receipts in orders.items():
        yield from _chain_of(order, receipts)
        yield from _paid(ledger, assets, [signed.receipt for signed in receipts])


def _chain_of(order: str, receipts: Sequence[SignedReceipt]) -> Iterator[str]:
    """Numbered from 0 without a gap, each with the name of the one before."""
    previous = FIRST_PREVIOUS
    for number, signed in enumerate(sorted(receipts, key=lambda each: each.receipt.sequence)):
        if signed.receipt.sequence != number:
            yield f"order {order}: receipt {signed.receipt.sequence} stands where number {number} should"
            return
        if signed.receipt.previous != previous:
            yield f"order {order}: receipt {number} follows {signed.receipt.previous}, not {previous}"
        previous = receipt_id(signed)


class _Assets:
    """The histories of assets, each read once."""

    def __init__(self, ledger: LedgerReader, log_nft: Address) -> None:
        self._ledger, self._log_nft = ledger, log_nft
        self._histories: dict[tuple[Address, str], tuple[DataRecord, ...]] = {}

    def history(self, nft: Address, datatoken: Address, label: str) -> tuple[DataRecord, ...]:
        if (nft, label) not in self._histories:
            self._histories[nft, label] = recorded(self._ledger, nft, datatoken, label)
        return self._histories[nft, label]

    def digest_in(self, nft: Address, datatoken: Address, block: int) -> str | None:
        """The model digest that held in a block."""
        written = [record for record in self.history(nft, datatoken, MODEL_LABEL) if record.block <= block]
        return "0x" + written[-1].value.hex() if written else None

    def names_log(self, nft: Address, datatoken: Address) -> bool:
        return bytes.fromhex(self._log_nft[2:]) in [record.value for record in self.history(nft, datatoken, OPERATOR_LABEL)]


def _paid(ledger: LedgerReader, assets: _Assets, receipts: Sequence[Receipt]) -> Iterator[str]:
    """The order behind these receipts is real, and each receipt says what it was for."""
    order = receipts[0].order
    facts = ledger.order_facts(order)
    if facts.status != 1 or facts.nft is None or facts.emitter is None or not facts.is_from_factory or facts.amount < 10**18:
        yield f"order {order}: in the log with {len(receipts)} receipts, the chain says {facts}"
        return
    did, digest = did_of(facts.nft, ledger.network.chain_id), assets.digest_in(facts.nft, facts.emitter, facts.block)
    if not assets.names_log(facts.nft, facts.emitter):
        yield f"order {order}: {did} never named this log"
    fee = facts.provider_fee
    is_job = facts.service_index != 0 and fee is not None and compute_time(fee) is not None
    if is_job:
        token, service = facts.emitter, facts.service_index
        again = [each.signed_fees for each in ledger.reuses(order, token, facts.block)]
        paid = 1 + sum(any(names(each, token, service) and compute_time(each) for each in fees) for fees in again)
        if len(receipts) > paid:
            yield f"order {order}: of {paid} jobs paid for there are {len(receipts)} receipts"
    is_environments = is_job and fee is not None and facts.consumer == fee.provider
    for receipt in receipts:
        what = f"order {order}, receipt {receipt.sequence}"
        if receipt.did != did:
            yield f"{what}: of {receipt.did}, the order is for {did}"
        if receipt.consumer not in (facts.consumer, facts.payer if is_environments else facts.consumer):
            yield f"{what}: by {receipt.consumer}, the order is by {facts.consumer}"
        if receipt.model_digest != digest:
            yield f"{what}: model {receipt.model_digest}, the chain says {digest}"
        if not receipt.started_at <= receipt.finished_at <= receipt.merge_by:
            yield f"{what}: its times are not in order"
        if receipt.started_at < facts.ordered_at * 1000 - SKEW_MS:
            yield f"{what}: began before the order"
        if fee is not None and not is_job and receipt.started_at > fee.valid_until * 1000 + SKEW_MS:
            yield f"{what}: began after the order's end"


def _given_invariants(ledger: LedgerReader, given: Sequence[Issued], leaves: Sequence[bytes]) -> Iterator[str]:
    """What callers hold is in the log, or its promise has not run out; and the log tells no other story."""
    logged: dict[tuple[str, int], Bytes32] = {}
    for leaf in leaves:
        try:
            receipt = SignedReceipt.from_json(json.loads(leaf)).receipt
        except (BadInput, ValueError):
            continue  # told above
        logged[receipt.order, receipt.sequence] = leaf_id(leaf)
    now_ms = ledger.head().timestamp * 1000
    for issued in given:
        receipt = issued.signed.receipt
        found = logged.get((receipt.order, receipt.sequence))
        if found is None and now_ms > receipt.merge_by + SKEW_MS:
            yield f"receipt {issued.id}: not in the log, though promised before {receipt.merge_by} ms"
        if found is not None and found != issued.id:
            yield f"receipt {issued.id}: the log holds {found} under number {receipt.sequence} of its order"
