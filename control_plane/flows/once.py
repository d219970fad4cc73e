"""A call that is done once, however often it is sent: the same name and the same bytes give the same answer and one charge.

In: a session, a call that its buyer has named. Out: the answer that was given before, or a call that is kept. This module must
never ask the server for a call whose answer is kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress

from control_plane.did import Bytes32
from control_plane.errors import PosthumanError, Unavailable
from control_plane.flows.call import Admitted, Answer, Called, begin, give_back, raise_for_buyers
from control_plane.flows.services import Services
from control_plane.receipts.kept import KeptAnswer, Once
from control_plane.receipts.receipt import response_hash
from control_plane.serving.sessions import Session

_PREFIX = b"posthuman/once/v1\0"


def once(services: Services, key: str, *sent: bytes) -> Once:
    """sent: all that makes two calls the same one, the body last."""
    parts = b"".join(len(part).to_bytes(8, "big") + part for part in sent)
    settings = services.settings
    fingerprint = Bytes32("0x" + hashlib.sha256(_PREFIX + parts).hexdigest())
    return Once(key, fingerprint, settings.idempotency_kept_s, settings.idempotency_max_bytes)


def answered_before(services: Services, session: Session, asked: Once) -> Called | None:
    """What the first call under this name was answered, byte for byte; None when this is the first. Nothing is charged.

    Raises Conflict (see `kept.find`), Unavailable (the receipt is not there: a power cut has lost it).
    """
    kept = services.store.kept_answer(session.order, asked)
    if kept is None:
        return None
    issued = services.store.receipt_of_call(kept.call_id)
    if issued is None:
        raise Unavailable(f"call {kept.call_id}: its receipt is not here")
    receipt = issued.signed.receipt
    answer = Answer(kept.body, receipt.units_in, receipt.units_out, kept.header_length)
    return Called(answer, issued, kept.call_id, 0.0, 0.0)


def call_once(services: Services, admitted: Admitted, body: bytes, ask: Callable[[str], Answer], asked: Once) -> Called:
    """One whole call under its buyer's name. The name is taken with the charge, before the server is asked, so that of two that are
    sent at the same moment one is computed; the answer is kept with the receipt, in one transaction.

    An error of `ask` gives charge and name back. Raises TooMany before anything is done, Conflict as `answered_before`.
    Again: Conflict; the answer is there for `answered_before`.
    """
    with services.limits.take(admitted.session):
        began = time.perf_counter()
        reservation = begin(services, admitted, body, is_streaming=False)
        try:
            services.store.reserve(reservation, asked)
        except Unavailable:  # it may have been done: then nobody would ever free the name
            with suppress(PosthumanError):
                services.store.release(reservation)
            raise
        sent = time.perf_counter()
        try:
            answer = ask(reservation.call_id)
        except BaseException as error:
            give_back(services, admitted, reservation, error)
            raise_for_buyers(admitted, error)
            raise
        server_s = time.perf_counter() - sent
        try:
            issued = services.store.complete(
                reservation,
                response_hash=response_hash(reservation.salt, answer.body),
                units_in=answer.units_in,
                units_out=answer.units_out,
                kept=(asked, KeptAnswer(reservation.call_id, answer.body, answer.header_length)),
            )
        except PosthumanError:  # no receipt, so no answer and no charge; or all of it, and the name has the answer
            with suppress(PosthumanError):
                services.store.release(reservation)
            raise
        return Called(answer, issued, reservation.call_id, server_s, time.perf_counter() - began - server_s)
