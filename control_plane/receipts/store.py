"""Stores calls and receipts: a call becomes exactly one receipt and one charge, or leaves neither.

In: the facts of a call, before and after Triton answers. Out: signed receipts, durable before they are returned. This module must
never ask a chain node or Triton anything.

A call whose answer is handed out whole: `begin`, then `settle` (charge and receipt in one transaction). Of one that ends early
nothing is stored. A call that hands out something before its end: `begin`, `reserve` (one charge taken, a row in `calls`), then
`complete` (the row becomes a receipt) or `release` (the row and the charge go back). What a killed process leaves in `calls` is
closed by `reap`.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Select, select

from control_plane.database import SILENT, calls, kind_of, reading, receipts, silence, take_turn, writing, writing_plainly
from control_plane.did import ZERO_BYTES32, Address, Bytes32, Did, TransactionHash, UnixMillis
from control_plane.errors import BadInput, Conflict, NotFound, Unavailable
from control_plane.receipts.kept import KeptAnswer, Once, claim, find, forget, keep, sweep
from control_plane.receipts.receipt import FIRST_PREVIOUS, CallStatus, Issued, Receipt, SignedReceipt, leaf_bytes, leaf_id
from control_plane.receipts.rows import Reservation, call_row, issued_of, receipt_row, refusal_of, reservation_of
from control_plane.receipts.signing import ReceiptSigner, recover_signer
from control_plane.receipts.standing import Standing, look
from control_plane.receipts.statements import (
    ADD_RECEIPT,
    CLOSE_CALL,
    GIVE_BACK,
    LAST_OF_ORDER,
    OPEN_CALL,
    RECEIPT_COLUMNS,
    SESSION_NOW,
    SHOWN,
    TAKE_CHARGE,
    Prepared,
)

_Opened = TypeVar("_Opened")
__all__ = ["Issued", "Reaped", "ReceiptStore", "Reservation"]

SALT_BYTES = 32


@dataclass(frozen=True)
class Reaped:
    """What `reap` closed: streams that became receipts with status CUT, and calls whose charge went back."""

    cut: int
    released: int


class ReceiptStore:
    """Calls and receipts of one operator, over a shared database; safe in several threads and several processes at once."""

    def __init__(
        self,
        engine: Engine,
        signer: ReceiptSigner,
        *,
        worker: str,
        merge_delay_s: int,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """worker: this process's name as `Worker` gives it, so that `reap` can tell whose calls are orphans.

        merge_delay_s: each receipt promises to be in an anchored log this long after its call; seconds.
        """
        self._engine, self._reader = engine, reading(engine)
        self._signer, self._worker = signer, worker
        self._merge_delay_ms = merge_delay_s * 1000
        self._clock, self._random_bytes = clock, random_bytes
        self._take_charge, self._give_back = Prepared(TAKE_CHARGE, engine), Prepared(GIVE_BACK, engine)
        self._open_call, self._close_call = Prepared(OPEN_CALL, engine), Prepared(CLOSE_CALL, engine)
        self._session_now = Prepared(SESSION_NOW, engine)
        self._last_of_order, self._add_receipt = Prepared(LAST_OF_ORDER, engine), Prepared(ADD_RECEIPT, engine, RECEIPT_COLUMNS)
        driver = engine.dialect.loaded_dbapi
        self._taken, self._silent = driver.IntegrityError, (driver.OperationalError, driver.InternalError, *SILENT)

    def new_salt(self) -> bytes:
        """32 random bytes for one call's request and response hashes."""
        return self._random_bytes(SALT_BYTES)

    def begin(
        self,
        *,
        token_hash: str,
        did: Did,
        model_digest: Bytes32,
        consumer: Address,
        order: TransactionHash,
        request_hash: Bytes32,
        salt: bytes,
        is_streaming: bool,
        started_at: UnixMillis | None = None,
    ) -> Reservation:
        """A call that begins now. Nothing is stored or charged yet."""
        return Reservation(
            call_id=self._random_bytes(16).hex(),
            token_hash=token_hash,
            did=did,
            model_digest=model_digest,
            consumer=consumer,
            order=order,
            request_hash=request_hash,
            salt=salt,
            started_at=UnixMillis(int(self._clock() * 1000)) if started_at is None else started_at,
            is_streaming=is_streaming,
        )

    def reserve(self, reservation: Reservation, once: Once | None = None) -> None:
        """Take one call from the order's quota and note that the call is under way, in one transaction. once: its buyer's name for
        it, taken with the charge.

        Raises Conflict when the name is taken (see `kept.claim`), Unauthenticated (the session is unknown, revoked or expired),
        Forbidden with code `quota_exhausted`, Unavailable (the database is busy or full; nothing was charged).
        Again: a call's id is taken once, so it raises.
        """
        with self._writing("reserve a call", reservation.order) as connection:
            if once is not None:
                claim(connection, reservation.order, once, reservation.call_id, self._clock())
            driver = connection.connection
            self._charge(driver, reservation)
            self._open_call.run(driver, call_row(reservation, self._worker))

    def settle(
        self,
        reservation: Reservation,
        *,
        response_hash: Bytes32,
        units_in: int,
        units_out: int,
        finished_at: UnixMillis | None = None,
    ) -> Issued:
        """Charge a call that was never reserved and turn it into a signed receipt, committed before it is returned.

        Raises as `reserve` and `complete` do: then there is neither charge nor receipt, and nothing may be answered. After
        Unavailable there may be both, when only the database's own answer was lost. Again: raises Unavailable for the same call.
        """

        def work(driver: PoolProxiedConnection) -> Issued:
            self._charge(driver, reservation)
            return self._issue(driver, reservation, response_hash, units_in, units_out, CallStatus.DONE, finished_at)

        return self._storing(reservation, self._writing_plainly, work)

    def complete(
        self,
        reservation: Reservation,
        *,
        response_hash: Bytes32,
        units_in: int,
        units_out: int,
        status: CallStatus = CallStatus.DONE,
        finished_at: UnixMillis | None = None,
        kept: tuple[Once, KeptAnswer] | None = None,
    ) -> Issued:
        """Turn a reserved call into a signed receipt, committed before it is returned. kept: of a call that was reserved under a
        name, its answer, stored with the receipt.

        Sequence and previous are read, the receipt signed and stored in one write transaction, so an order's receipts have no gap.
        Raises Conflict when the call is no longer reserved (completed, released or reaped), Unavailable when the database does not
        answer. Again: Conflict; the first receipt stands.
        """

        def work(connection: Connection) -> Issued:
            driver = connection.connection
            if self._close_call.run(driver, {"call": reservation.call_id}).rowcount != 1:
                raise Conflict(f"call {reservation.call_id} is not under way: it was completed, released or reaped before")
            if kept is not None:
                keep(connection, *kept)
            return self._issue(driver, reservation, response_hash, units_in, units_out, status, finished_at)

        return self._storing(reservation, self._writing, work)

    def append(
        self, connection: Connection, reservation: Reservation, *, response_hash: Bytes32, units_in: int, units_out: int
    ) -> Issued:
        """Sign and store a receipt inside somebody else's transaction, of what was paid for otherwise: it charges nothing.

        Raises Unavailable when the database does not answer, or the call has its receipt: the transaction must be undone then.
        Again: raises, when the first time was committed.
        """
        try:
            take_turn(connection, _turn_of(reservation.order))
            return self._issue(connection.connection, reservation, response_hash, units_in, units_out, CallStatus.DONE, None)
        except (self._taken, *self._silent) as error:
            raise Unavailable(f"could not store the receipt of {reservation.call_id} ({kind_of(error)})") from error

    def release(self, reservation: Reservation) -> bool:
        """Give the charge back and forget the call. Again: does nothing; returns whether there was something to give back."""
        with self._writing("release a call", reservation.order) as connection:
            return self._release(connection, reservation)

    def reap(self, is_alive: Callable[[str], bool]) -> Reaped:
        """Close the calls of workers that are gone: a stream gets a receipt with status CUT, any other call its charge back.

        A stream may have reached its buyer in part, which is what CUT says; its response hash is zero, for nobody has the bytes.
        A whole answer is sent only after `complete`, so a call without a receipt was never answered. Again: closes nothing twice.
        """
        with self._reader.connect() as connection:
            rows = connection.execute(select(calls)).all()
        alive = {name: is_alive(name) for name in {row.worker for row in rows}}
        cut = released = 0
        for row in rows:
            if alive[row.worker]:
                continue
            reservation = reservation_of(row)
            if not reservation.is_streaming:
                released += self.release(reservation)
                continue
            try:
                self.complete(reservation, response_hash=ZERO_BYTES32, units_in=0, units_out=0, status=CallStatus.CUT)
                cut += 1
            except Conflict:
                continue
        return Reaped(cut, released)

    def receipt(self, identity: Bytes32) -> Issued:
        """Raises NotFound when no receipt has this id."""
        with self._reader.connect() as connection:
            row = connection.execute(select(*SHOWN).where(receipts.c.receipt_id == identity)).first()
        if row is None:
            raise NotFound(f"no receipt has the id {identity}")
        return issued_of(row)

    def receipt_of_call(self, call_id: str) -> Issued | None:
        """The receipt that a call became: for a buyer whose stream broke before its end. None while there is none."""
        with self._reader.connect() as connection:
            row = connection.execute(select(*SHOWN).where(receipts.c.call_id == call_id)).first()
        return None if row is None else issued_of(row)

    def receipts_of(
        self, *, order: TransactionHash | None = None, consumer: Address | None = None, from_sequence: int = 0, limit: int = 100
    ) -> tuple[Issued, ...]:
        """Receipts of an order by sequence, or of a consumer by time of storing; oldest first, at most `limit`."""
        chosen: Select[Any] = select(*SHOWN).where(receipts.c.sequence >= from_sequence).limit(limit)
        if order is not None:
            chosen = chosen.where(receipts.c.order_tx == order).order_by(receipts.c.sequence)
        elif consumer is None:
            raise BadInput("receipts", "an order or a consumer to list", "neither")
        else:
            chosen = chosen.order_by(receipts.c.position)
        if consumer is not None:
            chosen = chosen.where(receipts.c.consumer == consumer)
        with self._reader.connect() as connection:
            return tuple(issued_of(row) for row in connection.execute(chosen))

    def readmit(self, signed: SignedReceipt, salt: bytes) -> Issued:
        """Take back a receipt of ours that a power cut lost: the buyer's copy is as good as the one that was here.

        Raises BadInput (not our chain, log or signature), Conflict (its sequence holds another receipt, or it is here with another
        salt than was given). Again: returns the stored receipt.
        """
        if len(salt) != SALT_BYTES:
            raise BadInput("salt", f"{SALT_BYTES} bytes", f"{len(salt)} bytes")
        if signed.chain_id != self._signer.chain_id or signed.log != self._signer.log:
            ours = f"{self._signer.log} on chain {self._signer.chain_id}"
            raise BadInput("log", ours, f"{signed.log} on chain {signed.chain_id}")
        found = recover_signer(signed)
        if found != self._signer.address:
            raise BadInput("signature", f"one by {self._signer.address}", found)
        leaf = leaf_bytes(signed)
        identity = leaf_id(leaf)
        issued = Issued(signed, salt, identity)
        if (stored := self._same(issued)) is not None:
            return stored
        try:
            with self._writing("readmit a receipt", signed.receipt.order) as connection:
                # a call's id is not in its receipt: the first half of the receipt's own id stands for it, and is as unique
                self._add_receipt.run(connection.connection, receipt_row(issued, leaf, call_id=identity[2:34]))
        except self._taken as error:
            if (stored := self._same(issued)) is not None:
                return stored
            place = f"order {signed.receipt.order}: sequence {signed.receipt.sequence}"
            raise Conflict(f"{place} already holds another receipt than {identity}", code="sequence_taken") from error
        return issued

    def standing(self, log_folder: Path) -> Standing:
        """How far receipts are on their way into the anchored log; see `standing.look`."""
        return look(self._reader, log_folder)

    def kept_answer(self, order: TransactionHash, once: Once) -> KeptAnswer | None:
        """The answer that was given before under this name. Raises Conflict, see `kept.find`."""
        with self._reader.connect() as connection:
            return find(connection, order, once, self._clock())

    def sweep_answers(self) -> int:
        """Forget kept answers that are over, some at a time; how many."""
        with self._writing("forget kept answers") as connection:
            return sweep(connection, self._clock())

    def _storing(
        self,
        reservation: Reservation,
        transaction: Callable[[str, TransactionHash], AbstractContextManager[_Opened]],
        work: Callable[[_Opened], Issued],
    ) -> Issued:
        """Run `work` in one write transaction."""
        try:
            with transaction("store a receipt", reservation.order) as connection:
                return work(connection)
        except self._taken as error:
            raise Unavailable(
                f"call {reservation.call_id} of order {reservation.order} has its receipt", retry_after_s=1
            ) from error

    def _charge(self, driver: PoolProxiedConnection, reservation: Reservation) -> None:
        now = self._clock()
        if self._take_charge.run(driver, {"hashed": reservation.token_hash, "now": now}).rowcount != 1:
            raise refusal_of(self._session_now.run(driver, {"hashed": reservation.token_hash}).fetchone(), now)

    def _issue(
        self,
        driver: PoolProxiedConnection,
        reservation: Reservation,
        response_hash: Bytes32,
        units_in: int,
        units_out: int,
        status: CallStatus,
        finished_at: UnixMillis | None,
    ) -> Issued:
        last = self._last_of_order.run(driver, {"order": reservation.order}).fetchone()
        now = UnixMillis(int(self._clock() * 1000)) if finished_at is None else finished_at
        finished = UnixMillis(max(now, reservation.started_at))  # a clock set back must not make a call end before it began
        signed = self._signer.sign(
            Receipt(
                did=reservation.did,
                model_digest=reservation.model_digest,
                request_hash=reservation.request_hash,
                response_hash=response_hash,
                consumer=reservation.consumer,
                order=reservation.order,
                sequence=0 if last is None else last[0] + 1,
                previous=FIRST_PREVIOUS if last is None else last[1],
                started_at=reservation.started_at,
                finished_at=finished,
                units_in=units_in,
                units_out=units_out,
                status=status,
                merge_by=UnixMillis(finished + self._merge_delay_ms),
            )
        )
        leaf = leaf_bytes(signed)
        issued = Issued(signed, reservation.salt, leaf_id(leaf))
        self._add_receipt.run(driver, receipt_row(issued, leaf, reservation.call_id))
        return issued

    def _release(self, connection: Connection, reservation: Reservation) -> bool:
        driver = connection.connection
        if self._close_call.run(driver, {"call": reservation.call_id}).rowcount != 1:
            return False
        self._give_back.run(driver, {"hashed": reservation.token_hash})
        forget(connection, reservation.call_id)
        return True

    def _same(self, issued: Issued) -> Issued | None:
        """The receipt as it is stored. Leaves are public and salts are not, so only who has the salt is shown it."""
        try:
            stored = self.receipt(issued.id)
        except NotFound:
            return None
        if not hmac.compare_digest(stored.salt, issued.salt):
            raise Conflict(f"receipt {issued.id}: expected the salt that its buyer was given, found another", code="salt_differs")
        return stored

    @contextmanager
    def _writing(self, what: str, order: TransactionHash | None = None) -> Iterator[Connection]:
        """One write transaction, committed at the end; the database's own failures become Unavailable.

        order: whose charges and sequence are read and written; nobody else writes for it meanwhile.
        """
        try:
            with writing(self._engine, alone=None if order is None else _turn_of(order)) as connection:
                yield connection
        except self._silent as error:  # locked for 30 s, disk full, I/O error: rolled back, nothing was charged
            raise silence(what, error) from error

    @contextmanager
    def _writing_plainly(self, what: str, order: TransactionHash) -> Iterator[PoolProxiedConnection]:
        """As `_writing`, for prepared statements only."""
        try:
            with writing_plainly(self._engine, _turn_of(order)) as driver:
                yield driver
        except self._silent as error:  # locked for 30 s, disk full, I/O error: rolled back, nothing was charged
            raise silence(what, error) from error


def _turn_of(order: TransactionHash) -> str:
    """The name under which its charges and receipts are written, one transaction at a time."""
    return f"order {order}"
