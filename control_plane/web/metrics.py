"""What is counted and timed of requests, as Prometheus reads it.

In: names of a few kinds, numbers. Out: the text of `/metrics`. This module must never take a label from outside: whoever chose it
could choose a million of them, or a secret.

Imported after `shared_metrics.share`, where several workers count together: prometheus-client decides at each metric's making
where its numbers live.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from control_plane.web.shared_metrics import reading

_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
_CALLS = Counter(
    "posthuman_calls",
    "Admitted calls that ended: done, cut by their reader, refused by the model, failed",
    ["surface", "task", "outcome"],
)
_WHOLE = Histogram(
    "posthuman_call_seconds", "From a request's arrival to the end of its answer", ["surface", "task"], buckets=_SECONDS
)
_STAGES = Histogram(
    "posthuman_call_stage_seconds",
    "Parts of a whole call: access (session, order, weights), server (Triton), receipt (reserve, hash, sign, store)",
    ["stage"],
    buckets=_SECONDS,
)
_FIRST = Histogram("posthuman_stream_first_piece_seconds", "From a request's arrival to its first piece", buckets=_SECONDS)
_BETWEEN = Histogram("posthuman_stream_between_pieces_seconds", "From one piece of a stream to the next", buckets=_SECONDS)
_UNITS = Counter(
    "posthuman_units", "Tokens, or items where the task has no tokens; direction in or out", ["surface", "task", "direction"]
)
_IN_FLIGHT = Gauge("posthuman_calls_in_flight", "Admitted calls that have not ended", ["surface"], multiprocess_mode="livesum")
_REFUSALS = Counter("posthuman_refusals", "Requests that were refused or failed, by status and code", ["status", "code"])


class Meter:
    """One surface's calls of one task. Its numbers are looked up here once: a lookup by label costs as much as counting."""

    def __init__(self, surface: str, task: str) -> None:
        self._outcomes = {outcome: _CALLS.labels(surface, task, outcome) for outcome in ("done", "cut", "refused", "failed")}
        self._in, self._out = _UNITS.labels(surface, task, "in"), _UNITS.labels(surface, task, "out")
        self._whole = _WHOLE.labels(surface, task)
        self._in_flight = _IN_FLIGHT.labels(surface)
        self._stages = tuple(_STAGES.labels(stage) for stage in ("access", "server", "receipt"))

    def begin(self) -> None:
        self._in_flight.inc()

    def end(self, outcome: str, units_in: int, units_out: int, seconds: float) -> None:
        self._outcomes[outcome].inc()
        self._in_flight.dec()
        if units_in:
            self._in.inc(units_in)
        if units_out:
            self._out.inc(units_out)
        self._whole.observe(seconds)

    def stages(self, access_s: float, server_s: float, receipt_s: float) -> None:
        access, server, receipt = self._stages
        access.observe(access_s)
        server.observe(server_s)
        receipt.observe(receipt_s)

    def first_piece(self, seconds: float) -> None:
        _FIRST.observe(seconds)

    def next_piece(self, seconds: float) -> None:
        _BETWEEN.observe(seconds)


@cache
def meter(surface: str, task: str) -> Meter:
    return Meter(surface, task)


def count_refusal(status: int, code: str) -> None:
    _REFUSALS.labels(str(status), code).inc()


def exposition(folder: Path | None) -> bytes:
    """The metrics as Prometheus reads them. folder: where the workers that count together keep theirs."""
    if folder is None:
        return generate_latest(REGISTRY)
    with reading(folder) as files:
        registry = CollectorRegistry()
        registry.register(_Workers(files))
        return generate_latest(registry)


class _Workers(Collector):
    def __init__(self, files: list[str]) -> None:
        self._files = files

    def collect(self) -> Iterable[Metric]:
        return MultiProcessCollector.merge(self._files, accumulate=True)  # type: ignore[no-untyped-call]  # prometheus-client 0.26
