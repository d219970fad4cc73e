"""The index of Ocean assets: their documents, and what the chain says of them, kept so that no reader asks a node.

In: documents that were opened and checked, facts, how far the chain was read. Out: the same, by DID, by NFT, or all. This module
must never decide what belongs into it, and never serve a document that is not on chain.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update

from control_plane.database import assets as table
from control_plane.database import chain_cursor, reading, writing
from control_plane.did import Address, Bytes32, Did

DOCUMENTS, ORDERS = "documents", "orders"
"""The two things that the chain is read for, each with a cursor of its own: see `flows/index_assets.py`."""


@dataclass(frozen=True)
class IndexedAsset:
    """document: the DDO as it stands on chain. event: Aquarius's record of the transaction that wrote it. facts: `NftFacts` as
    JSON, with `created`, when the first document was written. refreshed_at: when the facts were read, seconds since 1970."""

    did: Did
    nft: Address
    block: int
    document: Mapping[str, Any]
    event: Mapping[str, Any]
    facts: Mapping[str, Any]
    orders: int
    refreshed_at: float

    @property
    def state(self) -> int:
        return int(self.facts["state"])


@dataclass(frozen=True)
class Cursor:
    """The last block that was read, and its hash then."""

    block: int
    block_hash: Bytes32


class AssetIndex:
    """One index for all workers; the log keeper writes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._reading = engine, reading(engine)
        self._lock = threading.Lock()
        self._known: tuple[int, tuple[IndexedAsset, ...]] = (-1, ())

    def cursor(self, name: str) -> Cursor | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(chain_cursor).where(chain_cursor.c.name == name)).first()
        return None if row is None else Cursor(row.block, row.block_hash)

    def find(self, did: Did) -> IndexedAsset | None:
        return self._first(table.c.did == did)

    def find_nft(self, nft: Address) -> IndexedAsset | None:
        return self._first(table.c.nft == nft)

    def all(self) -> tuple[IndexedAsset, ...]:
        """Every asset, from memory while nothing has changed; newest document first."""
        with self._reading.connect() as connection:
            version = connection.execute(select(chain_cursor.c.version).where(chain_cursor.c.name == DOCUMENTS)).scalar() or 0
            if version == self._known[0]:
                return self._known[1]
            rows = connection.execute(select(table).order_by(table.c.block.desc(), table.c.did)).all()
        found = tuple(_asset(row) for row in rows)
        with self._lock:
            self._known = (version, found)
        return found

    def stalest(self, before: float, most: int) -> tuple[IndexedAsset, ...]:
        """The assets whose facts are oldest, and older than `before`."""
        asked = select(table).where(table.c.refreshed_at < before).order_by(table.c.refreshed_at).limit(most)
        with self._reading.connect() as connection:
            return tuple(_asset(row) for row in connection.execute(asked))

    def put(self, found: Sequence[IndexedAsset], cursor: Cursor) -> None:
        """Replace these assets, and remember how far documents were read: both or neither. Again: the same."""
        with writing(self._engine) as connection:
            for asset in found:
                row = _row(asset)
                if not connection.execute(update(table).where(table.c.did == asset.did).values(row)).rowcount:
                    connection.execute(insert(table).values({**row, "orders": 0}))
            _move(connection, DOCUMENTS, cursor, is_change=bool(found))

    def refresh(self, did: Did, facts: Mapping[str, Any], now: float) -> None:
        """Replace what the chain says of an asset that is there."""
        with writing(self._engine) as connection:
            told = json.dumps(dict(facts))
            other = connection.execute(update(table).where(table.c.did == did, table.c.facts != told).values(facts=told)).rowcount
            connection.execute(update(table).where(table.c.did == did).values(refreshed_at=now))
            if other:  # each change lets every worker read all assets again
                _changed(connection)

    def count_orders(self, ordered: Mapping[Did, int], cursor: Cursor) -> None:
        """Add to the numbers of orders, and remember how far orders were read: both or neither."""
        with writing(self._engine) as connection:
            for did, count in ordered.items():
                connection.execute(update(table).where(table.c.did == did).values(orders=table.c.orders + count))
            _move(connection, ORDERS, cursor, is_change=False)
            if ordered:
                _changed(connection)

    def rewind(self, cursor: Cursor) -> int:
        """Forget the documents of later blocks: the chain undid them. How many were forgotten."""
        with writing(self._engine) as connection:
            forgotten = connection.execute(delete(table).where(table.c.block > cursor.block)).rowcount
            _move(connection, DOCUMENTS, cursor, is_change=True)
        return int(forgotten)

    def _first(self, which: Any) -> IndexedAsset | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(which)).first()
        return None if row is None else _asset(row)


def _move(connection: Connection, name: str, cursor: Cursor, is_change: bool) -> None:
    changed = {"block": cursor.block, "block_hash": cursor.block_hash, "version": chain_cursor.c.version + int(is_change)}
    if not connection.execute(update(chain_cursor).where(chain_cursor.c.name == name).values(changed)).rowcount:
        connection.execute(insert(chain_cursor).values({**changed, "name": name, "version": int(is_change)}))


def _changed(connection: Connection) -> None:
    change = update(chain_cursor).where(chain_cursor.c.name == DOCUMENTS)
    connection.execute(change.values(version=chain_cursor.c.version + 1))


def _row(asset: IndexedAsset) -> dict[str, Any]:
    return {
        "did": asset.did,
        "nft": asset.nft,
        "block": asset.block,
        "document": json.dumps(dict(asset.document)),
        "event": json.dumps(dict(asset.event)),
        "facts": json.dumps(dict(asset.facts)),
        "refreshed_at": asset.refreshed_at,
    }


def _asset(row: Any) -> IndexedAsset:
    return IndexedAsset(
        did=row.did,
        nft=row.nft,
        block=row.block,
        document=json.loads(row.document),
        event=json.loads(row.event),
        facts=json.loads(row.facts),
        orders=row.orders,
        refreshed_at=row.refreshed_at,
    )
