"""The checks on a receipt that are decided from facts alone, without the log: signature, bytes, order, asset, model, neighbours.

In: a receipt and what the chain says. Out: one `Check` each. This module must never do I/O: `verify` fetches, this decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from control_plane.chain.fees import ComputeTime, compute_time, names
from control_plane.chain.ledger import DataRecord, Network, OrderFacts, ProviderFee
from control_plane.chain.published import Reuse
from control_plane.did import Address, did_of
from control_plane.errors import BadInput
from control_plane.receipts.anchors import Anchor
from control_plane.receipts.keys import parse_keys_value
from control_plane.receipts.receipt import FIRST_PREVIOUS, Receipt, SignedReceipt, receipt_id, request_hash, response_hash
from control_plane.receipts.signing import recover_signer
from control_plane.receipts.verification import Check, failed, not_checked, ok

ONE_DATATOKEN = 10**18


LONGEST_PROMISE_MS = 7 * 24 * 3600 * 1000
"""A receipt that may be logged at any time could be made up at any time."""


@dataclass(frozen=True)
class Window:
    """The part of the chain's history in which the receipt entered the log.

    before: the last anchor without it. covering: the first anchor with it. head: the newest block number.
    """

    before: Anchor | None
    covering: Anchor | None
    head: int

    @property
    def first_block(self) -> int:
        return self.before.block if self.before else 0

    @property
    def last_block(self) -> int:
        return self.covering.block if self.covering else self.head


def moment(milliseconds: int) -> str:
    """A time as people read it; far-away nonsense stays a number."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{milliseconds} ms"


def in_force(history: Sequence[DataRecord], first_block: int, last_block: int, confirmations: int) -> tuple[DataRecord, ...]:
    """The values that were in force at some time from `first_block` to `last_block`, oldest first; too young ones do not count."""
    counted = [record for record in history if record.confirmations >= confirmations and record.block <= last_block]
    earlier = [record for record in counted if record.block <= first_block]
    return (*earlier[-1:], *(record for record in counted if record.block > first_block))


def at_time(records: Sequence[DataRecord], moment_ms: int, skew_ms: int) -> tuple[DataRecord, ...]:
    """Those of `records` (oldest first) that were in force at a moment, give or take the skew: written before, not yet replaced."""
    ends = (*(record.written_at * 1000 for record in records[1:]), None)
    return tuple(
        record
        for record, end in zip(records, ends, strict=False)  # without records there is one end too many
        if record.written_at * 1000 <= moment_ms + skew_ms and (end is None or end >= moment_ms - skew_ms)
    )


def check_chain(signed: SignedReceipt, network: Network) -> Check:
    if signed.chain_id != network.chain_id:
        return failed("chain", f"the receipt is of chain {signed.chain_id}, the node of chain {network.chain_id}")
    return ok("chain", f"chain {network.chain_id} ({network.name}), log {signed.log}")


def check_signer(signed: SignedReceipt, keys: Sequence[DataRecord], window: Window, network: Network, skew_ms: int) -> Check:
    """EIP-712 signature, low s, by a receipt key that the log's NFT named when the call ended and the receipt entered the log."""
    try:
        signer = recover_signer(signed)
    except BadInput as error:
        return failed("signature", error.message)
    known_keys = in_force(keys, window.first_block, window.last_block, network.confirmations)
    named = [parse_keys(record)[0] for record in at_time(known_keys, signed.receipt.finished_at, skew_ms)]
    if signer not in named:
        known = ", ".join(str(address) for address in named) or "no key at all"
        return failed("signature", f"signed by {signer}; the log {signed.log} named {known} at that time")
    return ok("signature", f"signed by {signer}, the receipt key that log {signed.log} names on chain")


def parse_keys(record: DataRecord) -> tuple[Address | None, bytes]:
    """Receipt signer and checkpoint key of a record; a value of another form names nobody."""
    try:
        return parse_keys_value(record.value)
    except BadInput:
        return None, b""


def check_bytes(signed: SignedReceipt, salt: bytes, request: bytes | None, response: bytes | None) -> tuple[Check, Check]:
    """The buyer's own bytes against the salted hashes."""
    receipt = signed.receipt
    asked = not_checked("request", "give the request's bytes to check them", is_required=False)
    if request is not None:
        is_same = request_hash(salt, request) == receipt.request_hash
        asked = (ok if is_same else failed)(
            "request", f"{len(request)} bytes {'hash' if is_same else 'do not hash'} to {receipt.request_hash}", is_required=False
        )
    answered = not_checked("response", "give the response's bytes to check them", is_required=False)
    if response is not None:
        is_same = response_hash(salt, response) == receipt.response_hash
        answered = (ok if is_same else failed)(
            "response",
            f"{len(response)} bytes {'hash' if is_same else 'do not hash'} to {receipt.response_hash}",
            is_required=False,
        )
    return asked, answered


