"""The outside checker: after any step of any story, everything that must hold, read from the chain and from public files alone.

In: a ledger reader, the listings that a market shows, its public log, the orders and receipts that it took and gave. Out: nothing,
or an AssertionError that lists every invariant broken. This module must never look into the market's own state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from control_plane.chain import ddo
from control_plane.chain.histories import recorded
from control_plane.chain.ledger import (
    CALLABLE_STATES,
    MODEL_LABEL,
    OPERATOR_LABEL,
    PARENT_LABEL,
    AssetFacts,
    LedgerReader,
    Rights,
)
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, did_of
from control_plane.receipts.public_log import LogFiles
from control_plane.receipts.receipt import Issued
from converters.entry import ModelDigest, model_digest, triton_name
from tests.check_log import anchor_invariants, log_invariants


class Shown(Protocol):
    """What a market shows of one model on sale: in `/v1/models` and `/v1/offers/<did>`. A `Listing` is one too."""

    @property
    def did(self) -> Did: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def publisher(self) -> Address: ...
    @property
    def model_digest(self) -> Bytes32: ...
    @property
    def chain_id(self) -> int: ...
    @property
    def nft(self) -> Address: ...
    @property
    def datatoken(self) -> Address: ...
    @property
    def exchange(self) -> Bytes32 | None: ...
    @property
    def rate(self) -> TokenWei: ...
    @property
    def base_token(self) -> Address: ...
    @property
    def publish_fee(self) -> TokenWei: ...


@dataclass(frozen=True)
class Seen:
    """What an outsider was shown. models: the folder of entries, when it can be seen. decryptor: reads documents, when we are he.

    orders: transactions that were accepted as orders, with the DID each one was accepted for. log: the public log's files; without
    them only what the chain says of it is checked. receipts: those that came with answers.
    """

    listings: Sequence[Shown]
    log_nft: Address
    models: Path | None = None
    decryptor: ddo.Decryptor | None = None
    orders: Sequence[tuple[TransactionHash, str]] = field(default=())
    log: LogFiles | None = None
    receipts: Sequence[Issued] = field(default=())


def broken_promises(ledger: LedgerReader, seen: Seen) -> list[str]:
    """Every invariant that does not hold, in words; empty for a market that keeps its promises."""
    return [
        *anchor_invariants(ledger, seen.log_nft),
        *(log_invariants(ledger, seen.log_nft, seen.log, seen.receipts) if seen.log is not None else ()),
        *(line for listing in seen.listings if listing.state == "on_sale" for line in _listing_invariants(ledger, seen, listing)),
        *_together(seen.listings),
        *_order_invariants(ledger, seen),
    ]


def check_market(ledger: LedgerReader, seen: Seen) -> None:
    broken = broken_promises(ledger, seen)
    assert not broken, "the market broke its promises:\n" + "\n".join(f"- {line}" for line in broken)


def _listing_invariants(ledger: LedgerReader, seen: Seen, listing: Shown) -> Iterator[str]:
    did = listing.did
    if did != did_of(listing.nft, ledger.network.chain_id) or listing.chain_id != ledger.network.chain_id:
        yield f"{did}: not the DID of {listing.nft} on chain {ledger.network.chain_id}"
        return
    facts = ledger.asset(listing.nft)
    if not facts.is_from_factory or facts.datatoken != listing.datatoken:
        yield f"{did}: the chain names datatoken {facts.datatoken}, the market {listing.datatoken}"
    if facts.state not in CALLABLE_STATES:
        yield f"{did}: on sale in state {facts.state}"
    if facts.model_digest != listing.model_digest:
        yield f"{did}: the chain names {facts.model_digest}, the market {listing.model_digest}"
    if facts.log != seen.log_nft:
        yield f"{did}: the chain names log {facts.log}, the market {seen.log_nft}"
    if facts.owner != listing.publisher:
        yield f"{did}: owned by {facts.owner}, published by {listing.publisher}"
    for label in (MODEL_LABEL, OPERATOR_LABEL):
        written = len(recorded(ledger, listing.nft, listing.datatoken, label))
        if written != 1:
            yield f"{did}: {label} was written {written} times"
    sale = ledger.sale(listing.datatoken, listing.exchange)
    if not sale.is_active or sale.rate != listing.rate or sale.publish_fee != listing.publish_fee:
        yield f"{did}: sold as {sale}, shown at rate {listing.rate} and publish fee {listing.publish_fee}"
    if listing.exchange is not None and (sale.exchange_datatoken, sale.base_token) != (listing.datatoken, listing.base_token):
        yield f"{did}: its exchange sells {sale.exchange_datatoken} for {sale.base_token}"
    yield from _custody_invariants(ledger, seen, listing, facts)
    yield from _document_invariants(ledger, seen, listing)
    if seen.models is not None:
        folder = seen.models / triton_name(ModelDigest(listing.model_digest))
        if model_digest(folder) != str(listing.model_digest):
            yield f"{did}: the entry {folder.name} on disk has digest {model_digest(folder)}"


def _custody_invariants(ledger: LedgerReader, seen: Seen, listing: Shown, facts: AssetFacts) -> Iterator[str]:
    """A derived asset: its parent is an asset that had this digest first, and its maker, who owns the log, has no right over it."""
    did, parent = listing.did, facts.parent
    if parent is None:
        return
    wanted, theirs = bytes.fromhex(parent.model_digest[2:]), ledger.asset(parent.nft)
    named = [each.block for each in recorded(ledger, parent.nft, theirs.datatoken, MODEL_LABEL) if each.value == wanted]
    child = recorded(ledger, listing.nft, listing.datatoken, PARENT_LABEL)
    if not theirs.is_from_factory or not named or named[0] > child[0].block:
        yield f"{did}: derived from {parent.model_digest} of {theirs.did}, which had it in blocks {named}"
    operator = ledger.asset(seen.log_nft).owner
    minted = ledger.minted(listing.datatoken, listing.publisher, operator)
    if minted != (TokenWei(200 * 10**18),):
        yield f"{did}: {operator} is to mint 200 datatokens to {listing.publisher} once, the chain says {minted}"
    held = ledger.rights(listing.nft, listing.datatoken, operator)
    if held != Rights() and operator != listing.publisher:
        yield f"{did}: its maker {operator} still has {held}"
    sale = ledger.sale(listing.datatoken, listing.exchange)
    if (sale.exchange_owner, sale.collector) != (listing.publisher, listing.publisher):
        yield f"{did}: of {listing.publisher}, its sales pay {sale.exchange_owner} and its orders {sale.collector}"


def _document_invariants(ledger: LedgerReader, seen: Seen, listing: Shown) -> Iterator[str]:
    sealed = ledger.document(listing.nft)
    if sealed is None:
        yield f"{listing.did}: no document on chain"
    elif seen.decryptor is not None:
        document = ddo.unseal(sealed, seen.decryptor)
        facts = document["metadata"]["additionalInformation"]["posthuman"]
        if document["id"] != listing.did or facts["model_digest"] != listing.model_digest:
            yield f"{listing.did}: its document is about {document['id']} with {facts['model_digest']}"


def _together(listings: Sequence[Shown]) -> Iterator[str]:
    for what, names in (
        ("DID", [listing.did for listing in listings]),
        ("publication", [(listing.publisher, listing.model_digest, listing.name) for listing in listings]),
        ("datatoken", [listing.datatoken for listing in listings]),
    ):
        if len(set(names)) != len(names):
            yield f"the same {what} is listed twice: {names}"


def _order_invariants(ledger: LedgerReader, seen: Seen) -> Iterator[str]:
    for transaction, did in seen.orders:
        facts = ledger.order_facts(transaction)
        named = did_of(facts.nft, ledger.network.chain_id) if facts.nft is not None else None
        if facts.status != 1 or not facts.is_from_factory or named != did or facts.amount < 10**18:
            yield f"order {transaction} was accepted for {did}, the chain says {facts}"
        if facts.confirmations < ledger.network.confirmations:
            yield f"order {transaction} was accepted with {facts.confirmations} confirmations"
    if len(set(seen.orders)) != len(seen.orders):
        yield f"an order was accepted twice: {seen.orders}"
