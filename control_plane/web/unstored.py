"""Answers that are for whoever asked, and for that moment.

In: a response. Out: the same, which no cache keeps. This module must never be used for what every caller may see.
"""

from __future__ import annotations

from flask import Response


def unstored(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response