def computing(facts: OrderFacts, service_index: int) -> ComputeTime | None:
    """What an order has paid for, when it is one of a job: of another service than that for calls, with a fee for computing."""
    if facts.provider_fee is None or facts.service_index == service_index:
        return None
    return compute_time(facts.provider_fee)


def buyers(facts: OrderFacts, time: ComputeTime | None) -> tuple[Address | None, ...]:
    """Whom the receipts of an order may name. Of computing its payer too, where the consumer is the environment, as Ocean's clients
    order: that one's address is the operator's, whom the fee pays."""
    is_environment = time is not None and facts.provider_fee is not None and facts.consumer == facts.provider_fee.provider
    return (facts.consumer, facts.payer) if is_environment else (facts.consumer,)


def jobs_paid(facts: OrderFacts, reuses: Sequence[Reuse]) -> int:
    """How many jobs an order of computing has paid for: one, and one for each time it was ordered again with a fee for computing
    on the same service. Anybody may order again, the operator too, but not unseen."""

    def pays(fee: ProviderFee) -> bool:
        return facts.emitter is not None and names(fee, facts.emitter, facts.service_index) and compute_time(fee) is not None

    return 1 + sum(any(pays(fee) for fee in each.signed_fees) for each in reuses)


def check_order(receipt: Receipt, facts: OrderFacts, network: Network, service_index: int, reuses: Sequence[Reuse] = ()) -> Check:
    """A paid order by this consumer: emitted by a datatoken of an NFT of Ocean's factory, mined, not reverted, final enough.

    service_index: of the service for calls. reuses: of this order. A job's receipt names an order of computing, and each job that
    was paid for leaves one at most (`jobs_paid`).
    """
    name, order = "order", receipt.order
    if not facts.found:
        return failed(name, f"no transaction {order} on chain {network.chain_id}")
    if facts.status != 1:
        return failed(name, f"transaction {order} was reverted")
    if facts.emitter is None or facts.nft is None or not facts.is_from_factory:
        return failed(name, f"transaction {order} has no OrderStarted event by a datatoken of Ocean's factory {network.factory}")
    time = computing(facts, service_index)
    if receipt.consumer not in buyers(facts, time):
        return failed(name, f"consumer: the receipt's is {receipt.consumer}, the order's {facts.consumer}")
    if time is None and facts.service_index != service_index:
        return failed(name, f"service index: the receipt's is {service_index}, the order's {facts.service_index}")
    if facts.amount < ONE_DATATOKEN:
        return failed(name, f"paid {facts.amount} wei of the datatoken, one call right costs {ONE_DATATOKEN}")
    if facts.confirmations < network.confirmations:
        return not_checked(name, f"the order has {facts.confirmations} confirmations of {network.confirmations}: try again later")
    if time is not None and receipt.sequence >= (paid := jobs_paid(facts, reuses)):
        return failed(name, f"sequence {receipt.sequence}: the order has paid for {paid} jobs, each of which leaves one receipt")
    final = [each for each in reuses if each.confirmations >= network.confirmations]
    if time is not None and receipt.sequence >= jobs_paid(facts, final):
        return not_checked(name, f"sequence {receipt.sequence}: the order was ordered again too few blocks ago: try again later")
    what = "ordered" if time is None else f"ordered a job of {time.seconds} s in {time.environment!r:.80}"
    return ok(name, f"{receipt.consumer} {what} with datatoken {facts.emitter} in block {facts.block}, {facts.confirmations} deep")


def check_asset(receipt: Receipt, facts: OrderFacts, network: Network) -> Check:
    """The DID is that of the NFT whose datatoken the order spent."""
    if facts.nft is None:
        return failed("asset", "the order names no NFT")
    found = did_of(facts.nft, network.chain_id)
    if found != receipt.did:
        return failed("asset", f"the order is for {found}, the receipt for {receipt.did}")
    return ok("asset", f"{receipt.did} is NFT {facts.nft}, whose datatoken was ordered")


def check_term(receipt: Receipt, facts: OrderFacts, service_index: int, skew_ms: int) -> Check:
    """The call began after the order and before its end, which the provider fee states. Nothing on chain bounds how late a job
    begins: it may wait for its turn, and one that failed has given its order back.
    """
    ordered_ms = facts.ordered_at * 1000
    if receipt.started_at < ordered_ms - skew_ms:
        return failed("term", f"the call began {moment(receipt.started_at)}, before the order of {moment(ordered_ms)}")
    if facts.provider_fee is None:
        return ok("term", f"the call began {moment(receipt.started_at)}, after the order of {moment(ordered_ms)}; it names no end")
    if computing(facts, service_index) is not None:
        began = f"the job began {moment(receipt.started_at)}, after the order of {moment(ordered_ms)}"
        return ok("term", f"{began}; nothing on chain says how late it may begin")
    until_ms = facts.provider_fee.valid_until * 1000
    if receipt.started_at > until_ms:
        return failed("term", f"the call began {moment(receipt.started_at)}, after the order's end {moment(until_ms)}")
    return ok("term", f"the call began {moment(receipt.started_at)}, between {moment(ordered_ms)} and {moment(until_ms)}")


