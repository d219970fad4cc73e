"""Compute several generations in turns, one token each, so that a long one never keeps the others waiting.

In: generations and where their pieces go. Out: calls of `deliver`, `fail` and `is_cancelled`, all from one thread of ours.
This module must never know of Triton.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from generate.generation import Piece

_CLOSE_TIMEOUT_S = 5.0


class TooBusy(Exception):
    """Nobody must act: try again. Nothing was computed."""


class Listener(Protocol):
    """Whoever asked. `deliver` gets the pieces in order; after `fail` nothing follows. One that raises is heard no more."""

    def is_cancelled(self) -> bool: ...

    def deliver(self, piece: Piece) -> None: ...

    def fail(self, error: BaseException) -> None: ...


class Cancelled(Exception):
    """The caller has gone."""


class Turns:
    """One thread, at most `most_active` generations in memory (each holds its keys and values); the rest wait, first come first."""

    def __init__(self, *, most_active: int, most_waiting: int) -> None:
        self._most_active, self._most_waiting = most_active, most_waiting
        self._waiting: deque[tuple[Iterator[Piece | None], Listener]] = deque()
        self._active: deque[tuple[Iterator[Piece | None], Listener]] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="turns", daemon=True)
        self._thread.start()

    def add(self, pieces: Iterator[Piece | None], listener: Listener) -> None:
        """Raises TooBusy when the queue is full or closed."""
        with self._changed:
            if self._is_closed or len(self._waiting) >= self._most_waiting:
                raise TooBusy(f"{len(self._waiting)} calls are waiting for this model")
            self._waiting.append((pieces, listener))
            self._changed.notify()

    def close(self) -> None:
        """Fail what is not finished, and end the thread. Again: does nothing.

        Waits for the token that is being computed, but not for ever: a listener may hang when the server was killed.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._active and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    unfinished = [*self._active, *self._waiting]
                    break
                while self._waiting and len(self._active) < self._most_active:
                    self._active.append(self._waiting.popleft())
            pieces, listener = self._active.popleft()
            if self._take_turn(pieces, listener):
                self._active.append((pieces, listener))
        for _, listener in unfinished:
            _fail(listener, TooBusy("the model is being unloaded"))

    def _take_turn(self, pieces: Iterator[Piece | None], listener: Listener) -> bool:
        """Compute one token; return whether more are to come."""
        try:
            if listener.is_cancelled():
                raise Cancelled
            piece = next(pieces)
            if piece is not None:
                listener.deliver(piece)
        # Whatever it is, it ends this generation and no other. A panic in the tokenizer's Rust is no Exception, and would end the
        # thread: all later calls would wait for ever.
        except BaseException as error:
            _fail(listener, error)
            return False
        return piece is None or not piece.finish_reason


def _fail(listener: Listener, error: BaseException) -> None:
    with suppress(Exception):  # whoever asked cannot even be told: its way back is gone, and the others' turns must go on
        listener.fail(error)
