"""Tells callers what was computed while the next token is being computed.

In: pieces from the engine. Out: calls of each caller's `Line`, from one thread of ours, in the order in which they came. This
module must never keep the engine waiting, know of Triton, or let one caller's failure reach another.

A response takes nearly half a millisecond of a token, most of it waiting for the server; the engine's next step runs without
Python's lock meanwhile. Whether the caller is still there the engine asks itself, before each step: asked from here it would be
known a token later.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

from generate.generation import Piece

BEAT_S = 0.1
"""Between two signs of life. Triton 2.51 finds out that a caller has gone when it writes to the connection, and not before: what is
answered in one piece would be computed to its end for nobody."""
_CLOSE_TIMEOUT_S = 5.0


class Line(Protocol):
    """To one caller. Any of these may raise; then the call ends, and nobody is told."""

    def say(self, pieces: Sequence[Piece]) -> None:
        """One response for all of these; none is a sign of life. After one with a finish_reason nothing follows."""

    def fail(self, error: BaseException) -> None:
        """Nothing follows."""

    def is_cut(self) -> bool: ...


class Teller:
    """One thread for all answers of a model."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Answer | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="teller", daemon=True)
        self._thread.start()

    def add(self, answer: Answer) -> None:
        """Its `tell` is called soon."""
        self._waiting.put(answer)

    def close(self) -> None:
        """What was added is told first, but not for ever: a server that was killed takes nothing. Again: does nothing."""
        self._waiting.put(None)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (answer := self._waiting.get()) is not None:
            answer.tell()


class Answer:
    """One call's, as the engine's `Listener`. Its pieces may go out together: who falls behind must not fall behind further."""

    def __init__(
        self, line: Line, teller: Teller, *, is_streamed: bool, has_beats: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """is_streamed: each piece goes out, else all with the last. has_beats: a sign of life each BEAT_S, where nothing is said.
        clock: seconds that only pass.
        """
        self._line, self._teller, self._is_streamed, self._clock = line, teller, is_streamed, clock
        self._beat_at = clock() + BEAT_S if has_beats else math.inf
        self._pieces: deque[Piece] = deque()
        self._error: BaseException | None = None
        self._broken: BaseException | None = None
        self._is_over = False

    def is_cancelled(self) -> bool:
        """Raises what went wrong when the caller was asked, or told something."""
        if self._broken is not None:
            raise self._broken
        if self._clock() >= self._beat_at:
            self._teller.add(self)
        return self._line.is_cut()

    def deliver(self, piece: Piece) -> None:
        self._pieces.append(piece)
        if self._is_streamed or piece.finish_reason:
            self._teller.add(self)

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._teller.add(self)

    def tell(self) -> None:
        """Say what has come since the last time, if it is time to. Raises nothing."""
        if self._is_over:
            return
        error = self._error  # looked at first: what was delivered before it is among the pieces then
        try:
            pieces = self._taken()
            if pieces or self._clock() >= self._beat_at:
                self._line.say(pieces)
                self._beat_at = max(self._beat_at, self._clock() + BEAT_S)
            self._is_over = bool(pieces and pieces[-1].finish_reason)
        except BaseException as fault:  # it ends this call and no other
            self._broken = error = fault
        if error is not None and not self._is_over:
            self._is_over = True
            with suppress(BaseException):  # nothing more can be told
                self._line.fail(error)

    def _taken(self) -> list[Piece]:
        """Pieces that may go out; none of a call that is not streamed before its last."""
        pieces: list[Piece] = []
        while self._pieces and (self._is_streamed or self._pieces[-1].finish_reason):
            pieces.append(self._pieces.popleft())
        return pieces
