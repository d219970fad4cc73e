"""A log read over HTTP from someone who may lie, break off, or send too much."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from control_plane.errors import BadInput, NotFound, Unavailable
from control_plane.receipts import public_log
from control_plane.receipts.checkpoint import Checkpoint
from control_plane.receipts.fsck import fsck
from control_plane.receipts.public_log import HttpLogFiles, PublicLog
from control_plane.receipts.verify import verify
from tests.fixtures_log import LogMarket

Answer = Callable[[str], tuple[int, bytes]]


class LogServer:
    """Serves whatever `answer` says for a path, on a free port."""

    def __init__(self) -> None:
        self.answer: Answer = lambda _path: (404, b"")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = outer.answer(self.path)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/log"

    def serve(self, market: LogMarket) -> None:
        def from_folder(path: str) -> tuple[int, bytes]:
            target = market.folder / path.removeprefix("/")
            return (200, target.read_bytes()) if target.is_file() else (404, b"")

        self.answer = from_folder

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


@pytest.fixture
def served() -> Iterator[LogServer]:
    server = LogServer()
    yield server
    server.stop()


def read(served: LogServer) -> PublicLog:
    files = HttpLogFiles(served.url, timeout_s=5)
    try:
        log = PublicLog(files)
        log.root()
        return log
    finally:
        files.close()


def test_a_receipt_is_verified_over_http(market: LogMarket, served: LogServer) -> None:
    served.serve(market)
    made = market.issue(300)
    market.log.integrate()
    market.anchor()
    files = HttpLogFiles(served.url)
    assert verify(market.ledger, made[7].to_json(), log=PublicLog(files)).is_verified
    assert fsck(files, market.notes.name, market.notes.public_key, anchors=market.log.anchors()).problems == ()
    files.close()


def test_a_log_that_has_nothing_yet_is_not_found(served: LogServer) -> None:
    with pytest.raises(NotFound, match="no checkpoint"):
        read(served)


def test_a_log_that_does_not_answer_is_unavailable(served: LogServer) -> None:
    for status in (302, 500, 503):
        served.answer = lambda _path, status=status: (status, b"")
        with pytest.raises(Unavailable):
            read(served)
    files = HttpLogFiles("http://127.0.0.1:1", timeout_s=1)
    with pytest.raises(Unavailable):
        PublicLog(files)
    files.close()


@pytest.mark.parametrize(
    "checkpoint",
    [b"", b"\xff\xfe", b"x" * 20_000, b"a\n1\nAAAA\n\n", Checkpoint("a", 2**41, bytes(32)).text().encode() + b"\n"],
    ids=["empty", "no text", "long", "short root", "too large"],
)
def test_what_is_no_checkpoint_is_bad_input(served: LogServer, checkpoint: bytes) -> None:
    served.answer = lambda _path: (200, checkpoint)
    with pytest.raises(BadInput):
        read(served)


def test_tiles_of_a_wrong_size_or_without_end_are_refused(
    market: LogMarket, served: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.issue(3)
    market.log.integrate()
    note = (market.folder / "log" / "checkpoint").read_bytes()
    served.answer = lambda path: (200, note if path.endswith("checkpoint") else b"x" * 95)
    with pytest.raises(BadInput, match="96 bytes"):
        read(served)
    served.answer = lambda path: (200, note) if path.endswith("checkpoint") else (404, b"")
    with pytest.raises(NotFound, match="does not serve"):
        read(served)
    monkeypatch.setattr(public_log, "LARGEST_FILE", 1000)
    served.answer = lambda path: (200, note if path.endswith("checkpoint") else b"x" * 200_000)
    with pytest.raises(BadInput, match="at most"):
        read(served)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "gopher://x", "http://", "x", "http://h/?q=1"])
def test_only_http_urls_are_logs(url: str) -> None:
    with pytest.raises(BadInput):
        HttpLogFiles(url)
