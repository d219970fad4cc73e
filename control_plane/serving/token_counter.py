"""Tokens of a text, counted by the tokenizer of a model in a process beside the gate.

In: a tokenizer's file and texts. Out: numbers. This module must never open a tokenizer itself: that would hold up every call of
this process (see `token_counting.py`).
"""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from control_plane.errors import Unavailable
from control_plane.serving.token_counting import ANSWERED, ASKED

_PROGRAM = Path(__file__).with_name("token_counting.py")
_TIMEOUT_S = 30.0
"""A MiB of text takes about a second, opening the largest tokenizers a few."""
MOST_OPEN = 4
"""Tokenizers of one worker, each a process of 50 MB and its vocabulary; of more models the ones asked last are kept."""


class TokenCounters:
    """A process a tokenizer, begun when it is first needed; safe in several threads, which take turns at one tokenizer."""

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._counters: OrderedDict[str, _Counter] = OrderedDict()
        self._turn = threading.Lock()

    def count(self, name: str, file: Path, text: bytes, has_special: bool) -> int:
        """Tokens of a text in UTF-8. name: the tokenizer's, always for the same file. has_special: with special tokens.

        Raises Unavailable with code `prompt_not_counted` when the process cannot be started, dies or is silent.
        Again: counts again.
        """
        while True:
            tokens = self._counter(name, file).count(text, has_special)
            if tokens is not None:
                return tokens

    def close(self) -> None:
        """End all processes. Again: does nothing."""
        with self._turn:
            counters = list(self._counters.values())
            self._counters.clear()
        for counter in counters:
            counter.close()

    def _counter(self, name: str, file: Path) -> _Counter:
        dropped: _Counter | None = None
        with self._turn:
            counter = self._counters.get(name)
            if counter is None:
                counter = self._counters[name] = _Counter(name, file)
                if len(self._counters) > self._most:
                    _, dropped = self._counters.popitem(last=False)
            self._counters.move_to_end(name)
        if dropped is not None:
            dropped.close()
        return counter


class _Counter:
    def __init__(self, name: str, file: Path) -> None:
        self._name, self._file = name, file
        self._turn = threading.Lock()
        self._line: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None
        self._is_closed = False

    def count(self, text: bytes, has_special: bool) -> int | None:
        """None when it was closed meanwhile."""
        with self._turn:
            if self._is_closed:
                return None
            was_running = self._line is not None
            try:
                return self._ask(text, has_special)
            except OSError as error:
                self._stop()
                if not was_running:
                    raise self._failed(error) from error
            try:  # it had died since the last text, by lack of memory for one
                return self._ask(text, has_special)
            except OSError as error:
                self._stop()
                raise self._failed(error) from error

    def close(self) -> None:
        with self._turn:
            self._is_closed = True
            self._stop()

    def _ask(self, text: bytes, has_special: bool) -> int:
        """Raises OSError when nobody answers."""
        line = self._line or self._start()
        line.sendall(ASKED.pack(has_special, len(text)) + text)
        answer = b""
        while len(answer) < ANSWERED.size:
            more = line.recv(ANSWERED.size - len(answer))
            if not more:
                raise ConnectionResetError("the process has ended")
            answer += more
        return int(ANSWERED.unpack(answer)[0])

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            # No variable of ours goes along, and what a panic would print, a text maybe, goes nowhere.
            process = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM), str(self._file)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env={"TOKENIZERS_PARALLELISM": "false"},
            )
        ours.settimeout(_TIMEOUT_S)
        self._line, self._end = ours, weakref.finalize(self, _end, process, ours)
        return ours

    def _stop(self) -> None:
        self._line = None
        self._end()

    def _failed(self, error: OSError) -> Unavailable:
        return Unavailable(
            f"{self._name}: the prompt's tokens could not be counted ({type(error).__name__})", code="prompt_not_counted"
        )


def _end(process: subprocess.Popen[bytes], line: socket.socket) -> None:
    line.close()
    process.kill()
    process.wait()
