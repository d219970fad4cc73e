"""The short way of calls: from the web server to their surface, past Flask's routing, contexts, sessions and signals.

In: WSGI calls. Out: the answers that Flask's way gives. This module must never hold a rule of a call: the functions that answer,
refuse and finish are those that Flask has, found in its table; and whatever is not plain goes Flask's way.

Flask's way takes a third of a call's processor time (`DECISIONS.md`, 2026-11-28): little by itself, but it begins where a model has
just emptied the caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response

from control_plane.web.answers import KEY_HEADER
from control_plane.web.sent import sent

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_DID = "did:op:"
_PLACE = "<did>"


def direct(
    app: Flask,
    surfaces: frozenset[str],
    refuse: Callable[[Exception], Response],
    finish: Callable[[Response], Response],
) -> WSGIApplication:
    """Flask's application, with the short way before it. surfaces: names of the blueprints whose every POST is a call.

    refuse: an answer for what was raised. finish: what is done with every answer before it leaves.
    """
    longer: WSGIApplication = app.wsgi_app
    known: dict[str, Callable[..., Any]] = {
        rule.rule: app.view_functions[rule.endpoint]
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] in surfaces and "POST" in (rule.methods or ()) and rule.arguments <= {"did"}
    }

    def answering(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        request = sent()
        if request.method != "POST" or request.header(KEY_HEADER) is not None:  # a named call may have its answer already
            return longer(environ, start)
        path: str = environ["PATH_INFO"]
        parts = path.split("/")
        dids = [part for part in parts if part.startswith(_DID)]
        route = "/".join(_PLACE if part.startswith(_DID) else part for part in parts) if dids else path
        view = known.get(route)
        if view is None or _PLACE in parts or not path.isascii():
            return longer(environ, start)
        request.route, request.did = route, dids[0] if dids else None
        try:
            response = view(*dids)
        except Exception as error:
            response = refuse(error)
        return finish(response)(environ, start)

    return answering
