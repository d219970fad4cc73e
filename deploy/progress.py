"""Step lines: what is being done, and how many seconds it took.

In: a sentence. Out: lines on a stream. This module must never import anything but the standard library: set-up runs it before
any package is installed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_TICK_S = 1.0
_REMIND_S = 15.0


class Steps:
    """Prints one line a step. On a terminal the seconds run while it lasts; in a log file a reminder comes every 15 seconds."""

    def __init__(self, stream: TextIO | None = None, indent: str = "  ", is_quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._indent = indent
        self._is_quiet = is_quiet
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        if not self._is_quiet:
            with self._lock:
                print(f"{self._indent}{text}", file=self._stream, flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print `text` and, when the block ends, its seconds; a block that raises says `failed`."""
        if self._is_quiet:
            yield
            return
        began = time.monotonic()
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(text, began, done), daemon=True)
        ticker.start()
        outcome = "failed after "
        try:
            yield
            outcome = ""
        finally:
            done.set()
            ticker.join()
            self._line(f"{text}: {outcome}{time.monotonic() - began:.1f} s", is_last=True)

    def _tick(self, text: str, began: float, done: threading.Event) -> None:
        is_terminal = self._stream.isatty()
        if is_terminal:
            self._line(f"{text} ...", is_last=False)
        while not done.wait(_TICK_S if is_terminal else _REMIND_S):
            self._line(f"{text} ... {time.monotonic() - began:.0f} s", is_last=not is_terminal)

    def _line(self, text: str, is_last: bool) -> None:
        start, end = ("\r\033[K", "\n" if is_last else "") if self._stream.isatty() else ("", "\n")
        with self._lock:
            self._stream.write(f"{start}{self._indent}{text}{end}")
            self._stream.flush()
