"""What the log keeper does, as steps: close orphaned calls, forget old answers, integrate, anchor, watch, index.

In: the parts, from `wiring`. Out: `Step`s for `receipts.keeper.Keeper`. This module must never loop or sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from control_plane.chain.ledger import Ledger, Wallet
from control_plane.did import Address
from control_plane.flows.anchor import anchor, is_anchor_due, refresh_anchors
from control_plane.receipts.keeper import Step
from control_plane.receipts.log import Log
from control_plane.receipts.store import ReceiptStore

REQUEST_FILE = "anchor-now"
PENDING_FILE = "anchor-pending.json"
REAP_EVERY_S = 2.0
SWEEP_EVERY_S = 10.0
WATCH_EVERY_S = 1.0
WATCH_CHAIN_EVERY_S = 5.0
WATCH_LISTINGS_EVERY_S = 60.0
ANCHOR_LOOK_EVERY_S = 0.5
INDEX_EVERY_S = 1.0


def request_anchor(run_folder: Path) -> Path:
    """Ask the keeper to anchor now. Returns the request's file: the keeper removes it when everything logged so far is anchored."""
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / REQUEST_FILE
    path.touch()
    return path


def keeper_steps(
    *,
    store: ReceiptStore,
    is_alive: Callable[[str], bool],
    log: Log,
    ledger: Ledger,
    wallet: Wallet,
    log_nft: Address,
    run_folder: Path,
    checkpoint_interval_s: float,
    anchor_interval_s: float,
    anchor_receipts: int,
    watch: Callable[[], Mapping[str, object] | None],
    watch_chain: Callable[[], Mapping[str, object] | None],
    watch_listings: Callable[[], Mapping[str, object] | None],
    index: Callable[[], Mapping[str, object] | None],
    clock: Callable[[], float],
) -> tuple[Step, ...]:
    """Steps in the order in which one round should run them. clock: seconds since 1970. watch: see `Catalogue`.
    watch_chain, watch_listings: see `flows.watch`. index: see `flows.index_assets`.
    """
    anchoring = _Anchoring(log, ledger, wallet, log_nft, run_folder, anchor_interval_s, anchor_receipts, clock)

    def reap() -> Mapping[str, object] | None:
        closed = store.reap(is_alive)
        return {"cut": closed.cut, "released": closed.released} if closed.cut or closed.released else None

    def sweep() -> Mapping[str, object] | None:
        forgotten = store.sweep_answers()
        return {"forgotten": forgotten} if forgotten else None

    def integrate() -> Mapping[str, object] | None:
        done = log.integrate()
        return {"size": done.size, "root": done.root.hex(), "added": done.added} if done.is_new else None

    return (
        Step("reap", REAP_EVERY_S, reap),
        Step("sweep", SWEEP_EVERY_S, sweep),
        Step("integrate", checkpoint_interval_s, integrate),
        Step("anchor", ANCHOR_LOOK_EVERY_S, anchoring.run),
        Step("watch", WATCH_EVERY_S, watch),
        Step("watch chain", WATCH_CHAIN_EVERY_S, watch_chain),
        Step("watch listings", WATCH_LISTINGS_EVERY_S, watch_listings),
        Step("index", INDEX_EVERY_S, index),
    )


class _Anchoring:
    """Anchors when it is due; remembers when it last did, and how far."""

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        wallet: Wallet,
        log_nft: Address,
        run_folder: Path,
        interval_s: float,
        receipts: int,
        clock: Callable[[], float],
    ) -> None:
        self._log, self._ledger, self._wallet, self._log_nft = log, ledger, wallet, log_nft
        self._request, self._pending = run_folder / REQUEST_FILE, run_folder / PENDING_FILE
        self._interval_s, self._receipts, self._clock = interval_s, receipts, clock
        self._last_at = clock()
        self._anchored: int | None = None

    def run(self) -> Mapping[str, object] | None:
        if self._anchored is None:  # the first look: what the chain says counts, not what a file remembers
            known = refresh_anchors(self._ledger, self._log, self._log_nft)
            self._anchored = known[-1].size if known else 0
        asked_at = self._requested_at()
        if asked_at is not None:
            self._log.integrate()  # who asks wants what is stored now, not what was in the last checkpoint
        checkpoint = self._log.latest_checkpoint()
        unanchored = (checkpoint.size if checkpoint is not None else 0) - self._anchored
        found = None
        if is_anchor_due(self._clock(), self._last_at, unanchored, self._interval_s, self._receipts, asked_at is not None):
            found = anchor(self._ledger, self._wallet, self._log, self._log_nft, self._pending)
            self._last_at = self._clock()
            if found is not None:
                self._anchored = found.size
            elif checkpoint is not None:
                self._anchored = checkpoint.size  # anchored before, by a try whose outcome was unknown
        if asked_at is not None and asked_at == self._requested_at() and self._is_all_anchored():
            self._request.unlink(missing_ok=True)
        if found is None:
            return None
        return {"size": found.size, "root": found.root.hex(), "transaction": found.transaction, "block": found.block}

    def _is_all_anchored(self) -> bool:
        checkpoint = self._log.latest_checkpoint()
        return checkpoint is None or (self._anchored or 0) >= checkpoint.size

    def _requested_at(self) -> int | None:
        with suppress(FileNotFoundError):
            return self._request.stat().st_mtime_ns
        return None
