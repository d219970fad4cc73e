"""A call: session, access, weights on disk, server, charge and receipt, answer. In this order, and nothing in between.

A stream is charged before the server is asked, since its answer leaves before its receipt.

In: a session, a DID, the request's bytes, and how to ask the server. Out: the answer's bytes with its receipt. This module must
never ask a chain node, and never hand out a whole answer before its receipt is stored.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass

from control_plane.did import Bytes32, Did
from control_plane.errors import NotFound, PosthumanError, Unavailable
from control_plane.flows.services import Services
from control_plane.receipts.receipt import RESPONSE_PREFIX, CallStatus, request_hash, response_hash
from control_plane.receipts.store import Issued, Reservation
from control_plane.serving.access import CallQuestion, may_call
from control_plane.serving.limits import Hold
from control_plane.serving.listing import Listing
from control_plane.serving.sessions import Session


@dataclass(frozen=True)
class Admitted:
    """A session that may call this model now; its weights on disk are the published ones. access_s: what finding out took."""

    session: Session
    listing: Listing
    access_s: float


@dataclass(frozen=True)
class Answer:
    """The exact HTTP body. units: tokens where the task has them, otherwise items. header_length: see `TensorAnswer`."""

    body: bytes
    units_in: int
    units_out: int
    header_length: int | None = None


@dataclass(frozen=True)
class Piece:
    """The exact bytes of one event; units are of the whole call so far."""

    body: bytes
    units_in: int
    units_out: int


@dataclass(frozen=True)
class Called:
    """A whole call. Seconds: asking the server; reserving, hashing, signing and storing."""

    answer: Answer
    issued: Issued
    call_id: str
    server_s: float
    receipt_s: float


@dataclass(frozen=True)
class Ended:
    """How a stream ended: `done`, `cut` by its reader, or `failed` (then `error` says why and nothing was charged)."""

    outcome: str
    units_in: int
    units_out: int
    issued: Issued | None = None
    error: PosthumanError | None = None


def admit(services: Services, session: Session | None, did: Did) -> Admitted:
    """Raises NotFound, Unauthenticated, Forbidden or IntegrityBroken, each with its reason; nothing is charged."""
    began = time.perf_counter()
    listing = services.catalogue.find(did)
    may_call(CallQuestion(session, did, listing, services.clock())).enforce()
    services.catalogue.verify(listing)
    assert session is not None  # noqa: S101  # may_call refused None
    return Admitted(session, listing, time.perf_counter() - began)


def call(services: Services, admitted: Admitted, body: bytes, ask: Callable[[str], Answer]) -> Called:
    """One whole call. `ask` gets the call's id, asks the server, and gives the body that will be sent.

    Charge and receipt are one transaction, after the server has answered: an error of `ask`, whatever it is, was never charged.
    Raises TooMany before anything is done. Again: another call, charged again.
    """
    with services.limits.take(admitted.session):
        return _call(services, admitted, body, ask)


def _call(services: Services, admitted: Admitted, body: bytes, ask: Callable[[str], Answer]) -> Called:
    began = time.perf_counter()
    reservation = begin(services, admitted, body, is_streaming=False)
    asked = time.perf_counter()
    try:
        answer = ask(reservation.call_id)
    except BaseException as error:
        _report(services, admitted, error)
        raise_for_buyers(admitted, error)
        raise
    answered = time.perf_counter()
    digest = response_hash(reservation.salt, answer.body)
    issued = services.store.settle(reservation, response_hash=digest, units_in=answer.units_in, units_out=answer.units_out)
    server_s = answered - asked
    return Called(answer, issued, reservation.call_id, server_s, time.perf_counter() - began - server_s)


def call_streaming(
    services: Services,
    admitted: Admitted,
    body: bytes,
    ask: Callable[[str], Iterator[Piece]],
    last: Callable[[Issued], bytes],
    failed: Callable[[PosthumanError], bytes],
    ended: Callable[[Ended], None],
) -> tuple[str, Iterator[bytes]]:
    """A call answered piece by piece: its id, and its bytes; the caller must close the iterator.

    Returns when the first piece is there, so that a refusal is still a refusal and not a broken stream. `last` renders the end of
    the stream around the receipt; it is not hashed. `failed` renders the end of a stream whose server broke.
    Hashed is what was handed to the connection: of a stream that was cut, the last bytes may not have arrived.
    """
    hold = services.limits.take(admitted.session)
    try:
        reservation = begin(services, admitted, body, is_streaming=True)
        services.store.reserve(reservation)
        stream = _held(hold, _stream(services, admitted, reservation, ask, last, failed, ended))
        next(stream)  # runs to the first piece; from here on closing it reaches `_stream`'s `except GeneratorExit`
    except BaseException:
        hold.give_back()
        raise
    return reservation.call_id, stream


def _held(hold: Hold, stream: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """The stream; its places are given back when it has ended, however it does."""
    with hold:
        yield from stream


def _stream(
    services: Services,
    admitted: Admitted,
    reservation: Reservation,
    ask: Callable[[str], Iterator[Piece]],
    last: Callable[[Issued], bytes],
    failed: Callable[[PosthumanError], bytes],
    ended: Callable[[Ended], None],
) -> Generator[bytes, None, None]:
    hashed = hashlib.sha256(RESPONSE_PREFIX + reservation.salt)
    units, is_sending = (0, 0), False

    def complete(status: CallStatus) -> Issued:
        digest = Bytes32("0x" + hashed.hexdigest())
        return services.store.complete(reservation, response_hash=digest, units_in=units[0], units_out=units[1], status=status)

    try:
        pieces = ask(reservation.call_id)
        piece = next(pieces, None)
    except BaseException as error:
        give_back(services, admitted, reservation, error)
        raise_for_buyers(admitted, error)
        raise
    try:
        yield b""
        while piece is not None:
            units = (piece.units_in, piece.units_out)
            hashed.update(piece.body)
            is_sending = True
            yield piece.body
            piece = next(pieces, None)
        issued = complete(CallStatus.DONE)
    except GeneratorExit:  # the reader went away; what it has of the answer has a receipt, and is charged
        _close(pieces)
        if is_sending:
            ended(Ended("cut", *units, issued=complete(CallStatus.CUT)))
        else:
            services.store.release(reservation)
        raise
    except PosthumanError as error:  # the server broke, or the receipt could not be stored: nothing is charged
        with suppress(PosthumanError):
            give_back(services, admitted, reservation, error)
        ended(Ended("failed", *units, error=error))
        yield failed(error)
        return
    except BaseException as error:
        give_back(services, admitted, reservation, error)
        raise
    ended(Ended("done", *units, issued=issued))
    yield last(issued)


def begin(services: Services, admitted: Admitted, body: bytes, is_streaming: bool) -> Reservation:
    session, listing, salt = admitted.session, admitted.listing, services.store.new_salt()
    return services.store.begin(
        token_hash=session.token_hash,
        did=listing.did,
        model_digest=listing.model_digest,
        consumer=session.wallet,
        order=session.order,
        request_hash=request_hash(salt, body),
        salt=salt,
        is_streaming=is_streaming,
    )


def give_back(services: Services, admitted: Admitted, reservation: Reservation, error: BaseException) -> None:
    _report(services, admitted, error)
    services.store.release(reservation)


def _report(services: Services, admitted: Admitted, error: BaseException) -> None:
    """A note to the log keeper when the model's process has died: only a new load brings it back."""
    if isinstance(error, Unavailable) and error.code == "backend_crashed":
        services.catalogue.report_crash(admitted.listing)


def raise_for_buyers(admitted: Admitted, error: BaseException) -> None:
    """A model on sale that the server has not loaded is no unknown model: the server has just been started, and is being filled."""
    if isinstance(error, NotFound):
        raise Unavailable(f"{admitted.listing.did}: the model is being loaded", code="model_not_loaded") from error


def _close(pieces: Iterator[Piece]) -> None:
    """Stop the computation: closing our iterator closes the server's."""
    if isinstance(pieces, Generator):
        pieces.close()
