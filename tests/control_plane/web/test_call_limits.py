"""Too many calls, and too fast: 429 with Retry-After on every calling surface, and what the stock clients make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from huggingface_hub.errors import OverloadedError

from control_plane.errors import PosthumanError
from control_plane.flows.call import admit, call, call_streaming
from tests.fixtures_market import Market, open_market
from tests.fixtures_web import serving


def opened(tmp_path: Path, **given: str) -> Iterator[Market]:
    market = open_market(tmp_path / "home", **given)
    yield market
    market.engine.dispose()


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Market]:
    """Two calls of a session at once."""
    yield from opened(tmp_path, POSTHUMAN_SESSION_CONCURRENCY="2", POSTHUMAN_BUYER_CONCURRENCY="3")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Market]:
    """Three calls of a session a minute."""
    yield from opened(tmp_path, POSTHUMAN_SESSION_RATE="3")


def begun(market: Market, token: str) -> Any:
    """A stream that has begun and is under way until it is closed."""
    record = {"model": market.gpt.did, "prompt": "x", "max_tokens": 9, "stream": True}
    answer = market.client.post("/v1/completions", json=record, headers=market.bearer(token), buffered=False)
    assert answer.status_code == 200
    next(answer.iter_encoded())
    return answer


PREDICTING = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("gpt", "/v1/completions", {"prompt": "x"}),
    ("gpt", "/v1/completions", {"prompt": "x", "stream": True}),
    ("gpt", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("gpt", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
    ("embedder", "/v1/embeddings", {"input": "x"}),
    ("gpt", "/v2/models/{did}/generate", {"text_input": "x"}),
    ("gpt", "/v2/models/{did}/generate_stream", {"text_input": "x"}),
    ("gpt", "/v2/models/{did}/infer", PREDICTING),
    ("embedder", "/v2/models/{did}/infer", PREDICTING),
    ("gpt", "/models/{did}", {"inputs": "x"}),
    ("gpt", "/models/{did}", {"inputs": "x", "stream": True}),
    ("embedder", "/models/{did}", {"inputs": "x"}),
    ("gpt", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("gpt", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stream": True}),
    ("gpt", "/models/{did}/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
)


@pytest.mark.parametrize(("name", "path", "record"), CALLS)
def test_every_calling_surface_keeps_to_the_limits(slow: Market, name: str, path: str, record: dict[str, Any]) -> None:
    listing = getattr(slow, name)
    order = slow.order("bob", listing)
    token = slow.sign_in("bob", listing, order)
    named = {"model": listing.did} if path.startswith("/v1") else {}
    answers = [slow.post(path.format(did=listing.did), token, json.dumps(named | record).encode()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429], answers[0].text
    assert (answers[3].headers["Retry-After"], answers[3].get_json().get("code", "too_fast")) == ("20", "too_fast")
    assert slow.calls_used(order) == 3
    slow.clock.now += 20
    assert slow.post(path.format(did=listing.did), token, json.dumps(named | record).encode()).status_code == 200


def test_streams_under_way_count_until_they_end_or_are_left(narrow: Market) -> None:
    order = narrow.order("bob", narrow.gpt)
    token = narrow.sign_in("bob", narrow.gpt, order)
    first, second = begun(narrow, token), begun(narrow, token)
    refused = narrow.complete(token)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.get_json()["error"] | {"message": ""} == {
        "message": "",
        "type": "rate_limit_error",
        "param": None,
        "code": "too_many_calls",
        "expected": None,
        "found": None,
    }
    assert narrow.calls_used(order) == 2
    first.close()
    assert narrow.complete(token).status_code == 200
    for _ in second.iter_encoded():
        pass
    second.close()
    third, fourth = begun(narrow, token), begun(narrow, token)
    third.close()
    fourth.close()


def test_a_buyer_with_another_session_or_another_worker_gets_no_more(narrow: Market) -> None:
    order = narrow.order("bob", narrow.gpt)
    tokens = [narrow.sign_in("bob", narrow.gpt, order) for _ in range(2)]
    streams = [begun(narrow, tokens[0]), begun(narrow, tokens[0]), begun(narrow, tokens[1])]
    record = {"model": narrow.gpt.did, "prompt": "x"}
    for client in (narrow.client, narrow.new_worker()):
        answer = client.post("/v1/completions", json=record, headers=narrow.bearer(tokens[1]))
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (429, "too_many_calls")
    assert narrow.complete(narrow.sign_in("carol", narrow.gpt)).status_code == 200
    for stream in streams:
        stream.close()


def raising(error: BaseException) -> Callable[..., Any]:
    def ask(*_arguments: object, **_named: object) -> Any:
        raise error

    return ask


@pytest.mark.parametrize("error", [PosthumanError("ours"), ValueError("a fault"), KeyboardInterrupt()])
def test_a_call_that_fails_gives_its_place_back(narrow: Market, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    found = narrow.services.sessions.find(narrow.sign_in("bob", narrow.gpt))
    admitted = admit(narrow.services, found, narrow.gpt.did)
    ends: list[Any] = [lambda _issued: b"", lambda _error: b"", lambda _how: None]
    for _ in range(4):
        with pytest.raises(type(error)):
            call(narrow.services, admitted, b"{}", raising(error))
        with pytest.raises(type(error)):
            call_streaming(narrow.services, admitted, b"{}", raising(error), *ends)
    monkeypatch.setattr(narrow.services.store, "reserve", raising(error))
    for _ in range(4):
        with pytest.raises(type(error)):
            call_streaming(narrow.services, admitted, b"{}", raising(error), *ends)


def test_the_stock_clients_raise_their_own_errors_and_openais_waits_and_tries_again(slow: Market) -> None:
    token = slow.sign_in("bob", slow.gpt)
    with serving(slow) as url, openai.OpenAI(base_url=url + "/v1", api_key=token, max_retries=0) as client:
        for _ in range(3):
            client.completions.create(model=slow.gpt.did, prompt="x")
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model=slow.gpt.did, prompt="x")
        assert (caught.value.code, caught.value.response.headers["retry-after"]) == ("too_fast", "20")
        with pytest.raises(OverloadedError):
            InferenceClient(model=f"{url}/models/{slow.gpt.did}", token=token).text_generation("x")
        asking = triton.InferenceServerClient(url.removeprefix("http://"))
        text = triton.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"x"], dtype=np.object_))
        with pytest.raises(triton.InferenceServerException, match="at most 3 a minute"):
            asking.infer(slow.gpt.did, [text], headers=slow.bearer(token))
        asking.close()
        slow.clock.now += 19  # a second from now there is room
        refusals: list[int] = []

        def seen(response: Any) -> None:
            refusals.append(response.status_code)
            if response.status_code == 429:
                slow.clock.now += float(response.headers["retry-after"])

        again = client.with_options(max_retries=2)
        again._client.event_hooks["response"].append(seen)
        assert again.completions.create(model=slow.gpt.did, prompt="x").choices
        assert refusals == [429, 200]
