"""`Idempotency-Key` on the surfaces that call: a call that is sent again is answered as before.

In: the request. Out: the answer that was given before, or the call's name for who does it now. This module must never look for
an answer of another order than the session's.

Source: the header as Stripe's API has it, and draft-ietf-httpapi-idempotency-key-header-07; a key is taken as it stands.
"""

from __future__ import annotations

import re

from flask import Blueprint, Response

from control_plane.errors import BadInput
from control_plane.fields import Kind
from control_plane.flows.once import answered_before, once
from control_plane.flows.services import Services
from control_plane.serving.access import session_only
from control_plane.web.answers import KEY_HEADER, LENGTH_HEADER, rendered
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_body
from control_plane.web.journal import Journal
from control_plane.web.sent import sent

REPLAYED_HEADER = "Idempotent-Replayed"
_KEY = re.compile(r"[!-~]{1,255}")


def answer_again(pages: Blueprint, services: Services, journal: Journal) -> Blueprint:
    """Let a surface whose every POST is a call answer calls that were made before."""

    @pages.before_request
    def before() -> Response | None:
        request = sent()
        key = request.header(KEY_HEADER)
        if key is None or request.method != "POST":
            return None
        session = bearer_session(services.sessions)
        # Before the model is asked whether it is on sale and the order whether it has calls left: this one may have been the last.
        session_only(session, services.clock()).enforce()
        if not _KEY.fullmatch(key):
            raise BadInput(KEY_HEADER, "1 to 255 visible ASCII characters", Kind(f"{len(key)} characters"))
        told = (request.path, request.mimetype, request.header(LENGTH_HEADER) or "")
        request.once = once(services, key, *(each.encode() for each in told), read_body())
        called = answered_before(services, session, request.once)
        if called is None:
            return None
        journal.note("replayed", route=request.route, call=called.call_id, order=session.order, receipt=called.issued.id)
        response = rendered(called)
        response.headers[REPLAYED_HEADER] = "true"
        return response

    return pages
