"""A small HTTP server on a free port, for as long as a test needs one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.local.ports import HOST


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[Any]:
    """The server, a `ThreadingHTTPServer` on which a test may leave what its handler is to know."""
    server = ThreadingHTTPServer((HOST, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
