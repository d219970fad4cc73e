"""The index of Ocean assets: their documents, and what the chain says of them, kept so that no reader asks a node.

In: documents that were opened and checked, facts, how far the chain was read. Out: the same, by DID, by NFT, or all. This module
must never decide what belongs into it, and never serve a document that is not on chain.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from control_plane.database import assets as table
from control_plane.database import chain_cursor, counted_orders, reading, replaced_documents, writing
from control_plane.did import Address, Bytes32, Did, TransactionHash

REWOUND_BLOCKS = 256
"""How far to go back when the chain undid a block: deeper than any reorganisation of the chains we know."""
DOCUMENTS, ORDERS = "documents", "orders"
"""The two things that the chain is read for, each with a cursor of its own: see `flows/index_assets.py`."""
_BEGUN = "begun"
MOST_BLOCKS = 10_000
"""Read in one step."""


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


@dataclass(frozen=True)
class Begun:
    """What was done of the block behind the cursor of documents: `count` of its documents, the last written by `transaction`."""

    count: int
    transaction: TransactionHash


class AssetIndex:
    """One index for all workers; the log keeper writes it.

    reach: how many blocks to read at once, for each of the two: fewer while the node does not manage so many. One number for both
    would be made greater by one as it is made smaller by the other, which never came to read a single block. untold: blocks that
    could not be read whole, with the kinds of event that are missing, until the operator is told. Neither is stored.
    """

    def __init__(self, engine: Engine) -> None:
        self.reach = {DOCUMENTS: MOST_BLOCKS, ORDERS: MOST_BLOCKS}
        self.untold: dict[int, tuple[str, ...]] = {}
        self._engine, self._reading = engine, reading(engine)
        self._lock = threading.Lock()
        self._known: tuple[int, tuple[IndexedAsset, ...]] = (-1, ())

    def cursor(self, name: str) -> Cursor | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(chain_cursor).where(chain_cursor.c.name == name)).first()
        return None if row is None else Cursor(row.block, row.block_hash)

    def begun(self) -> Begun | None:
        """Nothing where the cursor of documents stands at the end of what was done."""
        row = self.cursor(_BEGUN)
        return None if row is None or row.block == 0 else Begun(row.block, TransactionHash(row.block_hash))

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

    def put(
        self, found: Sequence[IndexedAsset], cursor: Cursor, begun: Begun | None = None, touched: Iterable[Address] = ()
    ) -> None:
        """Replace these assets, in this order, and remember how far documents were read: all or nothing. Again: the same.

        touched: NFTs whose facts are to be read again as soon as may be. What was replaced is kept for `rewind`, `REWOUND_BLOCKS`
        long.
        """
        with writing(self._engine) as connection:
            for asset in found:
                row = _row(asset)
                before = connection.execute(select(table).where(table.c.did == asset.did)).first()
                if before is None:
                    connection.execute(insert(table).values({**row, "orders": 0}))
                    _recount(connection, [asset.did])
                    continue
                if before.block < asset.block:
                    _keep(connection, before, asset.block)
                connection.execute(update(table).where(table.c.did == asset.did).values(row))
            old = replaced_documents.c.replaced_in <= cursor.block - REWOUND_BLOCKS
            connection.execute(delete(replaced_documents).where(old))
            for nft in touched:
                connection.execute(update(table).where(table.c.nft == nft).values(refreshed_at=0.0))
            _move(connection, DOCUMENTS, cursor, is_change=bool(found))
            _begin(connection, begun)

    def refresh(self, did: Did, facts: Mapping[str, Any], now: float) -> None:
        """Replace what the chain says of an asset that is there."""
        with writing(self._engine) as connection:
            told = json.dumps(dict(facts))
            other = connection.execute(update(table).where(table.c.did == did, table.c.facts != told).values(facts=told)).rowcount
            connection.execute(update(table).where(table.c.did == did).values(refreshed_at=now))
            if other:  # each change lets every worker read all assets again
                _changed(connection)

    def count_orders(self, ordered: Mapping[tuple[Did, int], int], cursor: Cursor) -> None:
        """Add to the numbers of orders, and remember how far orders were read: both or neither. ordered: by asset and block."""
        with writing(self._engine) as connection:
            for (did, block), count in ordered.items():
                connection.execute(insert(counted_orders).values(did=did, block=block, count=count))
            _recount(connection, {did for did, _ in ordered})
            _move(connection, ORDERS, cursor, is_change=False)
            if ordered:
                _changed(connection)

    def rewind(self, cursor: Cursor) -> int:
        """Take back what later blocks said, since the chain undid some of them. How many assets are no longer there, or are again
        as an earlier document has them.

        All that was undone is undone here, or nothing; facts are read again as soon as may be. Again: does nothing more.
        """
        with writing(self._engine) as connection:
            undone = replaced_documents.c.replaced_in > cursor.block
            again = connection.execute(select(replaced_documents).where(undone, replaced_documents.c.block <= cursor.block)).all()
            for row in again:
                earlier = {"block": row.block, "document": row.document, "event": row.event}
                connection.execute(update(table).where(table.c.did == row.did).values(earlier))
            connection.execute(delete(replaced_documents).where(undone))
            gone = connection.execute(delete(table).where(table.c.block > cursor.block)).rowcount
            later = counted_orders.c.block > cursor.block
            ordered = connection.execute(select(counted_orders.c.did).where(later).distinct()).scalars().all()
            connection.execute(delete(counted_orders).where(later))
            _recount(connection, ordered)
            connection.execute(update(table).values(refreshed_at=0.0))
            _move(connection, DOCUMENTS, cursor, is_change=True)
            _begin(connection, None)
            orders = update(chain_cursor).where(chain_cursor.c.name == ORDERS, chain_cursor.c.block > cursor.block)
            connection.execute(orders.values(block=cursor.block, block_hash=cursor.block_hash))
        return len(again) + int(gone)

    def _first(self, which: Any) -> IndexedAsset | None:
        with self._reading.connect() as connection:
            row = connection.execute(select(table).where(which)).first()
        return None if row is None else _asset(row)


def _keep(connection: Connection, row: Any, replaced_in: int) -> None:
    """A row of `assets` before another document takes its place."""
    same = (replaced_documents.c.did == row.did) & (replaced_documents.c.block == row.block)
    connection.execute(delete(replaced_documents).where(same))
    kept = {"did": row.did, "block": row.block, "document": row.document, "event": row.event}
    connection.execute(insert(replaced_documents).values({**kept, "replaced_in": replaced_in}))


def _recount(connection: Connection, dids: Iterable[str]) -> None:
    for did in dids:
        total = select(func.coalesce(func.sum(counted_orders.c.count), 0)).where(counted_orders.c.did == did)
        connection.execute(update(table).where(table.c.did == did).values(orders=total.scalar_subquery()))


def _move(connection: Connection, name: str, cursor: Cursor, is_change: bool) -> None:
    changed = {"block": cursor.block, "block_hash": cursor.block_hash, "version": chain_cursor.c.version + int(is_change)}
    if not connection.execute(update(chain_cursor).where(chain_cursor.c.name == name).values(changed)).rowcount:
        connection.execute(insert(chain_cursor).values({**changed, "name": name, "version": int(is_change)}))


def _begin(connection: Connection, begun: Begun | None) -> None:
    place = Cursor(0, Bytes32("")) if begun is None else Cursor(begun.count, Bytes32(begun.transaction))
    _move(connection, _BEGUN, place, is_change=False)


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
