"""`/log/*`: the public log as static files.

In: a path of the log's layout. Out: the file's bytes. This module must never compute anything: any web server can take its place.
"""

from __future__ import annotations

from flask import Blueprint, Response

from control_plane.errors import NotFound
from control_plane.flows.services import Services
from control_plane.receipts.tiles import PUBLIC_PATH

_FOR_EVER = "public, max-age=31536000, immutable"
_SHORTLY = "public, max-age=0, must-revalidate"


def blueprint(services: Services) -> Blueprint:
    pages = Blueprint("log", __name__)
    folder = services.settings.log_folder

    @pages.get("/log/<path:path>")
    def file(path: str) -> Response:
        if not PUBLIC_PATH.fullmatch(path):
            raise NotFound("path: expected checkpoint, anchors.json or tile/<level>/<index>, found another", code="no_such_path")
        try:
            content = (folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFound(f"the log has no {path} yet", code="not_logged") from error
        is_tile = path.startswith("tile/")
        kind = (
            "application/octet-stream" if is_tile else "application/json" if path.endswith(".json") else "text/plain; charset=utf-8"
        )
        response = Response(content, content_type=kind)
        response.headers["Cache-Control"] = _FOR_EVER if is_tile and ".p/" not in path else _SHORTLY
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    return pages
