"""What Prometheus is told of receipts and the log: looked at when it asks.

In: the database and the log's folder, through the store; the keeper's file. Out: metrics. This module must never fail a scrape, and
never write.

Looked at from here and not told by the log keeper, since the figure that counts most, how long the oldest receipt waits for its
anchor, must go on growing when the keeper is gone.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from control_plane.errors import PosthumanError
from control_plane.flows.services import Services
from control_plane.receipts.keeper_metrics import keeper_metrics_file


class LogMetrics:
    """Of one market."""

    def __init__(self, services: Services) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Looking(services))
        self._file = keeper_metrics_file(services.settings.home)

    @property
    def registry(self) -> CollectorRegistry:
        return self._registry

    def told_by_keeper(self) -> bytes:
        """As the keeper wrote it, how long ago that may be; nothing where none ever ran."""
        try:
            return self._file.read_bytes()
        except OSError:
            return b""


class _Looking(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        services = self._services
        try:
            found = services.store.standing(services.settings.log_folder)
        except (SQLAlchemyError, PosthumanError, OSError):
            yield GaugeMetricFamily("posthuman_log_readable", "Whether the figures of the log could be read", 0.0)
            return
        yield GaugeMetricFamily("posthuman_log_readable", "Whether the figures of the log could be read", 1.0)
        lag_s = 0.0 if found.oldest_unanchored is None else max(0.0, services.clock() - found.oldest_unanchored / 1000)
        yield CounterMetricFamily("posthuman_receipts", "Receipts that were ever issued", found.leaves + found.waiting)
        for name, text, value in (
            ("receipts_waiting", "Receipts that have no place in the log yet", found.waiting),
            ("log_leaves", "Receipts that have their place in the log", found.leaves),
            ("log_checkpoint_leaves", "Leaves of the newest public checkpoint", found.published),
            ("log_checkpoint_timestamp_seconds", "When the newest checkpoint was published; 0: never", found.published_at),
            ("log_anchored_leaves", "Leaves of the newest anchor on chain", found.anchored),
            ("log_anchor_timestamp_seconds", "Time of the newest anchor's block; 0: never", found.anchored_at),
            ("anchor_lag_seconds", "How long ago the oldest call ended that no anchor covers; 0: all are covered", lag_s),
            ("merge_delay_seconds", "By when a receipt is promised to be anchored", services.settings.merge_delay_s),
        ):
            yield GaugeMetricFamily(f"posthuman_{name}", text, value)
