"""Where calls meet: the items of all calls that wait go through the graph together, and each call gets its own back.

In: items with their lengths, from many threads. Out: each thread's share of what the graph gives. This module must never know what
an item is, or let one call's failure reach another.

There is no thread of its own, so a call that is alone waits for nobody: whoever needs the graph and finds it free computes for
himself and for all who wait (Hendler, Incze, Shavit and Tzafrir, 2010: flat combining). Who is next is decided by self-clocked fair
queuing (Golestani, 1994): of all calls the one whose next item would be finished first if all had got equal shares since they came.
So a short call goes before a long one, a call of many items gets them one share at a time, and nobody starves.

A call of which nothing is computed yet waits no longer than it may. Its thread may be computing for others when its time is over:
it is told when that pass has ended, and takes no other one.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from opening.refusal import TooLate
from predict.groups import Joining

Item = TypeVar("Item")

_MOST_PARTS = 2
"""A call that does not take its parts gets no more of them, since each may be hundreds of megabytes."""


@dataclass(frozen=True)
class Part:
    """Some of a call's items. indices: which. arrays: what the graph gives, first axis = these items."""

    indices: list[int]
    arrays: list[np.ndarray]


class _Call(Generic[Item]):
    """left: places of items that nobody computes yet, the longest last. due: when its next item would be finished.
    until: how long it may wait; for ever once it has begun."""

    def __init__(self, items: Sequence[Item], lengths: Sequence[int], now: int, until: float) -> None:
        self.items, self.lengths, self.until = items, lengths, until
        self.left = sorted(range(len(items)), key=lengths.__getitem__)
        self.missing = len(items)
        self.parts: deque[Part] = deque()
        self.error: BaseException | None = None
        self.due = now + lengths[self.left[-1]]
        self.bell = threading.Lock()
        self.bell.acquire()

    def pop(self) -> int:
        """The next item's place."""
        place = self.left.pop()
        if self.left:
            self.due += self.lengths[self.left[-1]]
        return place


_Group = list[tuple[_Call[Item], int]]


class Passes(Generic[Item]):
    """compute: gives the graph's outputs for items of one group, first axis = items."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[np.ndarray]],
        joining: Joining,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds that only pass."""
        self._compute, self._joining, self._clock = compute, joining, clock
        self._lock = threading.Lock()
        self._is_busy = False
        self._now = 0
        self._calls: list[_Call[Item]] = []
        self._planned: deque[_Group[Item]] = deque()
        self._sleeping: dict[_Call[Item], None] = {}

    def through(self, items: Sequence[Item], lengths: Sequence[int], until: float = math.inf) -> Iterator[Part]:
        """All items, at least one, in parts as they are computed. Raises whatever computing them raised, and TooLate when no pass
        had taken any of them until then, by our clock.
        """
        with self._lock:
            call = _Call(items, lengths, self._now, until)
            self._calls.append(call)
        try:
            while call.missing:
                part, group = self._next_for(call)
                if part is not None:
                    call.missing -= len(part.indices)
                    yield part
                elif group is not None:
                    self._run(group)
                else:
                    call.bell.acquire(timeout=min(max(0.0, call.until - self._clock()), threading.TIMEOUT_MAX))
        finally:
            self._leave(call)

    def _next_for(self, call: _Call[Item]) -> tuple[Part | None, _Group[Item] | None]:
        """What the call's thread does next: take a part, or compute a group, or sleep until its bell rings."""
        with self._lock:
            self._sleeping.pop(call, None)  # for it woke up by itself,
            call.bell.acquire(blocking=False)  # and may have been rung since
            if call.error is not None:
                raise call.error
            if call.parts:
                return call.parts.popleft(), None
            if call.until <= self._clock():
                raise TooLate
            if not self._is_busy and (group := self._take()):
                self._is_busy = True
                return None, group
            self._sleeping[call] = None
            return None, None

    def _take(self) -> _Group[Item] | None:
        """The next group of items whose callers are still there."""
        while True:
            if not self._planned:
                self._plan()
            if not self._planned:
                return None
            group = [(call, place) for call, place in self._planned.popleft() if call in self._calls]
            for call, _ in group:
                call.until = math.inf
            if group:
                return group

    def _plan(self) -> None:
        """Choose items for about one full pass, by turns, and group them."""
        chosen: _Group[Item] = []
        lengths: list[int] = []
        total = 0
        while waiting := [call for call in self._calls if call.left and len(call.parts) < _MOST_PARTS]:
            call = min(waiting, key=lambda one: one.due)
            length = call.lengths[call.left[-1]]
            total += length
            if chosen and total > self._joining.most:
                break
            self._now = call.due
            chosen.append((call, call.pop()))
            lengths.append(length)
        self._planned += ([chosen[place] for place in group] for group in self._joining.groups(lengths))

    def _run(self, group: _Group[Item]) -> None:
        shares: dict[_Call[Item], list[int]] = {}
        for call, place in group:
            shares.setdefault(call, []).append(place)
        found = self._computed(shares)
        with self._lock:
            self._is_busy = False
            for call, given in found.items():
                if isinstance(given, Part):
                    call.parts.append(given)
                else:
                    call.error = given
                self._ring(call)
            self._wake_one()

    def _computed(self, shares: dict[_Call[Item], list[int]]) -> dict[_Call[Item], Part | BaseException]:
        """For each call its part, or what went wrong with it: then each is computed by itself, to fail whose fault it is."""
        try:
            arrays = self._compute([call.items[place] for call, places in shares.items() for place in places])
        except BaseException as error:
            if len(shares) == 1:
                return dict.fromkeys(shares, error)
            return {call: given for share in shares.items() for call, given in self._computed(dict([share])).items()}
        found: dict[_Call[Item], Part | BaseException] = {}
        begin = 0
        for call, places in shares.items():
            found[call] = Part(places, [array[begin : begin + len(places)] for array in arrays])
            begin += len(places)
        return found

    def _leave(self, call: _Call[Item]) -> None:
        with self._lock:
            self._calls.remove(call)
            self._wake_one()

    def _wake_one(self) -> None:
        """Let a call that sleeps see whether there is something to compute: who has nothing to do but that."""
        if not self._is_busy and self._sleeping:
            self._ring(next(iter(self._sleeping)))

    def _ring(self, call: _Call[Item]) -> None:
        if call in self._sleeping:
            del self._sleeping[call]
            call.bell.release()
