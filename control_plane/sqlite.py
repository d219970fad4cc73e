"""SQLite: connections that write ahead, transactions that write one after the other.

In: a URL. Out: an engine; a transaction without SQLAlchemy. This module must never name a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, PoolProxiedConnection, create_engine, event

from control_plane.turn import Turn

TURN = "posthuman_turn"
"""The engine's option that holds whose turn it is to write; none for a database in memory."""
_BEGIN = "BEGIN IMMEDIATE"
_PRAGMAS = ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000", "foreign_keys=ON", "wal_autocheckpoint=4000")
"""Of SQLite, for each connection. A call writes ten pages: at its own 1,000 one call in a hundred would wait for the disk."""


def open_sqlite(url: URL) -> Engine:
    """Creates the folder of the file, where there is none.

    It runs in WAL with synchronous NORMAL: a committed row survives kill -9 of any process; a power cut may take the last
    ones, which buyers can hand back (`POST /v1/receipts`) until the order makes another call and uses the number again.
    Transactions that write must begin with `BEGIN IMMEDIATE` (`engine.begin()` does here), so that two workers never read the
    same last sequence.
    """
    options = {}
    if url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        options[TURN] = Turn(Path(f"{url.database}-turn"))
    engine = create_engine(url, connect_args={"timeout": 30.0, "check_same_thread": False}, execution_options=options)

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        # pysqlite would begin transactions by itself, and late; source: SQLAlchemy, SQLite dialect, "Serializable isolation"
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        is_reading = options.get("posthuman_reading", False)
        if options.get("posthuman_durable", False):
            connection.exec_driver_sql("PRAGMA synchronous=FULL")
        connection.exec_driver_sql("BEGIN" if is_reading else _BEGIN)

    return engine


@contextmanager
def in_turn(engine: Engine) -> Iterator[PoolProxiedConnection]:
    """A transaction that writes, on the driver's own connection, committed at the end: SQLAlchemy's takes three times as long as
    SQLite's. Errors are the driver's or the pool's. For an engine that has a `TURN`."""
    with engine.get_execution_options()[TURN], closing(engine.raw_connection()) as driver:
        driver.cursor().execute(_BEGIN)
        yield driver
        engine.dialect.do_commit(driver)  # what does not come here is rolled back when the pool takes its connection back
