"""Each request has an id, which every answer names: also an error's, also a stream's.

In: WSGI calls. Out: the same, with `X-Request-Id`. This module must never read a body.

Around the application and not inside Flask, so that what Flask refuses itself is named too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from control_plane.serving.request_ids import HEADER, begin

if TYPE_CHECKING:
    from types import TracebackType

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    Raised = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None


def identified(application: WSGIApplication) -> WSGIApplication:
    """The application, each of whose requests has an id."""

    def answering(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        identity = begin(environ.get("HTTP_X_REQUEST_ID")).id

        def starting(status: str, headers: list[tuple[str, str]], raised: Raised = None, /) -> object:
            return start(status, [*headers, (HEADER, identity)], raised)

        return application(environ, starting)  # type: ignore[arg-type]  # `write`, which WSGI returns here, is passed on as it came

    return answering
