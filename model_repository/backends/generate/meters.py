"""What the engine tells Prometheus: who waits, who runs, how many tokens.

In: the engine's counts, looked at once a second. Out: numbers at Triton's metrics port. This module must never be asked by the
engine: each number that is told costs as much as a part of a token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from generate.engine import Counts

EVERY_S = 1.0
_CLOSE_TIMEOUT_S = 2.0
_GAUGES = {
    "waiting": ("posthuman_engine_calls_waiting", "Calls that wait for a place in this model"),
    "running": ("posthuman_engine_calls_running", "Calls that share the steps of this model"),
}
_COUNTERS = {
    "prompt_tokens": ("posthuman_engine_prompt_tokens_total", "Tokens of prompts that were read"),
    "tokens": ("posthuman_engine_tokens_total", "Tokens that were chosen"),
    "refused": (
        "posthuman_engine_calls_refused_total",
        "Calls that were not let in: the queue was full, or they had waited as long as they might",
    ),
    "cancelled": ("posthuman_engine_calls_cancelled_total", "Calls whose caller went away"),
    "failed": ("posthuman_engine_calls_failed_total", "Calls that ended in an error"),
}


class Make(Protocol):
    """Makes a metric; returns how it is told a value."""

    def __call__(self, name: str, description: str, args: Mapping[str, str], /) -> Callable[[float], None]: ...


class Meters:
    """A thread of its own. A gauge is told a value, a counter what came to it."""

    def __init__(
        self, counts: Callable[[], Counts], gauge: Make, counter: Make, args: Mapping[str, str], every_s: float = EVERY_S
    ) -> None:
        """args: what Triton gave to `initialize`."""
        self._counts, self._every_s = counts, every_s
        self._gauges = {name: gauge(*described, args) for name, described in _GAUGES.items()}
        self._counters = {name: counter(*described, args) for name, described in _COUNTERS.items()}
        self._told: dict[str, int] = dict.fromkeys((*self._gauges, *self._counters), 0)
        self._closing = threading.Event()
        for tell in self._gauges.values():
            tell(0)  # what a process that died left behind
        self._thread = threading.Thread(target=self._run, name="meters", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the last counts, once the engine is closed; nothing waits or runs then. Again: does nothing."""
        self._closing.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self._tell(self._counts())
        self._tell(self._counts())
        for tell in self._gauges.values():
            tell(0)

    def _tell(self, counts: Counts) -> None:
        found = vars(counts)
        for name, tell in self._gauges.items():
            if self._told[name] != found[name]:
                self._told[name] = found[name]
                tell(found[name])
        for name, tell in self._counters.items():
            if self._told[name] != found[name]:
                tell(found[name] - self._told[name])
                self._told[name] = found[name]
