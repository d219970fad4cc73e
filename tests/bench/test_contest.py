"""Contests: the same client asks all sides in turns, and a side that fails is left out by name, unless it is ours."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bench.contest import Lengths, compete, stages
from bench.load import Target
from bench.peers import servers
from bench.peers.environments import NotMeasured

LENGTHS = Lengths(blocks=3, calls=4, rounds=2, seconds=0.1)


@contextmanager
def answering(name: str, wait_s: float, status: int = 200) -> Iterator[Target]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(wait_s)
            self.send_response(status)
            self.send_header("Server-Timing", "access;dur=0.100, triton;dur=0.200")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64  # sixteen clients come at once
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Target(name, f"http://127.0.0.1:{server.server_port}/x", {}, b"{}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_a_side_adds_is_the_difference_of_the_same_turns() -> None:
    with answering("base", 0.0) as base, answering("gate", 0.01) as gate:
        found = compete((base, gate), {"gate": "base"}, LENGTHS, frozenset({"base", "gate"}))
    added = found["added"]["gate"]
    of_blocks = [found["sides"][name]["one_client"]["p50_ms_of_blocks"] for name in ("base", "gate")]
    assert added["p50_ms_of_blocks"] == pytest.approx([gate - base for base, gate in zip(*of_blocks, strict=True)])
    assert all(milliseconds >= 5 for milliseconds in added["p50_ms_of_blocks"])
    assert len(added["ratio_of_rounds"]) == 2 and all(ratio < 1 for ratio in added["ratio_of_rounds"])


def test_a_peer_that_answers_with_an_error_is_left_out_with_its_reason_and_ours_ends_the_bench() -> None:
    with answering("base", 0.0) as base, answering("peer", 0.0, status=500) as peer:
        found = compete((base, peer), {"peer": "base"}, LENGTHS, frozenset({"base"}))
        assert list(found["sides"]) == ["base"] and found["added"] == {}
        assert "expected status 200, found 500" in found["not_measured"]["peer"]
        with pytest.raises(RuntimeError, match="peer: expected status 200, found 500"):
            compete((base, peer), {}, LENGTHS, frozenset({"peer"}))


def test_stages_are_those_that_the_answers_name_and_what_is_left_is_outside() -> None:
    with answering("gate", 0.005) as gate:
        found = stages(gate, 5)
    assert (found["access"], found["triton"]) == (0.1, 0.2)
    assert found["outside"] >= 4.7


def test_a_peer_that_does_not_start_is_not_measured_and_its_last_words_say_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with pytest.raises(NotMeasured, match="did not start: no such model"), servers.running(command, {}, tmp_path, 1, "/", 200):
        pass
