"""Streams as a buyer's client reads them: when they began, and how many tokens came."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from bench.streams import Door, over_and_over, stream, together, tokens_a_second
from tests.listening import listening

PAUSE_S = 0.05


class Server(BaseHTTPRequestHandler):
    """Streams as many pieces as it is asked for, the first after a pause; one fewer to whoever says "short"."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["prompt"] == "refused":
            self.send_response(429)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(1, asked["tokens"] + 1 - (asked["prompt"] == "short")):
            time.sleep(PAUSE_S)
            event = b'data: {"completion_tokens": %d}\n\n' % number
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        """Not into the tests' output."""


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with listening(Server) as server:
        url = f"http://127.0.0.1:{server.server_port}/stream"
        yield Door("test", url, {}, lambda prompt, tokens: json.dumps({"prompt": prompt, "tokens": tokens}).encode())


def test_the_first_text_comes_before_the_end(door: Door) -> None:
    connection = door.connect()
    one = stream(door, connection, "all", 4)
    connection.close()
    assert one.tokens == 4
    assert one.first - one.began >= PAUSE_S
    assert one.ended - one.first >= 2 * PAUSE_S


def test_clients_ask_together_and_their_rates_add_up(door: Door) -> None:
    made = together(door, ["all"] * 4, 3)
    assert [one.tokens for one in made] == [3] * 4
    longest = max(one.ended - one.began for one in made)
    assert tokens_a_second(made) <= 12 / longest


def test_clients_ask_again_until_the_time_is_over(door: Door) -> None:
    made = over_and_over(door, ["all"] * 2, 1, 6 * PAUSE_S)
    assert len(made) > 2


@pytest.mark.parametrize(
    ("prompt", "why"), [("short", "expected 4 tokens, found 3"), ("refused", "expected status 200, found 429")]
)
def test_an_answer_that_is_not_whole_is_no_figure(door: Door, prompt: str, why: str) -> None:
    with pytest.raises(RuntimeError, match=why):
        together(door, ["all", prompt], 4)
