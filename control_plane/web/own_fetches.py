"""No request of a market's own fetching is served, but for the files of its algorithms.

In: Flask's request. Out: nothing, or a refusal. This module must never let one in because of the name that it came by.

A file that a stranger publishes may lie at the market's own address, by any name that leads there. Were it a question that makes
the market fetch that file, each fetch would begin another one, until every thread of the worker waits for the next. Calls of
models go past Flask and are not asked: they fetch nothing.
"""

from __future__ import annotations

from flask import request

from control_plane.errors import Forbidden
from control_plane.provider.fetch import AGENT, OWN_FILES


def refuse_own_fetch() -> None:
    """Raises Forbidden with code own_fetch."""
    if request.environ.get("HTTP_USER_AGENT") == AGENT and not request.path.startswith(OWN_FILES):
        raise Forbidden("User-Agent: expected a client, found a market that fetches a file", code="own_fetch")
