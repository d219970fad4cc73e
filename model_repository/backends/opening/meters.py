"""What a backend tells Prometheus of itself.

In: counts, looked at once a second. Out: numbers at Triton's metrics port. This module must never be asked by whoever computes:
each number that is told costs as much as a part of a token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

EVERY_S = 1.0
_CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Meter:
    """A metric as Prometheus knows it. labels: beside the model's own."""

    name: str
    description: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Make(Protocol):
    """Makes a metric of the model that `args` name; returns how it is told a value."""

    def __call__(self, meter: Meter, args: Mapping[str, str], /) -> Callable[[float], None]: ...


class Meters:
    """A thread of its own. A gauge is told a value, a counter what came to it."""

    def __init__(
        self,
        counts: Callable[[], Any],
        gauges: Mapping[str, Meter],
        counters: Mapping[str, Meter],
        makes: tuple[Make, Make],
        args: Mapping[str, str],
        every_s: float = EVERY_S,
    ) -> None:
        """counts: gives a dataclass of whole numbers; gauges and counters: by its fields. makes: of a gauge, and of a counter.
        args: what Triton gave to `initialize`.
        """
        self._counts, self._every_s = counts, every_s
        make_gauge, make_counter = makes
        self._gauges = {name: make_gauge(meter, args) for name, meter in gauges.items()}
        self._counters = {name: make_counter(meter, args) for name, meter in counters.items()}
        self._told: dict[str, int] = dict.fromkeys((*self._gauges, *self._counters), 0)
        self._closing = threading.Event()
        for tell in self._gauges.values():
            tell(0)  # what a process that died left behind
        self._thread = threading.Thread(target=self._run, name="meters", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the last counts, once nothing is computed any more; nothing waits or runs then. Again: does nothing."""
        self._closing.set()
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closing.wait(self._every_s):
            self._tell(self._counts())
        self._tell(self._counts())
        for tell in self._gauges.values():
            tell(0)

    def _tell(self, counts: Any) -> None:
        found = vars(counts)
        for name, tell in self._gauges.items():
            if self._told[name] != found[name]:
                self._told[name] = found[name]
                tell(found[name])
        for name, tell in self._counters.items():
            if self._told[name] != found[name]:
                tell(found[name] - self._told[name])
                self._told[name] = found[name]
