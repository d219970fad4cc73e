"""What is said of each admitted call: one line in the journal, a few numbers in the metrics.

In: an admitted call, how it went. Out: nothing that a caller sees. This module must never see a body.

It stands on the way of every call, so it costs microseconds: `bench/telling.py` measures how many.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from control_plane.errors import PosthumanError
from control_plane.flows.call import Admitted, Called, Ended
from control_plane.serving.request_ids import asked
from control_plane.web.errors import place_of
from control_plane.web.journal import Journal, Said
from control_plane.web.metrics import meter


class Telling:
    """One call, from its admission to its end."""

    def __init__(self, journal: Journal, surface: str, admitted: Admitted) -> None:
        self._journal, self._surface, self._admitted = journal, surface, admitted
        self._asked = asked()
        self._meter = meter(surface, admitted.listing.task)
        self._meter.begin()
        self._times: dict[str, Said] = {"access_ms": _ms(admitted.access_s)}
        self._piece_at = 0.0

    def answered(self, called: Called) -> None:
        """A whole answer is ready."""
        answer = called.answer
        self._times.update(server_ms=_ms(called.server_s), receipt_ms=_ms(called.receipt_s))
        self._meter.stages(self._admitted.access_s, called.server_s, called.receipt_s)
        self.ended(called.call_id, Ended("done", answer.units_in, answer.units_out, called.issued))

    def failed(self, error: BaseException) -> None:
        """There is no answer, and was no piece of one."""
        is_refused = isinstance(error, PosthumanError) and error.status < 500
        self.ended(None, Ended("refused" if is_refused else "failed", 0, 0, error=_ours(error)))

    def pieces(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The stream as the web server reads it, from now on, when its first piece is there."""
        self._piece_at = time.perf_counter()
        seconds = self._piece_at - self._asked.began
        self._times["first_ms"] = _ms(seconds)
        self._meter.first_piece(seconds)
        return _Timed(pieces, self)

    def next_piece(self) -> None:
        now = time.perf_counter()
        self._meter.next_piece(now - self._piece_at)
        self._piece_at = now

    def broke(self, error: Exception) -> None:
        """Something of ours failed in the middle of a stream; only its kind and place are told."""
        self._journal.note("error", request=self._asked.id, kind=type(error).__name__, where=place_of(error))
        self.ended(None, Ended("failed", 0, 0, error=_ours(error)))

    def left(self) -> None:
        """The web server has done with a stream; perhaps before it read anything of it, and then nothing was charged."""
        if not self._asked.is_told:
            self.ended(None, Ended("cut", 0, 0))

    def ended(self, call_id: str | None, how: Ended) -> None:
        """Once a call, whoever learns of it first."""
        seconds = time.perf_counter() - self._asked.began
        self._asked.is_told = True
        self._meter.end(how.outcome, how.units_in, how.units_out, seconds)
        listing, error = self._admitted.listing, how.error
        issued = how.issued
        self._journal.note(
            "call",
            request=self._asked.id,
            surface=self._surface,
            task=listing.task,
            outcome=how.outcome,
            call=call_id,
            did=listing.did,
            order=self._admitted.session.order,
            sequence=issued.signed.receipt.sequence if issued else None,
            receipt=issued.id if issued else None,
            units_in=how.units_in,
            units_out=how.units_out,
            ms=_ms(seconds),
            **self._times,
            status=error.status if error else None,
            code=error.code if error else None,
            why=error.message if error and error.status >= 500 else None,
        )


class _Timed(Iterator[bytes]):
    """Pieces with the times between them. The first was there before it was asked for."""

    def __init__(self, pieces: Iterator[bytes], telling: Telling) -> None:
        self._pieces, self._telling = pieces, telling
        self._is_first, self._is_closed = True, False

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except Exception as error:
            if isinstance(error, StopIteration):
                self.close()
                raise
            self._telling.broke(error)
            raise PosthumanError("a stream broke here") from None  # web servers log what is raised, with its text
        if self._is_first:
            self._is_first = False
        else:
            self._telling.next_piece()
        return piece

    def close(self) -> None:
        """Again: does nothing."""
        if not self._is_closed:
            self._is_closed = True
            try:
                close = getattr(self._pieces, "close", None)
                if close is not None:
                    close()
            finally:
                self._telling.left()


def _ours(error: BaseException) -> PosthumanError:
    return error if isinstance(error, PosthumanError) else PosthumanError("something broke here")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
