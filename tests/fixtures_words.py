"""A market beside a server that keeps one text file, as a publisher of datasets has one.

In: nothing. Out: the server's address, and the market that may fetch from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_market import Market, open_market
from tests.listening import listening

TEXT = "whäle\nsea\n".encode()


class Words(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # the library's name
        self.send_response(200 if "words" in self.path else 404)
        self.send_header("Content-Length", str(len(TEXT)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(TEXT)

    def log_message(self, *arguments: Any) -> None:
        return None


@pytest.fixture(scope="module")
def words() -> Iterator[str]:
    """Host and port."""
    with listening(Words) as server:
        yield f"127.0.0.1:{server.server_port}"


@pytest.fixture
def shop(tmp_path: Path, words: str) -> Iterator[Market]:
    opened = open_market(tmp_path / "home", POSTHUMAN_INTERNAL_FILES=words)
    yield opened
    opened.engine.dispose()
