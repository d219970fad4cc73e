"""Step lines: what is being done, and how many seconds it took.

In: a sentence. Out: lines on a stream. This module must never import anything but the standard library: set-up runs it before
any package is installed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
            self._line(text, is_last=True)

    @contextmanager
    def step(self, text: str) -> Iterator[Callable[[str], None]]:
        """Print `text` and, when the block ends, its seconds; a block that raises says `failed`.

        The block gets a function: what it is told last is what is under way, and is shown while it lasts.
        """
        if self._is_quiet:
            yield lambda _part: None
            return
        under_way = [""]
        began = time.monotonic()
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(text, under_way, began, done), daemon=True)
        ticker.start()
        outcome = "failed after "
        try:
            yield lambda part: under_way.__setitem__(0, part)
            outcome = ""
        finally:
            done.set()
            ticker.join()
            self._line(f"{text}: {outcome}{time.monotonic() - began:.1f} s", is_last=True)

    def _tick(self, text: str, under_way: Sequence[str], began: float, done: threading.Event) -> None:
        is_terminal = self._stream.isatty()
        if is_terminal:
            self._line(f"{text} ...", is_last=False)
        while not done.wait(_TICK_S if is_terminal else _REMIND_S):
            part = f" ({under_way[0]})" if under_way[0] else ""
            self._line(f"{text}{part} ... {time.monotonic() - began:.0f} s", is_last=not is_terminal)

    def _line(self, text: str, is_last: bool) -> None:
        start, end = ("\r\033[K", "\n" if is_last else "") if self._stream.isatty() else ("", "\n")
        with self._lock:
            self._stream.write(f"{start}{self._indent}{text}{end}")
            self._stream.flush()
