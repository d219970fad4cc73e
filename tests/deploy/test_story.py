"""The demo's story where it does not go well, and what it hears of a stock client's stream."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import openai
import pytest
from tritonclient.utils import InferenceServerException

from control_plane.errors import Unavailable
from converters.errors import ModelRefused
from deploy.demo import story
from deploy.demo.narration import Narrator
from deploy.demo.wire import Wire, before_receipt
from tests.listening import listening

ABOUT = b'data: {"id":"1","object":"text_completion","created":1,"model":"m",'
PIECE = ABOUT + b'"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n'
LAST = ABOUT + b'"choices":[],"receipt":{"id":"0x1"}}\n\n'


@pytest.mark.parametrize(
    "error",
    [Unavailable("the node is away"), openai.OpenAIError("gave up"), InferenceServerException("gave up"), ModelRefused("pickle")],
)
def test_a_chapter_that_breaks_is_a_check_that_failed_and_the_verdict_comes(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any) -> None:
        raise error

    monkeypatch.setattr(story, "start", breaks)
    out = io.StringIO()
    narrator = Narrator(out)
    assert story.tell(tmp_path, narrator, None, None, None, is_ending=True) is False
    assert [(claim.chapter, claim.holds) for claim in narrator.claims] == [(1, False)]
    assert str(error) in out.getvalue()
    assert "checks verified: 0 of 1" in out.getvalue()


def test_what_is_before_the_receipt_is_what_it_speaks_of() -> None:
    assert before_receipt(PIECE + PIECE + LAST + b"data: [DONE]\n\n") == PIECE + PIECE
    assert before_receipt(LAST + b"data: [DONE]\n\n") == b""
    assert before_receipt(b"") == b""


@pytest.fixture
def stream() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for part in (PIECE[:7], PIECE[7:], LAST, b"data: [DONE]\n\n"):
                self.wfile.write(part)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            return

    with listening(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}/v1"


def test_the_wire_hears_what_the_stock_client_got(stream: str) -> None:
    wire = Wire()
    heard = openai.DefaultHttpxClient(event_hooks={"response": [wire.hear]})
    with openai.OpenAI(base_url=stream, api_key="ph_", max_retries=0, http_client=heard) as client:
        chunks = list(client.completions.create(model="m", prompt="p", stream=True))
    assert [choice.text for chunk in chunks for choice in chunk.choices] == ["a"]
    assert bytes(wire.received) == PIECE + LAST + b"data: [DONE]\n\n"
    assert json.loads(wire.sent)["prompt"] == "p"
