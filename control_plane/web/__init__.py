"""The control plane's web surfaces: one application, one blueprint per surface.

In: `Services`. Out: a Flask application. This module must never build a service.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from flask import Flask

    from control_plane.flows.services import Services


def create_app(services: Services, log_to: TextIO | None = None, are_metrics_shared: bool = False) -> Flask:
    """The application. log_to: where its JSON lines go, standard error by default.

    are_metrics_shared: several workers write their metrics to the folder that prometheus-client was told before it was imported;
    that is why nothing is imported here before this is called.
    """
    from flask import Flask

    from control_plane.web import auth, errors, health, hugging_face, log, offers, oip, openai, openapi, receipts
    from control_plane.web.journal import Journal

    app = Flask("control_plane.web", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    app.url_map.strict_slashes = False
    journal = Journal(log_to or sys.stderr, services.clock)
    errors.register(app, journal)
    for blueprint in (
        openai.blueprint(services, journal),
        oip.blueprint(services, journal),
        hugging_face.blueprint(services, journal),
        auth.blueprint(services),
        offers.blueprint(services),
        receipts.blueprint(services),
        log.blueprint(services),
        health.blueprint(services, are_metrics_shared),
        openapi.blueprint(services),
    ):
        app.register_blueprint(blueprint)
    return app
