"""The control plane's web surfaces: one application, one blueprint per surface.

In: `Services`. Out: a Flask application. This module must never build a service.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

    from control_plane.flows.services import Services


def create_app(services: Services, log_to: TextIO | None = None, metrics_folder: Path | None = None) -> Flask:
    """The application. log_to: where its JSON lines go, standard error by default.

    metrics_folder: where several workers count together, after each called `shared_metrics.share`; nothing that makes a metric is
    imported here before this is called.
    """
    from flask import Flask

    from control_plane.web import (
        algorithms,
        aquarius,
        auth,
        chat,
        errors,
        evaluations,
        health,
        hugging_face,
        jobs,
        log,
        offers,
        oip,
        openai,
        openapi,
        provider,
        provider_compute,
        provider_files,
        receipts,
    )
    from control_plane.web.body import read_to_the_end
    from control_plane.web.calls import direct
    from control_plane.web.journal import Journal
    from control_plane.web.once import answer_again
    from control_plane.web.own_fetches import refuse_own_fetch
    from control_plane.web.request_ids import identified
    from control_plane.web.sent import received

    app = Flask("control_plane.web", static_folder=None)
    app.url_map.strict_slashes = False
    journal = Journal(log_to or sys.stderr, services.clock)
    refuse = errors.register(app, journal)
    app.before_request(refuse_own_fetch)
    app.after_request(read_to_the_end)
    surfaces = [surface.blueprint(services, journal) for surface in (openai, chat, oip, hugging_face)]
    for blueprint in (
        *(answer_again(surface, services, journal) for surface in surfaces),
        auth.blueprint(services),
        offers.blueprint(services),
        algorithms.blueprint(services),
        jobs.blueprint(services),
        evaluations.blueprint(services),
        receipts.blueprint(services),
        log.blueprint(services),
        provider.blueprint(services),
        provider_files.blueprint(services),
        provider_compute.blueprint(services),
        aquarius.blueprint(services),
        health.blueprint(services, metrics_folder),
        openapi.blueprint(services),
    ):
        app.register_blueprint(blueprint)
    short = direct(app, frozenset(surface.name for surface in surfaces), refuse, read_to_the_end)
    whole = identified(received(short, services.settings.max_body_bytes))
    app.wsgi_app = whole  # type: ignore[assignment, method-assign]  # Flask's way to wrap an application
    return app
