"""Calls go past Flask, and cannot be told from those that go through it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from control_plane.web import calls, create_app
from control_plane.web.sent import sent
from tests.fixtures_market import Market

TEXT = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["one two"]}
OF_EACH_CALL = (
    "request",
    "at",
    "ms",
    "access_ms",
    "server_ms",
    "receipt_ms",
    "first_ms",
    "call",
    "sequence",
    "receipt",
    "id",
    "where",
)
"""Facts of a line that no two calls share."""


@dataclass(frozen=True)
class Way:
    """One of two applications over the same market, and what it has said and done."""

    client: FlaskClient
    journal: io.StringIO
    dispatched: list[str]

    def lines(self) -> list[dict[str, Any]]:
        said = [json.loads(line) for line in self.journal.getvalue().splitlines()]
        return [{name: fact for name, fact in line.items() if name not in OF_EACH_CALL} for line in said]


def way(market: Market, monkeypatch: pytest.MonkeyPatch) -> Way:
    journal, dispatched = io.StringIO(), []
    app = create_app(market.services, journal)
    whole = app.full_dispatch_request

    def dispatch() -> Any:
        dispatched.append("one")
        return whole()

    monkeypatch.setattr(app, "full_dispatch_request", dispatch)
    return Way(app.test_client(), journal, dispatched)


@pytest.fixture
def ways(market: Market, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Way, Way]]:
    """The short one and Flask's."""

    def only_flask(app: Flask, *_: Any) -> Any:
        return app.wsgi_app

    short = way(market, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(calls, "direct", only_flask)
        longer = way(market, monkeypatch)
    yield short, longer


def requests(market: Market) -> dict[str, tuple[str, dict[str, Any]]]:
    """By what they are: path, and what Flask's client is told."""
    gpt, embedder = market.gpt.did, market.embedder.did
    keys = {did: market.bearer(market.sign_in("bob", listing)) for did, listing in ((gpt, market.gpt), (embedder, market.embedder))}
    asked = {"model": gpt, "prompt": "one two", "max_tokens": 2, "temperature": 0}
    said = {"messages": [{"role": "user", "content": "one"}], "max_tokens": 2}
    tensors = {"inputs": [TEXT], "outputs": [{"name": "embedding"}]}
    infer = f"/v2/models/{embedder}/infer"
    known = {"headers": keys[gpt]}
    return {
        "completion": ("/v1/completions", {"json": asked, **known}),
        "stream": ("/v1/completions", {"json": {**asked, "stream": True}, **known}),
        "embedding": ("/v1/embeddings", {"json": {"model": embedder, "input": "one"}, "headers": keys[embedder]}),
        "chat": ("/v1/chat/completions", {"json": {"model": gpt, **said}, **known}),
        "chat by URL": (f"/models/{gpt}/v1/chat/completions", {"json": said, **known}),
        "infer": (infer, {"json": tensors, "headers": keys[embedder]}),
        "generate": (f"/v2/models/{gpt}/generate", {"json": {"text_input": "one", "max_tokens": 2}, **known}),
        "generate_stream": (f"/v2/models/{gpt}/generate_stream", {"json": {"text_input": "one", "max_tokens": 2}, **known}),
        "Hugging Face": (f"/models/{gpt}", {"json": {"inputs": "one", "parameters": {"max_new_tokens": 2}}, **known}),
        "no token": ("/v1/completions", {"json": asked}),
        "another token": ("/v1/completions", {"json": asked, "headers": keys[embedder]}),
        "unknown token": (infer, {"json": tensors, "headers": market.bearer("ph_" + "a" * 43)}),
        "unknown model": (f"/v2/models/did:op:{'0' * 64}/infer", {"json": tensors, **known}),
        "no DID": ("/v2/models/did:op:ABC/infer", {"json": tensors, **known}),
        "two DIDs": (f"/models/{gpt}/{gpt}", {"json": said, **known}),
        "no JSON": ("/v1/completions", {"data": b'{"model": ', "content_type": "application/json", **known}),
        "not UTF-8": ("/v1/completions", {"data": b'{"model": "\xff"}', "content_type": "application/json", **known}),
        "too deep": ("/v1/completions", {"data": b"[" * 100, "content_type": "application/json", **known}),
        "too large": ("/v1/completions", {"data": b" " * 100_001, "content_type": "application/json", **known}),
        "another content": ("/v1/completions", {"data": b"x=1", "content_type": "text/plain", **known}),
        "charset": ("/v1/completions", {"data": json.dumps(asked), "content_type": "Application/JSON; charset=utf-8", **known}),
        "compressed": ("/v1/completions", {"json": asked, "headers": {**keys[gpt], "Content-Encoding": "gzip"}}),
        "unknown parameter": ("/v1/completions", {"json": {**asked, "frequency": 1}, **known}),
        "wrong task": ("/v1/embeddings", {"json": {"model": gpt, "input": "one"}, **known}),
        "no such length": (infer, {"json": tensors, "headers": {**keys[embedder], "Inference-Header-Content-Length": "9999"}}),
        "named by its caller": (infer, {"json": tensors, "headers": {**keys[embedder], "X-Request-Id": "mine-1"}}),
        "no such path": ("/v1/completion", {"json": asked, **known}),
        "the place of a DID": ("/models/<did>", {"json": said, **known}),
        "the place of a DID, in escapes": ("/v2/models/%3Cdid%3E/infer", {"json": tensors, **known}),
        "a DID and the place of one": (f"/models/{gpt}/<did>", {"json": said, **known}),
        "letters of no DID": ("/models/did:op:\u00e9", {"json": said, **known}),
        "slash behind": ("/v1/completions/", {"json": asked, **known}),
    }  # fmt: skip


def told(answer: Any) -> tuple[int, list[str], Any]:
    """Status, the headers' names, the body without what no two answers share."""
    names = sorted(name for name, _ in answer.headers)
    try:
        record = json.loads(answer.data)
    except ValueError:
        return answer.status_code, names, answer.data.count(b"data: ")
    if isinstance(record, dict):  # the text of a 500 names its line in the journal
        shared = ("id", "created", "error") if answer.status_code == 500 else ("id", "created")
        record = {name: value for name, value in record.items() if name not in shared}
    return answer.status_code, names, record


def test_both_ways_answer_and_tell_alike(market: Market, ways: tuple[Way, Way]) -> None:
    short, longer = ways
    for name, (path, given) in requests(market).items():
        answers = [each.client.post(path, **given) for each in ways]
        assert told(answers[0]) == told(answers[1]), name
        assert short.lines() == longer.lines(), name
        assert answers[0].status_code != 500, name


def test_both_ways_answer_alike_when_something_breaks(
    market: Market, ways: tuple[Way, Way], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, given = requests(market)["infer"]

    def broken(*_: Any) -> None:
        raise RuntimeError("one two")

    market.server.is_down = True
    down = [told(each.client.post(path, **given)) for each in ways]
    assert down[0] == down[1]
    assert down[0][0] == 503
    market.server.is_down = False
    monkeypatch.setattr(market.server, "infer", broken)
    failed = [told(each.client.post(path, **given)) for each in ways]
    assert failed[0] == failed[1]
    assert failed[0][0] == 500
    assert ways[0].lines() == ways[1].lines()
    assert "one two" not in ways[0].journal.getvalue()


def test_calls_go_past_flask_and_what_is_not_plain_goes_through_it(market: Market, ways: tuple[Way, Way]) -> None:
    short, _ = ways
    asked = requests(market)
    for name in ("completion", "stream", "embedding", "chat", "chat by URL", "infer", "generate", "Hugging Face", "no token"):
        path, given = asked[name]
        short.client.post(path, **given).get_data()
    assert short.dispatched == []
    path, given = asked["completion"]
    keyed = {**given, "headers": {**given["headers"], "Idempotency-Key": "k-1"}}
    first, second = (short.client.post(path, **keyed) for _ in range(2))
    assert (first.status_code, second.headers["Idempotent-Replayed"]) == (200, "true")
    assert short.client.get(path).status_code == 405
    assert short.client.post(f"/v2/models/{market.embedder.did}/versions/1/infer", **asked["infer"][1]).status_code == 200
    assert len(short.dispatched) == 4


@pytest.mark.parametrize("path", ["/v2/models/{did}/infer", "/v1/auth/nonce"])
def test_a_thread_that_has_answered_keeps_nothing_of_the_request(market: Market, path: str) -> None:
    market.client.post(path.format(did=market.gpt.did), data=b"x" * 1000)
    with pytest.raises(LookupError):
        sent()
