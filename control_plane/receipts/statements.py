"""The statements on the way of every call, compiled once and run without SQLAlchemy's machinery: what a call can afford.

In: a driver's connection, values. Out: the driver's own rows and errors. This module must never decide what is done with either.

Measured on SQLite, one reserve and one complete together, p50: 453 microseconds through `Connection.execute`, 290 this way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ClauseElement, Engine, PoolProxiedConnection, bindparam, delete, func, insert, select, update

from control_plane.database import calls, receipts, sessions

_OF_SAME_ORDER = sessions.alias("same_order")
_USED_BY_ORDER = (
    select(func.sum(_OF_SAME_ORDER.c.calls_used)).where(_OF_SAME_ORDER.c.order_tx == sessions.c.order_tx).scalar_subquery()
)
"""The quota is the order's: signing in twice must not double it. The sum is exact since one transaction at a time writes for an
order (`ReceiptStore._writing`): PostgreSQL would else take the sum from before the row that it waited for was changed."""
TAKE_CHARGE = (
    update(sessions)
    .where(
        sessions.c.token_hash == bindparam("hashed"),
        sessions.c.calls_limit > _USED_BY_ORDER,
        sessions.c.revoked_at.is_(None),
        sessions.c.expires_at > bindparam("now"),
    )
    .values(calls_used=sessions.c.calls_used + 1)
)
GIVE_BACK = (
    update(sessions)
    .where(sessions.c.token_hash == bindparam("hashed"), sessions.c.calls_used > 0)
    .values(calls_used=sessions.c.calls_used - 1)
)
SESSION_NOW = select(
    sessions.c.revoked_at, sessions.c.revoked_why, sessions.c.expires_at, sessions.c.did, sessions.c.calls_limit
).where(sessions.c.token_hash == bindparam("hashed"))
OPEN_CALL = insert(calls)
CLOSE_CALL = delete(calls).where(calls.c.call_id == bindparam("call"))
LAST_OF_ORDER = (
    select(receipts.c.sequence, receipts.c.receipt_id)
    .where(receipts.c.order_tx == bindparam("order"))
    .order_by(receipts.c.sequence.desc())
    .limit(1)
)
ADD_RECEIPT = insert(receipts)
RECEIPT_COLUMNS = [column.name for column in receipts.c if column is not receipts.c.position]
SHOWN = (receipts.c.receipt_id, receipts.c.leaf, receipts.c.salt, receipts.c.leaf_index)


class Prepared:
    """One statement for one kind of database. Values go to the driver as they are: text, bytes, numbers and None only."""

    def __init__(self, statement: ClauseElement, engine: Engine, columns: Sequence[str] | None = None) -> None:
        """columns: which ones an INSERT fills, when not all."""
        compiled = statement.compile(dialect=engine.dialect, column_keys=None if columns is None else list(columns))
        self._sql = str(compiled)
        self._constants = dict(compiled.params)
        self._order: list[str] | None = getattr(compiled, "positiontup", None)

    def run(self, driver: PoolProxiedConnection, values: Mapping[str, Any]) -> Any:
        """Run inside the connection's transaction; returns the driver's cursor. The driver's errors come out as they are."""
        filled = {**self._constants, **values}
        cursor = driver.cursor()
        cursor.execute(self._sql, filled if self._order is None else [filled[name] for name in self._order])
        return cursor
