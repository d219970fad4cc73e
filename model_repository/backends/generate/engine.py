"""Compute many generations at once: each joins between two tokens of the others, and leaves when it ends.

In: generations and where their pieces go. Out: calls of `deliver`, `fail` and `is_cancelled`, all from one thread of ours.
This module must never know of Triton, or of how a model keeps its keys and values.

In each round one call that has come reads a part of its prompt, and every call that is under way gets one token. So a long prompt
never stalls the others, nor a long answer the next one's beginning. A call that is scored reads its text in the same turns, and
ends with the last part of it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from generate.generation import Generation
from generate.listener import Cancelled, Listener, TooBusy, TooLate
from generate.rows import Rows
from generate.scoring import Scoring

_CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Counts:
    """waiting, running: calls now. The others only grow: prompt tokens read, tokens chosen, and calls without an answer: refused,
    for the queue was full or the wait too long; cancelled, for the caller had gone; failed.
    """

    waiting: int
    running: int
    prompt_tokens: int
    tokens: int
    refused: int
    cancelled: int
    failed: int


@dataclass
class _Running:
    """until: when it must have been let in, by the engine's clock."""

    generation: Generation | Scoring
    listener: Listener
    until: float = math.inf
    place: int = -1


class Engine:
    """One thread. Who waits is let in first come first, in turns between callers."""

    def __init__(self, rows: Rows, *, most_waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that only pass."""
        self._rows, self._most_waiting, self._clock = rows, most_waiting, clock
        self._waiting: dict[str, deque[_Running]] = {}
        self._joining: deque[_Running] = deque()
        self._active: list[_Running] = []
        self._changed = threading.Condition()
        self._is_closed = False
        self._prompt_tokens = self._tokens = self._refused = self._cancelled = self._failed = 0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def add(self, generation: Generation | Scoring, listener: Listener, caller: str = "", most_wait_s: float = math.inf) -> None:
        """caller: whoever has several calls waiting lets others' in between, and may fill half of the queue.
        most_wait_s: if it has not been let in by then it fails with TooBusy, and nothing was computed.

        Raises TooBusy when the queue, or the caller's half, is full or closed.
        """
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
            own = len(self._waiting.get(caller, ())) if caller else 0
            if own >= max(1, self._most_waiting // 2):
                self._refused += 1
                raise TooBusy(f"{own} of your calls are waiting for this model")
            if self._is_closed or waiting >= self._most_waiting:
                self._refused += 1
                raise TooBusy(f"{waiting} calls are waiting for this model")
            self._waiting.setdefault(caller, deque()).append(_Running(generation, listener, self._clock() + most_wait_s))
            self._changed.notify()

    def counts(self) -> Counts:
        """As they are now; those of one moment need not fit each other."""
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
        running = len(self._joining) + len(self._active)
        return Counts(waiting, running, self._prompt_tokens, self._tokens, self._refused, self._cancelled, self._failed)

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
                while not self._waiting and not self._joining and not self._active and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    unfinished = [*self._active, *self._joining, *(one for queue in self._waiting.values() for one in queue)]
                    break
                late = self._take_late()
                entering = self._next_entering()
            for one in late:
                self._refused += 1
                _tell(one, TooLate())
            if entering is not None:
                self._enter(entering)
            if self._joining:
                self._begin(self._joining.popleft())
            for start in range(0, len(self._active), self._rows.most_together):
                self._step(self._active[start : start + self._rows.most_together])
            self._active = [one for one in self._active if one.place >= 0]
        for one in unfinished:
            self._fail(one, TooBusy("the model is being unloaded"))

    def _take_late(self) -> list[_Running]:
        """Those that have waited too long; they wait no more."""
        now = self._clock()
        late = [one for queue in self._waiting.values() for one in queue if one.until <= now]
        if late:
            left = {caller: deque(one for one in queue if one.until > now) for caller, queue in self._waiting.items()}
            self._waiting = {caller: queue for caller, queue in left.items() if queue}
        return late

    def _next_entering(self) -> _Running | None:
        """The next to be let in, if there is a place: of the caller whose turn it is."""
        for caller, queue in self._waiting.items():
            if not self._rows.has_place(queue[0].generation.call):
                return None
            one = queue.popleft()
            del self._waiting[caller]
            if queue:
                self._waiting[caller] = queue  # behind the others
            return one
        return None

    def _enter(self, one: _Running) -> None:
        try:
            one.place = self._rows.enter(one.generation.call)
        except BaseException as error:  # as in `_advance`; no memory for its keys and values, for one
            self._fail(one, error)
            return
        self._joining.append(one)

    def _begin(self, one: _Running) -> None:
        """Read a part of the prompt; at its end choose the first token."""
        if self._has_gone(one):
            return
        try:
            logits = self._rows.begin(one.place)
        except BaseException as error:  # as in `_advance`
            self._end(one, error)
            return
        if logits is None:
            self._joining.append(one)
            return
        if one.generation.call.is_scored:
            self._score(one, logits)
            return
        self._prompt_tokens += one.generation.call.prompt_tokens
        if self._advance(one, logits):
            self._active.append(one)

    def _score(self, one: _Running, logits: np.ndarray) -> None:
        """Take the scores of the part that was read; after the last part tell them all."""
        try:
            piece = one.generation.take(logits)
            if piece is not None:
                one.listener.deliver(piece)
        except BaseException as error:  # as in `_advance`
            self._end(one, error)
            return
        if one.generation.is_finished:
            self._prompt_tokens += one.generation.call.prompt_tokens
            self._leave(one)
        else:
            self._joining.append(one)

    def _step(self, together: Sequence[_Running]) -> None:
        left = [one for one in together if not self._has_gone(one)]
        if not left:
            return
        try:
            logits = self._rows.step([one.place for one in left], [one.generation.token for one in left])
        except BaseException as error:  # as in `_advance`
            for one in left:
                self._end(one, error)
            return
        for one, scores in zip(left, logits, strict=True):
            self._advance(one, scores)

    def _advance(self, one: _Running, logits: np.ndarray) -> bool:
        """Choose a token and tell it; whether more are to come."""
        try:
            piece = one.generation.take(logits)
            self._tokens += 1
            if piece is not None:
                one.listener.deliver(piece)
        # Whatever it is, it ends this generation and no other. A panic in the tokenizer's Rust is no Exception, and would end the
        # thread: all later calls would wait for ever.
        except BaseException as error:
            self._end(one, error)
            return False
        if one.generation.is_finished:
            self._leave(one)
        return not one.generation.is_finished

    def _has_gone(self, one: _Running) -> bool:
        try:
            is_cancelled = one.listener.is_cancelled()
        except BaseException as error:  # as in `_advance`
            self._end(one, error)
            return True
        if is_cancelled:
            self._end(one, Cancelled())
        return is_cancelled

    def _end(self, one: _Running, error: BaseException) -> None:
        self._leave(one)
        self._fail(one, error)

    def _leave(self, one: _Running) -> None:
        self._rows.leave(one.place)
        one.place = -1

    def _fail(self, one: _Running, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            self._cancelled += 1
        else:
            self._failed += 1
        _tell(one, error)


def _tell(one: _Running, error: BaseException) -> None:
    with suppress(BaseException):  # a listener that raises cannot be told anything more
        one.listener.fail(error)
