"""What the tests of verification share: logs, honest and forged, and how their verdicts are read."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from control_plane.receipts.anchors import LOG_KEY, anchor_value
from control_plane.receipts.checkpoint import Checkpoint
from control_plane.receipts.merkle import Tree, leaf_hash
from control_plane.receipts.public_log import PublicLog
from control_plane.receipts.receipt import leaf_bytes
from control_plane.receipts.store import Issued
from control_plane.receipts.tiles import TileFolder
from control_plane.receipts.verification import Verification
from tests.fixtures_log import LogMarket

REQUIRED = ["chain", "signature", "order", "asset", "term", "operator", "model", "inclusion", "checkpoint", "anchor", "time"]


def verdicts(found: Verification) -> Mapping[str, str]:
    return {check.name: check.verdict.value for check in found.checks}


def assert_fails(found: Verification, name: str, words: str) -> None:
    """The named check failed, with these words in its evidence, and the receipt is not verified."""
    evidence = {check.name: check.evidence for check in found.failed}
    assert not found.is_verified
    assert name in evidence, found.to_json()
    assert words in evidence[name], evidence[name]


def anchored(market: LogMarket, count: int = 3) -> list[Issued]:
    made = market.issue(count)
    market.log.integrate()
    assert market.anchor() is not None
    return made


class ForgedLog:
    """A log that a dishonest operator makes by hand: any leaves, signed and anchored with the operator's real keys."""

    def __init__(self, market: LogMarket, leaves: list[Issued], size: int | None = None) -> None:
        self.folder = TileFolder(market.folder / f"forged-{secrets.token_hex(8)}")
        entries = [leaf_bytes(issued.signed) for issued in leaves]
        self.tree = Tree(leaf_hash(entry) for entry in entries)
        self.folder.write_tree(self.tree.node, lambda low, high: entries[low:high], 0, self.tree.size)
        note = market.notes.sign(Checkpoint(market.notes.name, self.tree.size, self.tree.root()).text())
        self.folder.write("checkpoint", note.encode())
        self.note, self.market = note, market

    def anchor(self) -> ForgedLog:
        value = anchor_value(self.tree.size, self.tree.root())
        self.market.ledger.record_data(self.market.operator, f"forged {value.hex()}", self.market.log_nft, LOG_KEY, value)
        return self

    def public(self) -> PublicLog:
        return PublicLog(self.folder)
