"""What `predict` tells Prometheus: who waits, who has a thread, who was turned away.

In: a crew, and what its calls failed with. Out: `Counts`, and their metrics by its fields. This module must never refuse a call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from opening.meters import Meter
from opening.refusal import TooBusy, TooLate
from predict.crew import Crew

_REFUSED = "posthuman_predict_calls_refused_total", "Calls of which nothing was computed, by what they were refused for"
GAUGES: Mapping[str, Meter] = MappingProxyType(
    {
        "waiting": Meter("posthuman_predict_calls_waiting", "Calls that wait for a thread of this model"),
        "running": Meter("posthuman_predict_calls_running", "Calls that have a thread; of texts some wait for the next pass"),
    }
)
COUNTERS: Mapping[str, Meter] = MappingProxyType(
    {
        "refused_full": Meter(*_REFUSED, {"reason": "queue_full"}),
        "refused_late": Meter(*_REFUSED, {"reason": "queue_timeout"}),
    }
)
"""The reasons are the codes that the gate answers with."""


@dataclass(frozen=True)
class Counts:
    """waiting, running: calls now. The others only grow."""

    waiting: int
    running: int
    refused_full: int
    refused_late: int


class Tally:
    """Counts what calls are refused for, from any thread."""

    def __init__(self, crew: Crew) -> None:
        self._crew, self._lock = crew, threading.Lock()
        self._full = self._late = 0

    def note(self, error: BaseException) -> None:
        """A call ended with this; only those are counted that had no room, or no time."""
        with self._lock:
            self._late += isinstance(error, TooLate)
            self._full += isinstance(error, TooBusy) and not isinstance(error, TooLate)

    def counts(self) -> Counts:
        """As they are now; those of one moment need not fit each other."""
        waiting, running = self._crew.load()
        return Counts(waiting, running, self._full, self._late)