def check_operator(
    signed: SignedReceipt, facts: OrderFacts, operators: Sequence[DataRecord], window: Window, network: Network, skew_ms: int
) -> Check:
    """The asset's NFT named this log when the call ended: one that it named later cannot speak of earlier calls."""
    first = max(facts.block, window.first_block)
    known = in_force(operators, first, max(first, window.last_block), network.confirmations)
    named = [record.value.hex() for record in at_time(known, signed.receipt.finished_at, skew_ms)]
    if signed.log[2:].lower() not in named:
        return failed(
            "operator",
            f"NFT {facts.nft} named {', '.join('log 0x' + value for value in named) or 'no log'}, not {signed.log}, "
            f"when the call ended, {moment(signed.receipt.finished_at)}",
        )
    return ok("operator", f"NFT {facts.nft} names log {signed.log} as the one its calls are recorded in")


def check_model(receipt: Receipt, facts: OrderFacts, digests: Sequence[DataRecord], network: Network) -> Check:
    """The digest is the one that the asset's NFT held in the order's block."""
    effective = in_force(digests, facts.block, facts.block, network.confirmations)
    if not effective:
        return failed("model", f"NFT {facts.nft} held no model digest in the order's block {facts.block}")
    found = "0x" + effective[-1].value.hex()
    if found != receipt.model_digest:
        return failed("model", f"the receipt says {receipt.model_digest}, the chain {found} in block {facts.block}")
    return ok("model", f"{found} stands on NFT {facts.nft} since block {effective[-1].block}")


def check_sequence(signed: SignedReceipt, others: Sequence[SignedReceipt]) -> Check:
    """The order's receipts chain: no gap, no number given twice. `others`: those of the same order that the buyer holds."""
    name, receipt, identity = "sequence", signed.receipt, receipt_id(signed)
    if (receipt.sequence == 0) != (receipt.previous == FIRST_PREVIOUS):
        return failed(name, f"sequence {receipt.sequence} with previous {receipt.previous}: only the first has none")
    met = []
    for other in others:
        if (other.chain_id, other.log, other.receipt.order) != (signed.chain_id, signed.log, receipt.order):
            continue
        found = receipt_id(other)
        if other.receipt.sequence == receipt.sequence and found != identity:
            return failed(name, f"sequence {receipt.sequence} was given twice: to {identity} and to {found}")
        if other.receipt.sequence == receipt.sequence - 1:
            if found != receipt.previous:
                return failed(name, f"previous is {receipt.previous}, but receipt {other.receipt.sequence} is {found}")
            met.append(f"follows receipt {other.receipt.sequence}")
        if other.receipt.sequence == receipt.sequence + 1:
            if other.receipt.previous != identity:
                return failed(name, f"receipt {other.receipt.sequence} follows {other.receipt.previous}, not this one")
            met.append(f"precedes receipt {other.receipt.sequence}")
    if receipt.sequence == 0 or met:
        return ok(name, f"sequence {receipt.sequence} {' and '.join(met) or 'is the first of its order'}", is_required=False)
    return not_checked(
        name, f"sequence {receipt.sequence}: give the order's other receipts to check that there is no gap", is_required=False
    )


def check_time(receipt: Receipt, window: Window, skew_ms: int) -> Check:
    """The receipt's times lie in the window that the anchors leave, and the promise was kept."""
    name = "time"
    if not receipt.started_at <= receipt.finished_at <= receipt.merge_by:
        return failed(name, "expected start, end and promise in this order")
    if receipt.merge_by - receipt.finished_at > LONGEST_PROMISE_MS:
        return failed(name, f"a promise until {moment(receipt.merge_by)} promises nothing: expected a week at most after the call")
    finished = f"the call ended {moment(receipt.finished_at)}"
    if window.before is not None and receipt.finished_at < window.before.written_at * 1000 - skew_ms:
        when = moment(window.before.written_at * 1000)
        return failed(name, f"backdated: {finished}, but the anchor of {when} does not hold it ({window.before.transaction})")
    if window.covering is None:
        return not_checked(name, f"{finished}; not anchored yet, promised before {moment(receipt.merge_by)}")
    anchored_ms = window.covering.written_at * 1000
    if receipt.finished_at > anchored_ms + skew_ms:
        return failed(name, f"{finished}, after the anchor of {moment(anchored_ms)} that holds it")
    if anchored_ms > receipt.merge_by + skew_ms:
        return failed(name, f"promised before {moment(receipt.merge_by)}, anchored only {moment(anchored_ms)}")
    return ok(name, f"{finished}, anchored {moment(anchored_ms)}, promised before {moment(receipt.merge_by)}")
