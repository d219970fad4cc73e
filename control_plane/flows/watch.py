"""Watch the chain: an order that it undid opens no model any more, and an asset whose chain facts changed is not sold on.

In: open sessions, listings, the ledger. Out: which orders' sessions and which listings were ended. This module must never end
anything because a node is silent or behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.chain.ledger import CALLABLE_STATES, LedgerReader
from control_plane.did import Address, Did, TransactionHash
from control_plane.errors import NotFound, Refused
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.sessions import Sessions

WATCHED_BLOCKS = 256
"""Deeper orders are not looked at again: no chain we know has undone more blocks than this."""


def revoke_undone_orders(sessions: Sessions, catalogue: Catalogue, ledger: LedgerReader) -> tuple[TransactionHash, ...]:
    """End the sessions of orders whose block is no longer on the chain, unless the order is in another block by now.

    One request for each block that holds a young order. Raises Unavailable when no node answers. Again: ends nothing twice.
    """
    head = ledger.head().number
    hashes: dict[int, str] = {}
    undone: list[TransactionHash] = []
    for order in sessions.open_orders(from_block=head - WATCHED_BLOCKS):
        if order.block > head:
            continue  # this node is behind, or the chain became shorter: when it has grown past the block we shall know
        if order.block not in hashes:
            hashes[order.block] = ledger.block(order.block).hash
        if hashes[order.block] == order.block_hash:
            continue
        facts = ledger.order_facts(order.transaction, catalogue.find(order.did).datatoken)
        if facts.found and facts.status == 1 and facts.emitter is not None:
            continue  # another block took it in
        sessions.revoke_order(order.transaction, "the chain undid its order")
        undone.append(order.transaction)
    return tuple(undone)


@dataclass(frozen=True)
class Looked:
    """withdrawn: listings that were ended now. unread: those whose NFT does not say what it is; they stay as they are."""

    withdrawn: tuple[Did, ...]
    unread: tuple[Did, ...]


def withdraw_changed_listings(catalogue: Catalogue, ledger: LedgerReader, log_nft: Address) -> Looked:
    """Withdraw what its owner has revoked, given another digest, or moved to another log: no receipt of it would verify any more.

    One question a listing. Raises Unavailable when no node answers. Again: withdraws nothing twice.
    """
    withdrawn: list[Did] = []
    unread: list[Did] = []
    for listing in catalogue.listings():
        if listing.state != "on_sale":
            continue
        try:
            facts = ledger.asset(listing.nft)
        except (NotFound, Refused):  # its owner may have given it more datatokens than can be told at once
            unread.append(listing.did)
            continue
        reason = ""
        if facts.state not in CALLABLE_STATES:
            reason = f"its owner has set it to state {facts.state} on chain"
        elif facts.model_digest != listing.model_digest:
            reason = f"the chain now names digest {facts.model_digest}, sold was {listing.model_digest}"
        elif facts.log != log_nft:
            reason = f"the chain now names log {facts.log}, this market's is {log_nft}"
        if reason:
            catalogue.withdraw(listing.did, f"{listing.did}: {reason}")
            withdrawn.append(listing.did)
    return Looked(tuple(withdrawn), tuple(unread))
