"""What the operator sees of requests: one JSON line each, and Prometheus metrics.

In: names, sizes, durations, hashes. Out: lines, counters. This module must never be handed a prompt, an answer, a key or a token:
it writes what it is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

from prometheus_client import REGISTRY as OWN_REGISTRY
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, multiprocess

_encode = json.JSONEncoder(separators=(",", ":")).encode
Said = str | int | float | bool | None

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
CALLS = Counter("posthuman_calls", "Calls that were answered, by surface and how they ended", ["surface", "outcome"])
REFUSALS = Counter("posthuman_refusals", "Requests that were refused or failed, by status and code", ["status", "code"])
UNITS = Counter("posthuman_units", "Tokens, or items where the task has no tokens", ["direction"])
STAGE = Histogram("posthuman_stage_seconds", "Time of a call by stage", ["stage"], buckets=_SECONDS)


class Journal:
    """Writes lines to `stream`, each in one write, so that workers that share a file do not mix theirs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream, self._clock = stream, clock

    def note(self, event: str, **facts: Said) -> None:
        self._stream.write(_encode({"at": round(self._clock(), 3), "event": event, **facts}) + "\n")
        self._stream.flush()


def exposition(is_shared: bool) -> bytes:
    """The metrics as Prometheus reads them; `is_shared`: summed over the workers that write to one folder."""
    if not is_shared:
        return generate_latest(OWN_REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus-client 0.26 leaves it untyped
    return generate_latest(registry)
