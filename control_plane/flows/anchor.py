"""Anchors the log: writes its newest size and root on its own NFT, where nobody can take it back.

In: a ledger, a wallet with the store permission on the log's NFT, a log. Out: one `setNewData` transaction, or none when there is
nothing new. This module must never send a second anchor while the outcome of the last one is unknown.
"""

from __future__ import annotations

import json
from pathlib import Path

from control_plane.chain.ledger import Ledger, Wallet
from control_plane.did import Address
from control_plane.errors import IntegrityBroken, OutcomeUnknown, Refused
from control_plane.receipts.anchors import LOG_KEY, Anchor, anchor_value, read_anchors
from control_plane.receipts.log import Log
from control_plane.receipts.tiles import replace_durably


def refresh_anchors(ledger: Ledger, log: Log, log_nft: Address) -> tuple[Anchor, ...]:
    """Read what is anchored, check that this log contains it, and keep the public list up to date.

    Raises IntegrityBroken when the chain and this log tell two stories; Unavailable when no node answers. Again: the same.
    """
    known = log.anchors()
    seen = read_anchors(ledger, log_nft, known[-1].block) if known else ()
    if known and any((found.size, found.transaction) == (known[-1].size, known[-1].transaction) for found in seen):
        anchors = (*(found for found in known if found.block < known[-1].block), *seen)
    else:  # nothing known, or the chain has dropped what was known: read all of it
        anchors = read_anchors(ledger, log_nft)
    log.record_anchors(anchors)
    return anchors


def anchor(ledger: Ledger, wallet: Wallet, log: Log, log_nft: Address, pending: Path) -> Anchor | None:
    """Write the log's newest checkpoint on chain, unless it is anchored already; returns the new anchor, or None.

    pending: a file that remembers the anchor being written. It is on disk before anything is sent, so after a crash, or after
    OutcomeUnknown, the next call asks for the same anchor under the same key, which finds what was sent and sends nothing twice.

    Raises IntegrityBroken (the chain holds an anchor that this log does not continue: nothing is sent), Refused (reverted),
    OutcomeUnknown (sent, not seen), Unavailable (not sent). Again: None when nothing is new.
    """
    anchors = refresh_anchors(ledger, log, log_nft)
    last = anchors[-1].size if anchors else 0
    begun = _read_pending(pending)
    if begun is not None and begun <= last:
        pending.unlink()
        begun = None
    checkpoint = log.latest_checkpoint()
    size = begun if begun is not None else checkpoint.size if checkpoint is not None else 0
    if size <= last:
        return None
    if begun is None:
        replace_durably(pending, json.dumps({"size": size}).encode() + b"\n", mode=0o600)
    root = log.root(size)
    try:
        ledger.record_data(wallet, f"anchor {log.origin} {size} {root.hex()}", log_nft, LOG_KEY, anchor_value(size, root))
    except Refused:
        pending.unlink()  # reverted: it is known not to be done, and a larger one may be asked for next time
        raise
    written = [found for found in refresh_anchors(ledger, log, log_nft) if found.size == size]
    if not written:
        raise OutcomeUnknown(
            f"{log.origin}: the anchor of {size} leaves was mined, but the node does not show it in the history yet"
        )
    pending.unlink()
    return written[-1]


def _read_pending(pending: Path) -> int | None:
    try:
        size = json.loads(pending.read_text(encoding="utf-8"))["size"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityBroken(f"{pending}: not the note of a pending anchor ({type(error).__name__})") from error
    if not isinstance(size, int) or size < 1:
        raise IntegrityBroken(f"{pending}: expected a size above 0, found {size!r}")
    return size


def is_anchor_due(now: float, last_at: float, unanchored: int, interval_s: float, receipts: int, is_requested: bool) -> bool:
    """Whether to anchor now: somebody asked, enough receipts wait, or some wait long enough. Nothing waits: never.

    now, last_at: seconds since 1970. unanchored: leaves since the last anchor.
    """
    return unanchored > 0 and (is_requested or unanchored >= receipts or now - last_at >= interval_s)
