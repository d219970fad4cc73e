"""The buyer's side of HTTP, against a server that answers as it is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from control_plane.errors import Unavailable
from deploy.market import CHAT, Market, MarketRefused, decode_receipt, text_of
from tests.listening import listening

ENVELOPE = {"signed": {}, "salt": "0x00", "id": "0x" + "1" * 64}


class Told:
    """What the server will answer: status, headers, pieces of the body."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.pieces: tuple[bytes, ...] = (b"{}",)


@pytest.fixture
def serve() -> Iterator[Callable[..., Market]]:
    told = Told()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in told.pieces:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            return

    with listening(Handler) as server:

        def serving(status: int = 200, headers: dict[str, str] | None = None, pieces: tuple[bytes, ...] = (b"{}",)) -> Market:
            told.status, told.headers, told.pieces = status, headers or {}, pieces
            return Market(f"http://127.0.0.1:{server.server_port}")

        yield serving


def header() -> str:
    return base64.urlsafe_b64encode(json.dumps(ENVELOPE).encode()).rstrip(b"=").decode()


def test_a_whole_answer_keeps_the_exact_bytes_and_the_receipt(serve: Callable[..., Market]) -> None:
    answered = serve(200, {"X-Posthuman-Receipt": header()}, (b'{"choices": [ {"text":"x"}]}',)).complete("ph_x", {"prompt": "é"})
    assert answered.request == '{"prompt": "é"}'.encode()
    assert answered.response == b'{"choices": [ {"text":"x"}]}'
    assert answered.receipt == ENVELOPE == decode_receipt(header())


def test_an_answer_without_a_receipt_is_not_taken(serve: Callable[..., Market]) -> None:
    with pytest.raises(Unavailable, match="without a receipt"):
        serve().complete("ph_x", {})


def test_a_stream_is_hashed_up_to_its_receipt_however_it_is_cut_into_pieces(serve: Callable[..., Market]) -> None:
    events = b'data: {"choices":[{"text":"a"}]}\n\ndata: {"choices":[{"text":"b"}]}\n\n'
    last = b"data: " + json.dumps({"choices": [{"text": ""}], "receipt": ENVELOPE}).encode() + b"\n\ndata: [DONE]\n\n"
    whole = events + last
    for size in (1, 7, len(whole)):
        texts: list[str] = []
        pieces = tuple(whole[start : start + size] for start in range(0, len(whole), size))
        answered = serve(pieces=pieces).stream("ph_x", {}, texts.append)
        assert texts == ["a", "b"]
        assert answered.response == events
        assert answered.receipt == ENVELOPE


def test_a_conversations_stream_is_read_by_its_deltas(serve: Callable[..., Market]) -> None:
    deltas = ({"role": "assistant", "content": ""}, {"content": "a"}, {"content": "b"}, {})
    events = b"".join(b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n" for delta in deltas)
    last = b"data: " + json.dumps({"choices": [{"delta": {}}], "receipt": ENVELOPE}).encode() + b"\n\ndata: [DONE]\n\n"
    texts: list[str] = []
    assert serve(pieces=(events + last,)).stream("ph_x", {}, texts.append, CHAT).response == events
    assert "".join(texts) == "ab"


@pytest.mark.parametrize(
    "choice", [{"text": "x"}, {"message": {"role": "assistant", "content": "x"}}, {"delta": {"content": "x"}, "index": 0}]
)
def test_the_text_of_a_choice_is_found_in_each_of_its_forms(choice: dict[str, object]) -> None:
    assert text_of(choice) == "x"


def test_a_stream_that_breaks_says_so(serve: Callable[..., Market]) -> None:
    with pytest.raises(Unavailable, match="without a receipt"):
        serve(pieces=(b'data: {"choices":[{"text":"a"}]}\n\n',)).stream("ph_x", {}, lambda _text: None)
    broken = b'data: {"error":{"message":"gone","code":"unavailable"}}\n\n'
    with pytest.raises(MarketRefused, match="gone"):
        serve(pieces=(broken,)).stream("ph_x", {}, lambda _text: None)


def test_an_error_keeps_its_field_and_its_time_to_wait(serve: Callable[..., Market]) -> None:
    body = {
        "error": {"message": "prompt: no", "type": "x", "param": "prompt", "code": "bad_input", "expected": "text", "found": "1"}
    }
    with pytest.raises(MarketRefused) as refused:
        serve(400, {}, (json.dumps(body).encode(),)).models()
    assert refused.value.details() == {"status": 400, "field": "prompt", "expected": "text", "found": "1"}
    flat = {"error": "not now", "code": "unavailable", "param": None}
    with pytest.raises(MarketRefused) as later:
        serve(503, {"Retry-After": "7"}, (json.dumps(flat).encode(),)).models()
    assert (later.value.message, later.value.code, later.value.retry_after_s) == ("not now", "unavailable", 7)


def test_what_is_not_json_is_no_market(serve: Callable[..., Market]) -> None:
    with pytest.raises(Unavailable, match="expected JSON"):
        serve(pieces=(b"<html>",)).models()
    with pytest.raises(MarketRefused, match="<html>"):
        serve(502, {}, (b"<html>",)).models()


def test_a_market_that_is_gone_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        Market("http://127.0.0.1:9").models()
