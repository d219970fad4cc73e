"""The simulated market's application behind a real socket, for clients that speak HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from deploy.local.ports import HOST
from tests.fixtures_market import Market


class Http11(WSGIRequestHandler):
    """Keeps connections and sends chunks, as production's server does; says nothing on standard error."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002  # werkzeug's own name
        return None


@contextmanager
def serving(market: Market) -> Iterator[str]:
    """Its URL, while this lasts."""
    server = make_server(HOST, 0, market.client.application, threaded=True, request_handler=Http11)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://{HOST}:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def url(market: Market) -> Iterator[str]:
    """The market's application behind a real socket."""
    with serving(market) as found:
        yield found
