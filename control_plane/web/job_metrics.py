"""What Prometheus is told of jobs: how many there are in each state, looked at when it asks.

In: the database, through the store. Out: metrics. This module must never fail a scrape, and never write. What a step takes is
counted by the workers themselves (`c2d_adapter/meters.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError

from control_plane.errors import PosthumanError
from control_plane.jobs.store import JobStore


class JobMetrics(Collector):
    def __init__(self, store: JobStore) -> None:
        self._store = store
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("posthuman_jobs", "Jobs that were ever asked for, by the state they are in", labels=["state"])
        try:
            for state, count in self._store.by_state().items():
                family.add_metric([state.value], count)
        except (SQLAlchemyError, PosthumanError):
            return  # `posthuman_log_readable` says that the database is silent
        yield family
