"""Every request has an id: in each answer, in each line, and on its way to the server."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from control_plane.serving import request_ids
from tests.fixtures_market import Market
from tests.fixtures_web import url

__all__ = ["url"]

OURS = re.compile(r"[0-9a-f]{32}")


def lines_of(market: Market, request_id: str) -> list[Any]:
    return [record for line in market.journal.getvalue().splitlines() if (record := json.loads(line))["request"] == request_id]


@pytest.mark.parametrize("given", ["r-1", "018f3c1e-7b1a-7c3d-9e2f-0123456789ab", "a" * 64, "svc:a.b_c"])
def test_a_callers_id_comes_back_and_stands_in_the_line(market: Market, given: str) -> None:
    answer = market.post("/v1/completions", market.sign_in("bob", market.gpt), completion_of(market), X_Request_Id=given)
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (200, given)
    (line,) = lines_of(market, given)
    assert (line["event"], line["outcome"], line["call"]) == ("call", "done", answer.headers["X-Posthuman-Call"])


@pytest.mark.parametrize("given", ["", "a" * 65, "two words", "caf\u00e9", "a;b", '{"a":1}', "ph_" + "x" * 43])
def test_an_id_that_is_none_or_may_be_a_token_is_replaced(market: Market, given: str) -> None:
    answer = market.post("/v1/completions", market.sign_in("bob", market.gpt), completion_of(market), X_Request_Id=given)
    assert OURS.fullmatch(answer.headers["X-Request-Id"])
    assert not given or given not in market.journal.getvalue()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/healthz", 200),
        ("get", "/v1/models", 200),
        ("get", "/v1/nothing", 404),
        ("delete", "/v1/completions", 405),
        ("post", "/v1/completions", 401),
        ("post", "/v1/auth/token", 415),
    ],
)
def test_every_answer_names_its_request_also_a_refusal(market: Market, method: str, path: str, status: int) -> None:
    first, second = (getattr(market.client, method)(path) for _ in range(2))
    assert first.status_code == second.status_code == status
    assert OURS.fullmatch(first.headers["X-Request-Id"])
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert len(lines_of(market, first.headers["X-Request-Id"])) == (status >= 400)


def test_a_fault_of_ours_names_its_request(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(market.server, "generate", broken)
    token = market.sign_in("bob", market.gpt)
    answer = market.post("/v1/completions", token, completion_of(market), X_Request_Id="r-9")
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (500, "r-9")
    assert {line["event"] for line in lines_of(market, "r-9")} == {"call", "error"}


def test_a_stream_and_its_last_line_have_the_same_id(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    answer = market.post("/v1/completions", token, completion_of(market, stream=True), X_Request_Id="r-2")
    market.client.get("/healthz")  # another request of the same thread, before the stream is read
    assert answer.headers["X-Request-Id"] == "r-2"
    assert b"[DONE]" in answer.data
    assert [line["outcome"] for line in lines_of(market, "r-2")] == ["done"]


def test_the_server_is_asked_under_the_requests_id(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    generate = market.server.generate
    monkeypatch.setattr(market.server, "generate", lambda *given: (seen.append(request_ids.asked().id), generate(*given))[1])
    market.post("/v1/completions", market.sign_in("bob", market.gpt), completion_of(market), X_Request_Id="r-3")
    assert seen == ["r-3"]


def test_the_stock_openai_client_reads_it(market: Market, url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=market.sign_in("bob", market.gpt), max_retries=0) as client:
        asked: dict[str, Any] = {"model": market.gpt.did, "prompt": "hello", "max_tokens": 2}
        made = client.completions.create(**asked, extra_headers={"X-Request-Id": "r-4"})
        assert made._request_id == "r-4"
        assert OURS.fullmatch(str(client.completions.create(**asked)._request_id))
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**{**asked, "prompt": ""})
    identity = refused.value.request_id
    assert identity is not None
    (line,) = lines_of(market, identity)
    assert (line["event"], line["status"], line["code"]) == ("refused", 400, "bad_input")


def completion_of(market: Market, **more: Any) -> bytes:
    return json.dumps({"model": market.gpt.did, "prompt": "hello", "max_tokens": 3, **more}).encode()
