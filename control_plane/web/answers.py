"""How a call's answer leaves: its bytes, its receipt in a header or at the end of a stream, its times.

In: what `flows/call.py` gives. Out: Flask responses. This module must never change a byte that was hashed.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator

from flask import Response

from control_plane.errors import PosthumanError
from control_plane.flows.call import Admitted, Answer, Called, Ended, Piece, call, call_streaming
from control_plane.flows.services import Services
from control_plane.receipts.store import Issued
from control_plane.web.errors import error_body
from control_plane.web.journal import CALLS, STAGE, UNITS, Journal

RECEIPT_HEADER = "X-Posthuman-Receipt"
CALL_HEADER = "X-Posthuman-Call"
LENGTH_HEADER = "Inference-Header-Content-Length"
_encode = json.JSONEncoder(separators=(",", ":")).encode


def receipt_header(issued: Issued) -> str:
    """base64url without padding of the envelope's JSON: about 2 KB."""
    return urlsafe_b64encode(_encode(issued.to_json()).encode()).rstrip(b"=").decode("ascii")


def event(record: str) -> bytes:
    """One server-sent event."""
    return b"data: " + record.encode("utf-8") + b"\n\n"


class Answering:
    """Answers calls of one surface, and tells the journal."""

    def __init__(self, services: Services, journal: Journal, surface: str) -> None:
        self._services, self._journal, self._surface = services, journal, surface

    def whole(self, admitted: Admitted, body: bytes, ask: Callable[[str], Answer]) -> Response:
        called = call(self._services, admitted, body, ask)
        answer = called.answer
        response = Response(
            answer.body, mimetype="application/json" if answer.header_length is None else "application/octet-stream"
        )
        if answer.header_length is not None:
            response.headers[LENGTH_HEADER] = str(answer.header_length)
        response.headers[RECEIPT_HEADER] = receipt_header(called.issued)
        response.headers[CALL_HEADER] = called.call_id
        response.headers["Server-Timing"] = _timing(admitted, called)
        STAGE.labels("access").observe(admitted.access_s)
        STAGE.labels("server").observe(called.server_s)
        STAGE.labels("receipt").observe(called.receipt_s)
        self._tell(admitted, called.call_id, Ended("done", answer.units_in, answer.units_out, called.issued))
        return response

    def stream(
        self,
        admitted: Admitted,
        body: bytes,
        ask: Callable[[str], Iterator[Piece]],
        last: Callable[[str, Issued], bytes],
        path: str,
    ) -> Response:
        """`last(call id, issued)` renders the end of a good stream; a broken one ends with the surface's error object."""
        known: list[str] = []

        def asking(call_id: str) -> Iterator[Piece]:
            known.append(call_id)
            return ask(call_id)

        def failed(error: PosthumanError) -> bytes:
            return event(error_body(error, path).decode())

        def ended(how: Ended) -> None:
            self._tell(admitted, known[0], how)

        call_id, pieces = call_streaming(
            self._services, admitted, body, asking, lambda issued: last(known[0], issued), failed, ended
        )
        response = Response(pieces, mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the pieces back
        response.headers[CALL_HEADER] = call_id
        response.headers["Server-Timing"] = f"access;dur={admitted.access_s * 1000:.3f}"
        return response

    def _tell(self, admitted: Admitted, call_id: str, how: Ended) -> None:
        CALLS.labels(self._surface, how.outcome).inc()
        UNITS.labels("in").inc(how.units_in)
        UNITS.labels("out").inc(how.units_out)
        receipt = how.issued.signed.receipt if how.issued else None
        self._journal.note(
            "call",
            surface=self._surface,
            outcome=how.outcome,
            call=call_id,
            did=admitted.listing.did,
            order=admitted.session.order,
            sequence=receipt.sequence if receipt else None,
            receipt=how.issued.id if how.issued else None,
            units_in=how.units_in,
            units_out=how.units_out,
            ms=receipt.finished_at - receipt.started_at if receipt else None,
            why=how.error.code if how.error else None,
        )


def _timing(admitted: Admitted, called: Called) -> str:
    """`Server-Timing` (W3C): milliseconds of each stage, for browsers' and load generators' own tools."""
    stages = {"access": admitted.access_s, "triton": called.server_s, "receipt": called.receipt_s}
    return ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages.items())
