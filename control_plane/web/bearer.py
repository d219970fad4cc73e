"""Who calls: the session behind `Authorization: Bearer`.

In: the request. Out: a `Session`. This module must never say which part of a token was wrong.
"""

from __future__ import annotations

from control_plane.errors import Unauthenticated
from control_plane.serving.sessions import Session, Sessions
from control_plane.web.sent import sent


def bearer_session(sessions: Sessions) -> Session:
    """Raises Unauthenticated when there is no token, or none that is known here. Whether it is still good, access.py says."""
    kind, _, token = (sent().header("Authorization") or "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("Authorization: expected `Bearer` and a token from POST /v1/auth/token, found none", code="no_token")
    session = sessions.find(token.strip())
    if session is None:
        raise Unauthenticated(
            "Authorization: expected a token from POST /v1/auth/token, found one unknown here", code="session_unknown"
        )
    return session
