"""Anchors: what the log's own NFT says the log was, and when.

In: the `DataChanged` history of a log's NFT. Out: `Anchor`s, oldest first. This module must never trust the newest value alone:
`setNewData` overwrites, and only the events show what was written before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from control_plane.chain.ledger import LOG_LABEL, LedgerReader, data_key
from control_plane.did import Address, TransactionHash, UnixSeconds, parse_bytes32, parse_transaction_hash
from control_plane.errors import BadInput, IntegrityBroken
from control_plane.receipts.merkle import HASH_BYTES

ANCHOR_BYTES = 8 + HASH_BYTES
LOG_KEY = data_key(LOG_LABEL)


@dataclass(frozen=True)
class Anchor:
    """One state of the log, on chain. size: leaves. root: 32 bytes. written_at: the block's time."""

    size: int
    root: bytes
    transaction: TransactionHash
    block: int
    written_at: UnixSeconds
    confirmations: int = 0

    def to_json(self) -> dict[str, Any]:
        """As in `anchors.json`; without confirmations, which go on growing."""
        record = asdict(self)
        del record["confirmations"]
        record["root"] = "0x" + self.root.hex()
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Anchor:
        names = {"size", "root", "transaction", "block", "written_at"}
        if not isinstance(record, Mapping) or set(record) != names:
            raise BadInput("anchor", f"exactly the fields {sorted(names)}", record)
        for name in ("size", "block", "written_at"):
            if not isinstance(record[name], int) or isinstance(record[name], bool) or record[name] < 0:
                raise BadInput(f"anchor.{name}", "a whole number", record[name])
        root = bytes.fromhex(parse_bytes32(record["root"], "anchor.root")[2:])
        transaction = parse_transaction_hash(record["transaction"], "anchor.transaction")
        return cls(record["size"], root, transaction, record["block"], UnixSeconds(record["written_at"]))


def anchor_value(size: int, root: bytes) -> bytes:
    """The 40 bytes that go on chain: size in 8, big-endian, then the root."""
    return size.to_bytes(8, "big") + root


def parse_anchor_value(value: bytes) -> tuple[int, bytes]:
    """Raises BadInput for another length than 40 bytes."""
    if len(value) != ANCHOR_BYTES:
        raise BadInput(LOG_LABEL, f"{ANCHOR_BYTES} bytes", f"{len(value)} bytes")
    return int.from_bytes(value[:8], "big"), value[8:]


def read_anchors(ledger: LedgerReader, log_nft: Address, from_block: int = 0) -> tuple[Anchor, ...]:
    """Every anchor from a block on, oldest first.

    Raises IntegrityBroken when a value is no anchor or a later one is smaller: the log's history on chain is then broken for ever,
    and nobody should build on it. Raises Unavailable when no node answers.
    """
    anchors: list[Anchor] = []
    for record in ledger.data_history(log_nft, LOG_KEY, from_block):
        try:
            size, root = parse_anchor_value(record.value)
        except BadInput as error:
            raise IntegrityBroken(f"log {log_nft}: block {record.block} holds no anchor: {error.message}") from error
        if anchors and size < anchors[-1].size:
            raise IntegrityBroken(f"log {log_nft}: the anchor in block {record.block} is smaller ({size}) than the one before it")
        anchors.append(Anchor(size, root, record.transaction, record.block, record.written_at, record.confirmations))
    return tuple(anchors)
