"""A JSON-RPC proxy that loses requests or answers on purpose, between us and a real node."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener


@dataclass
class RpcProxy:
    """url: where to send requests. counts: requests seen by method. sent: raw transactions that reached the node, in order."""

    url: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    sent: list[str] = field(default_factory=list)
    _losses: list[tuple[str, int, str]] = field(default_factory=list)

    def lose(self, method: str, what: str, number: int = 1) -> None:
        """Lose the `request` or the `answer` of the call number `number` of `method` from now."""
        assert what in ("request", "answer")
        self._losses.append((method, self.counts[method] + number, what))

    def what_is_lost(self, method: str) -> str | None:
        self.counts[method] += 1
        for name, number, what in self._losses:
            if (name, number) == (method, self.counts[method]):
                return what
        return None


@contextmanager
def running_proxy(node: str) -> Iterator[RpcProxy]:
    proxy, lock = RpcProxy(), threading.Lock()
    opener = build_opener(ProxyHandler({}))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and body in one packet: two of them wait 40 ms for each other's acknowledgement

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            record: Any = json.loads(body)
            with lock:
                lost = proxy.what_is_lost(record["method"])
            if lost == "request":
                self.close_connection = True
                return
            request = Request(node, body, {"Content-Type": "application/json"})  # noqa: S310  the test's own node
            with opener.open(request, timeout=20) as response:
                answer = response.read()
            if record["method"] == "eth_sendRawTransaction":
                proxy.sent.append(record["params"][0])
            if lost == "answer":
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
