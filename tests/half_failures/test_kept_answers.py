"""A call under an Idempotency-Key, broken once at each write, before and after it was done; then sent until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from control_plane.database import answers, calls
from control_plane.errors import Unavailable
from control_plane.receipts.receipt import response_hash
from tests.fixtures_market import PROMPT_CANARY, Market, market, receipt_of

__all__ = ["market"]


def break_once(act: Callable[..., Any], when: str, error: BaseException) -> Callable[..., Any]:
    """`act`, that fails the first time: it is not done, or it is done and nobody hears of it."""
    left = [error]

    def broken(*arguments: Any, **named: Any) -> Any:
        if not left:
            return act(*arguments, **named)
        if when == "after":
            act(*arguments, **named)
        raise left.pop()

    return broken


def rows(market: Market, table: Any) -> int:
    with market.engine.connect() as connection:
        return len(connection.execute(select(table)).all())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["reserve", "complete"])
def test_a_call_that_is_sent_until_it_is_answered_is_charged_once(
    market: Market, monkeypatch: pytest.MonkeyPatch, method: str, when: str
) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    store = market.services.store
    broken = break_once(getattr(store, method), when, Unavailable("the database does not answer"))
    monkeypatch.setattr(store, method, broken)
    body = b'{"model": "%s", "prompt": "%s"}' % (market.gpt.did.encode(), PROMPT_CANARY.encode())

    def send() -> Any:
        return market.post("/v1/completions", token, body, Idempotency_Key="k-1")

    assert send().status_code == 503
    is_done = (method, when) == ("complete", "after")
    assert (market.calls_used(order), rows(market, answers), rows(market, calls)) == (is_done, is_done, 0)
    asked = len(market.server.asked)
    answer = send()
    assert answer.status_code == 200, answer.text
    assert (answer.headers.get("Idempotent-Replayed") == "true") == is_done
    assert len(market.server.asked) == asked + (not is_done)
    assert send().data == answer.data
    assert (market.calls_used(order), rows(market, answers), rows(market, calls)) == (1, 1, 0)
    (issued,) = store.receipts_of(order=order)
    assert issued == receipt_of(answer)
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, answer.data)


def test_a_release_that_fails_leaves_the_key_to_the_log_keeper(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    store = market.services.store
    monkeypatch.setattr(store, "release", break_once(store.release, "before", Unavailable("the database does not answer")))
    market.server.is_down = True
    record = b'{"model": "%s", "prompt": "x"}' % market.gpt.did.encode()
    assert market.post("/v1/completions", token, record, Idempotency_Key="k-1").status_code == 503
    market.server.is_down = False
    refused = market.post("/v1/completions", token, record, Idempotency_Key="k-1")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (409, "idempotency_in_flight")
    assert store.reap(lambda _worker: False).released == 1
    assert market.post("/v1/completions", token, record, Idempotency_Key="k-1").status_code == 200
    assert (market.calls_used(order), rows(market, answers), rows(market, calls)) == (1, 1, 0)
