"""The database: its tables, and how it is opened.

In: a URL. Out: an SQLAlchemy engine whose transactions are serialised where that matters. This module must never hold a query;
each table's queries live with the part that owns it (catalogue, sessions, receipts).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Delete,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PoolProxiedConnection,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from control_plane.errors import BadInput, Unavailable
from control_plane.postgresql import SETTING, open_postgresql, take_alone
from control_plane.sqlite import TURN, in_turn, open_sqlite

metadata = MetaData()
COUNTED = BigInteger().with_variant(Integer, "sqlite")
"""Of a row's position. SQLite counts up by itself only what is called INTEGER there, and has 64 bits for it."""

models = Table(
    "models",
    metadata,
    Column("did", String(71), primary_key=True),
    Column("name", Text, nullable=False),
    Column("task", String(64), nullable=False),
    Column("entry_name", String(64), nullable=False),
    Column("model_digest", String(66), nullable=False),
    Column("chain_id", BigInteger, nullable=False),
    Column("nft", String(42), nullable=False),
    Column("datatoken", String(42), nullable=False),
    Column("exchange", String(66)),
    Column("publisher", String(42), nullable=False),
    Column("service_index", Integer, nullable=False),
    Column("timeout_s", BigInteger, nullable=False),
    Column("rate", String(78), nullable=False),
    Column("base_token", String(42), nullable=False),
    Column("publish_fee", String(78), nullable=False),
    Column("swap_fee", String(78), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("published_at", Float, nullable=False),
    Column("parity", Text, nullable=False, default="[]"),
    Column("weights_digest", String(66)),
    Column("statement", Text),
)
"""The catalogue. state: `on_sale` or `withdrawn` (then `reason` says why). Amounts are decimal text: uint256 fits no column.
parity: a JSON list, see `Listing`."""

nonces = Table(
    "nonces",
    metadata,
    Column("nonce", String(64), primary_key=True),
    Column("expires_at", Float, nullable=False),
)
"""Nonces that were used; the others are nowhere, for each proves itself. expires_at: seconds since 1970."""
Index("nonces_by_end", nonces.c.expires_at)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("wallet", String(42), nullable=False),
    Column("did", String(71), nullable=False),
    Column("order_tx", String(66), nullable=False),
    Column("order_block", BigInteger, nullable=False),
    Column("order_block_hash", String(66), nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("calls_limit", BigInteger, nullable=False),
    Column("calls_used", BigInteger, nullable=False),
    Column("revoked_at", Float),
    Column("revoked_why", Text, nullable=False, default=""),
)
Index("sessions_of_an_order", sessions.c.order_tx)

calls = Table(
    "calls",
    metadata,
    Column("call_id", String(32), primary_key=True),
    Column("token_hash", String(64), nullable=False),
    Column("did", String(71), nullable=False),
    Column("model_digest", String(66), nullable=False),
    Column("consumer", String(42), nullable=False),
    Column("order_tx", String(66), nullable=False),
    Column("request_hash", String(66), nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("worker", String(64), nullable=False),
    Column("is_streaming", Integer, nullable=False),
)
"""Calls under way: reserved before Triton is asked, gone when the receipt is stored. What a dead worker leaves here is closed by
the log keeper: a stream becomes a receipt with status CUT, a whole call that nobody was answered gives its charge back."""

receipts = Table(
    "receipts",
    metadata,
    Column("position", COUNTED, primary_key=True, autoincrement=True),
    Column("receipt_id", String(66), nullable=False, unique=True),
    Column("call_id", String(32), nullable=False, unique=True),
    Column("order_tx", String(66), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("did", String(71), nullable=False),
    Column("consumer", String(42), nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("leaf_index", BigInteger, unique=True),
    UniqueConstraint("order_tx", "sequence", name="one_receipt_a_sequence"),
)
Index("receipts_waiting", receipts.c.leaf_index, receipts.c.position)


answers = Table(
    "answers",
    metadata,
    Column("order_tx", String(66), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("call_id", String(32), nullable=False, unique=True),
    Column("fingerprint", String(66), nullable=False),
    Column("state", String(16), nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("body", LargeBinary),
    Column("header_length", Integer),
)
"""Calls that carried an Idempotency-Key, `name`. state: `under_way`, `kept` (then `body` is the answer) or `too_long` to be kept.
expires_at: seconds since 1970, when the key may be used anew."""
Index("answers_by_end", answers.c.expires_at)

jobs = Table(
    "jobs",
    metadata,
    Column("position", COUNTED, primary_key=True, autoincrement=True),
    Column("job_id", String(32), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("did", String(71), nullable=False),
    Column("model_digest", String(66), nullable=False),
    Column("owner", String(42), nullable=False),
    Column("payment", String(66), nullable=False),
    Column("held_payment", String(66), unique=True),
    Column("original_order", String(66)),
    Column("dataset_did", String(71)),
    Column("dataset_order", String(66)),
    Column("algorithm_did", String(71), nullable=False),
    Column("algorithm_order", String(66)),
    Column("parameters", Text, nullable=False),
    Column("environment", String(64), nullable=False),
    Column("valid_until", BigInteger, nullable=False),
    Column("paid_s", BigInteger, nullable=False),
    Column("state", String(32), nullable=False),
    Column("reason_code", String(64)),
    Column("reason", Text),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("begun_at", Float),
    Column("finished_at", Float),
    Column("stop_requested_at", Float),
    Column("attempts", Integer, nullable=False),
    Column("worker", String(64)),
    Column("progress", Text),
    Column("result", Text),
    Column("weights_digest", String(66)),
    Column("derived_did", String(71)),
)
"""Compute-to-Data jobs, see `jobs/job.py`. position: the order in which they were asked for. held_payment: `payment` while it is
spent on this job, null once it was given back; that it is unique makes one payment pay for one job at a time."""
Index("jobs_by_state", jobs.c.state, jobs.c.position)
Index("jobs_of_an_owner", jobs.c.owner, jobs.c.position)
Index("jobs_of_a_payment", jobs.c.payment)


evaluations = Table(
    "evaluations",
    metadata,
    Column("finding", String(66), primary_key=True),
    Column("statement_hash", String(66), nullable=False),
    Column("did", String(71), nullable=False),
    Column("evaluator", String(42), nullable=False),
    Column("published_at", Float, nullable=False),
    Column("statement", Text, nullable=False),
)
"""Published evaluations, see `receipts/evaluations.py`. finding: what makes two statements the same record. statement: canonical
JSON."""
Index("evaluations_of_an_asset", evaluations.c.did, evaluations.c.published_at)

user_nonces = Table(
    "user_nonces",
    metadata,
    Column("address", String(42), primary_key=True),
    Column("nonce", Float, nullable=False),
)
"""Of Ocean's clients: the greatest nonce that each checksummed address has used."""

auth_tokens = Table(
    "auth_tokens",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("address", String(42), nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("revoked_at", Float),
)
Index("auth_tokens_by_end", auth_tokens.c.expires_at)

assets = Table(
    "assets",
    metadata,
    Column("did", String(71), primary_key=True),
    Column("nft", String(42), nullable=False, unique=True),
    Column("block", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("orders", BigInteger, nullable=False, default=0),
    Column("refreshed_at", Float, nullable=False),
)
"""Ocean assets whose documents were found on chain and could be read. document: the DDO, JSON. event: who wrote it, where, when.
facts: what the chain said of NFT, datatokens and price at `refreshed_at`; both JSON. block: of the document. orders: the sum of the
asset's `counted_orders`."""
Index("assets_by_age", assets.c.refreshed_at)

replaced_documents = Table(
    "replaced_documents",
    metadata,
    Column("did", String(71), primary_key=True),
    Column("block", BigInteger, primary_key=True),
    Column("replaced_in", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Column("event", Text, nullable=False),
)
"""What stood in `assets` before a later document, as long as the chain may undo that one. replaced_in: the later one's block."""
Index("replaced_documents_by_block", replaced_documents.c.replaced_in)

counted_orders = Table(
    "counted_orders",
    metadata,
    Column("did", String(71), primary_key=True),
    Column("block", BigInteger, primary_key=True),
    Column("count", BigInteger, nullable=False),
)
"""Orders of an asset by block, so that those of undone blocks can be taken back. Block 0 has those from before revision 0007."""
Index("counted_orders_by_block", counted_orders.c.block)

chain_cursor = Table(
    "chain_cursor",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("block", BigInteger, nullable=False),
    Column("block_hash", String(66), nullable=False),
    Column("version", BigInteger, nullable=False),
)
"""How far the chain's events were read. version: grows with each change of `assets`."""


_NO_TURN = nullcontext()


def open_database(url: str) -> Engine:
    """Open a database, as `sqlite.py` or `postgresql.py` says. Does not create tables: `migrate` does. Raises BadInput for another
    kind.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadInput(SETTING, "a URL of SQLAlchemy's form", "something else (not shown)") from error
    if parsed.get_backend_name() == "postgresql":
        return open_postgresql(parsed)
    if parsed.get_backend_name() != "sqlite":
        raise BadInput(SETTING, "sqlite:///PATH or postgresql://...", parsed.drivername)
    return open_sqlite(parsed)


def place_of(url: str) -> str:
    """Which database a URL means, for people: without user, password and options."""
    parsed = make_url(url)
    return f"{parsed.get_backend_name()} database {parsed.database} on {parsed.host or 'this machine'}"


SILENT = (OperationalError, InternalError, PoolTimeout)
"""What a database raises that does not answer, or not as it should: gone, full, locked, read-only, all its connections taken."""


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Raises Unavailable where the database is silent: locked for 30 s, its disk full, gone. A transaction is rolled back then, or
    it was committed and only the answer is lost. what: that was to be done, in the infinitive."""
    try:
        yield
    except SILENT as error:
        raise silence(what, error) from error


def silence(what: str, error: Exception) -> Unavailable:
    return Unavailable(f"could not {what}: the database does not answer ({kind_of(error)})")


def kind_of(error: Exception) -> str:
    """The name of the driver's own error, where there is one: its text is not for everybody."""
    return type(getattr(error, "orig", None) or error).__name__


@contextmanager
def writing(engine: Engine, alone: str | None = None) -> Iterator[Connection]:
    """A transaction that writes, committed at the end. On SQLite those of all processes take turns.

    alone: where several write at once, those of one name take turns there too.
    """
    with engine.get_execution_options().get(TURN, _NO_TURN), engine.begin() as connection:
        if alone is not None:
            take_turn(connection, alone)
        yield connection


def take_turn(connection: Connection, name: str) -> None:
    """Wait until no other transaction has this name's turn; what follows sees what the others have left."""
    if _is_postgresql(connection.engine):
        take_alone(connection, name)


@contextmanager
def writing_plainly(engine: Engine, alone: str) -> Iterator[PoolProxiedConnection]:
    """As `writing`, for who runs prepared text on the driver's own connection. Errors are the driver's or SQLAlchemy's."""
    if TURN in engine.get_execution_options():
        with in_turn(engine) as driver:
            yield driver
    else:
        with writing(engine, alone) as connection:
            yield connection.connection


def reading(engine: Engine) -> Engine:
    """The same database for transactions that only read, each of one moment: they never wait for a writer."""
    options: dict[str, Any] = {"posthuman_reading": True}
    if _is_postgresql(engine):
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    return engine.execution_options(**options)


def durably(engine: Engine) -> Engine:
    """The same database for transactions that must outlive a power cut, and with them everything committed before.

    On SQLite the connection stays that way for its later users, so this is for processes that answer no calls: the log keeper.
    """
    return engine.execution_options(posthuman_durable=True)


def delete_free(key: Column[Any], which: ColumnElement[bool], most: int | None = None) -> Delete:
    """A statement that deletes rows, some of them at a time where `most` says so, for whoever cleans up beside others.

    Rows that another transaction is changing are passed over: two that clean up at once would else wait for each other in a circle.
    key: the column that tells the rows of its table apart.
    """
    chosen = select(key).where(which).limit(most).with_for_update(skip_locked=True)
    return delete(key.table).where(key.in_(chosen))


def _is_postgresql(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"
