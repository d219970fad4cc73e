"""How a call's answer leaves: its bytes, its receipt in a header or at the end of a stream, its times.

In: what `flows/call.py` gives. Out: Flask responses. This module must never change a byte that was hashed.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from flask import Response

from control_plane.errors import BadInput, PosthumanError
from control_plane.fields import Kind
from control_plane.flows.call import Admitted, Answer, Called, Ended, Piece, call, call_streaming
from control_plane.flows.once import call_once
from control_plane.flows.services import Services
from control_plane.receipts.store import Issued
from control_plane.web.errors import error_body
from control_plane.web.journal import Journal
from control_plane.web.sent import sent
from control_plane.web.telling import Telling

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

RECEIPT_HEADER = "X-Posthuman-Receipt"
CALL_HEADER = "X-Posthuman-Call"
LENGTH_HEADER = "Inference-Header-Content-Length"
KEY_HEADER = "Idempotency-Key"


def receipt_header(issued: Issued) -> str:
    """base64url without padding of the envelope's JSON: about 2 KB."""
    return urlsafe_b64encode(issued.json_bytes()).rstrip(b"=").decode("ascii")


def event(record: str) -> bytes:
    """One server-sent event."""
    return b"data: " + record.encode("utf-8") + b"\n\n"


class _InOnePiece(Response):
    """Handed to the WSGI server as a list, which granian sends at once; an iterator goes through its streaming."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        body = self.get_data()
        self.headers["Content-Length"] = str(len(body))
        start_response(self.status, self.headers.to_wsgi_list())
        return [body]


def rendered(called: Called) -> Response:
    """A whole answer with its receipt: the same bytes each time."""
    answer = called.answer
    response = _InOnePiece(answer.body, mimetype="application/json" if answer.header_length is None else "application/octet-stream")
    if answer.header_length is not None:
        response.headers[LENGTH_HEADER] = str(answer.header_length)
    response.headers[RECEIPT_HEADER] = receipt_header(called.issued)
    response.headers[CALL_HEADER] = called.call_id
    return response


class Answering:
    """Answers calls of one surface, and tells the journal."""

    def __init__(self, services: Services, journal: Journal, surface: str) -> None:
        self._services, self._journal, self._surface = services, journal, surface

    def whole(self, admitted: Admitted, body: bytes, ask: Callable[[str], Answer]) -> Response:
        telling = Telling(self._journal, self._surface, admitted)
        named = sent().once
        try:
            if named is None:
                called = call(self._services, admitted, body, ask)
            else:
                called = call_once(self._services, admitted, body, ask, named)
        except BaseException as error:
            telling.failed(error)
            raise
        telling.answered(called)
        response = rendered(called)
        response.headers["Server-Timing"] = _timing(admitted, called)
        return response

    def stream(
        self,
        admitted: Admitted,
        body: bytes,
        ask: Callable[[str], Iterator[Piece]],
        last: Callable[[str, Issued], bytes],
        path: str,
    ) -> Response:
        """`last(call id, issued)` renders the end of a good stream; a broken one ends with the surface's error object.

        Raises BadInput for a call that is to be done once: what was streamed is not kept.
        """
        if sent().once is not None:
            expected = "none where the answer is streamed; the receipt of a stream that broke is found by its call"
            raise BadInput(KEY_HEADER, expected, Kind("one"), code="idempotency_stream")
        telling = Telling(self._journal, self._surface, admitted)
        known: list[str] = []

        def asking(call_id: str) -> Iterator[Piece]:
            known.append(call_id)
            return ask(call_id)

        def failed(error: PosthumanError) -> bytes:
            return event(error_body(error, path).decode())

        def ended(how: Ended) -> None:
            telling.ended(known[0], how)

        try:
            call_id, pieces = call_streaming(
                self._services, admitted, body, asking, lambda issued: last(known[0], issued), failed, ended
            )
        except BaseException as error:
            telling.failed(error)
            raise
        response = Response(telling.pieces(pieces), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the pieces back
        response.headers[CALL_HEADER] = call_id
        response.headers["Server-Timing"] = f"access;dur={admitted.access_s * 1000:.3f}"
        return response


def _timing(admitted: Admitted, called: Called) -> str:
    """`Server-Timing` (W3C): milliseconds of each stage, for browsers' and load generators' own tools."""
    stages = {"access": admitted.access_s, "triton": called.server_s, "receipt": called.receipt_s}
    return ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages.items())
