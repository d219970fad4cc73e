"""PostgreSQL: connections that wait for nothing for ever, and locks by name.

In: a URL. Out: an engine; a lock that ends with its transaction. This module must never name a table, and never show a URL: a
password may be in it.

Transactions see what others have committed before each statement (READ COMMITTED, whatever the server's own default is). Where two
must not do the same at once, the first statement takes a lock by name (`take_alone`), and those after it see what the one before
has left. SERIALIZABLE was measured against it: see DECISIONS.md, "who writes alone on PostgreSQL".
"""

from __future__ import annotations

import hashlib

from sqlalchemy import URL, Connection, Engine, create_engine, event

from control_plane.errors import BadInput

SETTING = "POSTHUMAN_DATABASE_URL"
CONNECTIONS = 15
"""Of one process, kept open: a new one costs some milliseconds. A server allows a hundred by itself."""
_LONGEST_WAITS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""What libpq is told, where the URL says nothing else: a machine that has vanished is noticed within a minute."""
_SESSION = "-c lock_timeout=30s -c idle_in_transaction_session_timeout=20s"
"""A process that stands still in a transaction, or whose machine has vanished, loses its locks before those who wait for them give
up. Ours are over in milliseconds. Comes before the URL's own `options`, so that those win."""


def open_postgresql(url: URL) -> Engine:
    """Raises BadInput where the driver is not psycopg, or is not installed. Connects to nothing yet.

    Each connection is asked for a sign of life before it is used, so that a server's restart costs the transactions it broke and
    no more.
    """
    if url.get_driver_name() != "psycopg":
        raise BadInput(SETTING, "postgresql:// or postgresql+psycopg://", url.drivername)
    told = {name: value for name, value in _LONGEST_WAITS.items() if name not in url.query}
    told["options"] = " ".join((_SESSION, *_texts(url.query.get("options", ()))))
    told.setdefault("application_name", str(url.query.get("application_name", "posthuman")))
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_size=CONNECTIONS,
            max_overflow=0,
            isolation_level="READ COMMITTED",
            connect_args=told,
        )
    except ModuleNotFoundError as error:
        expected = "psycopg installed: .venv/bin/pip install -c constraints/main.txt '.[postgresql]'"
        raise BadInput(SETTING, expected, f"no module {error.name}") from error

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        if connection.get_execution_options().get("posthuman_durable", False):
            # a server that was told not to wait for its disk waits for this one; the journal brings all before it down too
            connection.exec_driver_sql(
                "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
            )

    return engine


def take_alone(connection: Connection, name: str) -> None:
    """Wait until no other transaction has the lock of this name, and have it to this one's end.

    Names are told apart by 8 bytes of their SHA-256: two that met would wait for each other, and nothing else.
    A statement of its own, since what follows must see what the last holder has committed.
    """
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (number,))


def _texts(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
