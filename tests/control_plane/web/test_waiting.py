"""A model that is busy, and a server that is silent: 503 with Retry-After, and nothing is charged."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from control_plane.serving.triton import Triton
from control_plane.serving.triton_messages import error_from
from control_plane.web import create_app
from tests.fixtures_market import PROMPT_CANARY, Market
from tests.fixtures_web import url

__all__ = ["url"]

BUSY = [
    ("4 calls are waiting for this model", "queue_full"),
    ("2 of your calls are waiting for this model", "queue_full"),
    ("this call has waited for this model as long as it may", "queue_timeout"),
]


def refusing(text: str) -> Callable[..., Any]:
    def refuse(*_arguments: object, **_named: object) -> Any:
        raise error_from(400, text, "m-1")

    return refuse


@pytest.mark.parametrize(("text", "code"), BUSY, ids=[text for text, _ in BUSY])
@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "streamed"])
def test_a_busy_model_is_a_503_with_retry_after_and_no_charge(
    market: Market, monkeypatch: pytest.MonkeyPatch, text: str, code: str, is_streaming: bool
) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    for verb in ("generate", "generate_stream"):
        monkeypatch.setattr(market.server, verb, refusing(text))
    answer = market.complete(token, stream=is_streaming)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    error = answer.get_json()["error"]
    assert (error["code"], error["type"]) == (code, "server_error")
    assert market.calls_used(order) == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes requests and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "streamed"])
def test_a_server_that_is_silent_too_long_is_a_503_and_no_charge(market: Market, silent: str, is_streaming: bool) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    server = Triton(silent, "key", timeout_s=0.2)
    client = create_app(replace(market.services, server=server), market.journal).test_client()
    record = {"model": market.gpt.did, "prompt": PROMPT_CANARY, "stream": is_streaming}
    for _ in range(2):
        answer = client.post("/v1/completions", json=record, headers=market.bearer(token))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), answer.text
        assert "did not answer in time" in answer.text
    assert market.calls_used(order) == 0
    assert PROMPT_CANARY not in market.journal.getvalue()
    server.close()


def test_openais_client_tries_a_busy_model_again(market: Market, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token = market.sign_in("bob", market.gpt)
    generate, tries = market.server.generate, []

    def busy_once(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        return refusing(BUSY[2][0])() if len(tries) == 1 else generate(*arguments, **named)

    monkeypatch.setattr(market.server, "generate", busy_once)
    monkeypatch.setattr(openai._base_client.BaseClient, "_calculate_retry_timeout", lambda *_arguments: 0.0)
    with openai.OpenAI(base_url=url + "/v1", api_key=token, max_retries=1) as client:
        assert client.completions.create(model=market.gpt.did, prompt="x").choices
    assert len(tries) == 2
