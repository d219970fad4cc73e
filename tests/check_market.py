"""The outside checker: after any step of any story, everything that must hold, read from the chain and from public files alone.

In: a ledger reader, the listings that a market shows, its log. Out: nothing, or an AssertionError that lists every invariant
broken. This module must never look into the market's own state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from control_plane.chain import ddo
from control_plane.chain.ledger import (
    CALLABLE_STATES,
    KEYS_LABEL,
    LOG_LABEL,
    MODEL_LABEL,
    OPERATOR_LABEL,
    LedgerReader,
    data_key,
)
from control_plane.did import Address, TransactionHash, did_of
from control_plane.serving.listing import Listing
from converters.entry import model_digest, triton_name


@dataclass(frozen=True)
class Seen:
    """What an outsider was shown. models: the folder of entries, when it can be seen. decryptor: reads documents, when we are he.

    orders: transactions that were accepted as orders, with the DID each one was accepted for.
    """

    listings: Sequence[Listing]
    log_nft: Address
    models: Path | None = None
    decryptor: ddo.Decryptor | None = None
    orders: Sequence[tuple[TransactionHash, str]] = field(default=())


def check_market(ledger: LedgerReader, seen: Seen) -> None:
    broken = [
        *_log_invariants(ledger, seen.log_nft),
        *(line for listing in seen.listings if listing.state == "on_sale" for line in _listing_invariants(ledger, seen, listing)),
        *_together(seen.listings),
        *_order_invariants(ledger, seen),
    ]
    assert not broken, "the market broke its promises:\n" + "\n".join(f"- {line}" for line in broken)


def _listing_invariants(ledger: LedgerReader, seen: Seen, listing: Listing) -> Iterator[str]:
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
        written = len(ledger.data_history(listing.nft, data_key(label)))
        if written != 1:
            yield f"{did}: {label} was written {written} times"
    sale = ledger.sale(listing.datatoken, listing.exchange)
    if not sale.is_active or sale.rate != listing.rate or sale.publish_fee != listing.publish_fee:
        yield f"{did}: sold as {sale}, shown at rate {listing.rate} and publish fee {listing.publish_fee}"
    if listing.exchange is not None and (sale.exchange_datatoken, sale.base_token) != (listing.datatoken, listing.base_token):
        yield f"{did}: its exchange sells {sale.exchange_datatoken} for {sale.base_token}"
    yield from _document_invariants(ledger, seen, listing)
    if seen.models is not None:
        folder = seen.models / listing.entry_name
        if listing.entry_name != triton_name(model_digest(folder)) or model_digest(folder) != str(listing.model_digest):
            yield f"{did}: the entry {folder.name} on disk has digest {model_digest(folder)}"


def _document_invariants(ledger: LedgerReader, seen: Seen, listing: Listing) -> Iterator[str]:
    sealed = ledger.document(listing.nft)
    if sealed is None:
        yield f"{listing.did}: no document on chain"
    elif seen.decryptor is not None:
        document = ddo.unseal(sealed, seen.decryptor)
        facts = document["metadata"]["additionalInformation"]["posthuman"]
        if document["id"] != listing.did or facts["model_digest"] != listing.model_digest:
            yield f"{listing.did}: its document is about {document['id']} with {facts['model_digest']}"


def _together(listings: Sequence[Listing]) -> Iterator[str]:
    for what, names in (
        ("DID", [listing.did for listing in listings]),
        ("publication", [(listing.publisher, listing.model_digest, listing.name) for listing in listings]),
        ("datatoken", [listing.datatoken for listing in listings]),
    ):
        if len(set(names)) != len(names):
            yield f"the same {what} is listed twice: {names}"


def _log_invariants(ledger: LedgerReader, log_nft: Address) -> Iterator[str]:
    keys = ledger.data_history(log_nft, data_key(KEYS_LABEL))
    if not keys:
        yield f"log {log_nft}: no keys on chain"
    if any(len(record.value) != 52 for record in keys):
        yield f"log {log_nft}: keys of other lengths than 20 + 32 bytes"
    sizes = []
    for record in ledger.data_history(log_nft, data_key(LOG_LABEL)):
        if len(record.value) != 40:
            yield f"log {log_nft}: an anchor of {len(record.value)} bytes in block {record.block}"
        sizes.append(int.from_bytes(record.value[:8], "big"))
    if sizes != sorted(set(sizes)):
        yield f"log {log_nft}: anchored sizes do not grow: {sizes}"


def _order_invariants(ledger: LedgerReader, seen: Seen) -> Iterator[str]:
    datatokens = {listing.did: listing for listing in seen.listings}
    for transaction, did in seen.orders:
        listing = datatokens.get(did)  # type: ignore[call-overload]  # a DID is text here
        if listing is None:
            yield f"order {transaction} was accepted for {did}, which nobody lists"
            continue
        facts = ledger.order_facts(transaction, listing.datatoken)
        if facts.status != 1 or not facts.is_from_factory or facts.nft != listing.nft or facts.amount < 10**18:
            yield f"order {transaction} was accepted for {did}, the chain says {facts}"
        if facts.confirmations < ledger.network.confirmations:
            yield f"order {transaction} was accepted with {facts.confirmations} confirmations"
    if len(set(seen.orders)) != len(seen.orders):
        yield f"an order was accepted twice: {seen.orders}"
