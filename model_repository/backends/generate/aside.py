"""One thread beside the engine, for calls that need a while before they can be computed: a stranger's template makes their prompt.

In: pieces of work. Out: the same, done in order. This module must never hold up whoever hands work in.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable

from generate.listener import TooBusy

_CLOSE_TIMEOUT_S = 5.0


class Aside:
    """most_waiting: pieces of work that may wait; a caller may have half of that."""

    def __init__(self, *, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting: deque[tuple[str, Callable[[], None]]] = deque()
        self._own: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="aside", daemon=True)
        self._thread.start()

    def add(self, work: Callable[[], None], caller: str = "") -> None:
        """work: must not raise. Raises TooBusy when too much waits, of everybody or of the caller."""
        with self._changed:
            if self._is_closed or len(self._waiting) >= self._most_waiting:
                raise TooBusy(f"{len(self._waiting)} calls are waiting for this model")
            if caller and self._own[caller] >= max(1, self._most_waiting // 2):
                raise TooBusy(f"{self._own[caller]} of your calls are waiting for this model")
            self._waiting.append((caller, work))
            self._own[caller] += 1
            self._changed.notify()

    def close(self) -> None:
        """What has come is done first, if that does not take long. Again: does nothing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                caller, work = self._waiting.popleft()
                self._own[caller] -= 1
                if not self._own[caller]:
                    del self._own[caller]  # callers come and go
            work()
