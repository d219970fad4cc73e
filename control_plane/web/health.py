"""`/healthz`, `/readyz`, `/metrics`: for whoever runs this.

In: nothing. Out: states of the components. This module must never show an address, a path or a key of one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError

from control_plane.errors import PosthumanError
from control_plane.flows.services import Services
from control_plane.web.job_metrics import JobMetrics
from control_plane.web.log_metrics import LogMetrics
from control_plane.web.metrics import exposition

NEEDED = ("database", "triton")
"""Without these no call can be answered. Without the chain known sessions go on, so it is told and not needed."""


def blueprint(services: Services, metrics_folder: Path | None) -> Blueprint:
    pages = Blueprint("health", __name__)
    log_metrics, job_metrics = LogMetrics(services), JobMetrics(services.jobs)

    @pages.get("/healthz")
    def alive() -> Response:
        return jsonify(status="alive")

    @pages.get("/readyz")
    def ready() -> tuple[Response, int]:
        states = {
            "database": _state(lambda: bool(services.catalogue.listings()) or True),
            "triton": _state(services.server.is_ready),
            "chain": _state(lambda: services.ledger.head().number >= 0),
        }
        is_ready = all(states[name] == "ready" for name in NEEDED)
        return jsonify(status="ready" if is_ready else "not ready", components=states, needed=NEEDED), 200 if is_ready else 503

    @pages.get("/metrics")
    def metrics() -> Response:
        looked_up = generate_latest(log_metrics.registry) + generate_latest(job_metrics.registry)
        text = exposition(metrics_folder) + looked_up + log_metrics.told_by_keeper()
        return Response(text, content_type=CONTENT_TYPE_LATEST)

    return pages


def _state(ask: Callable[[], bool]) -> str:
    try:
        return "ready" if ask() else "not ready"
    except PosthumanError as error:
        return error.code
    except SQLAlchemyError:
        return "unavailable"
