"""`Idempotency-Key`: the same key and the same bytes give the same answer, receipt and one charge, on every surface that calls."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from control_plane.did import TransactionHash
from control_plane.web.answers import CALL_HEADER, LENGTH_HEADER, RECEIPT_HEADER
from control_plane.web.once import REPLAYED_HEADER
from tests.fixtures_market import PROMPT_CANARY, Market, open_market, receipt_of, services_over
from tests.fixtures_web import url

__all__ = ["url"]

SAME = (CALL_HEADER, RECEIPT_HEADER, LENGTH_HEADER, "Content-Type")
TENSOR = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"]}
BINARY = {"inputs": [TENSOR], "parameters": {"binary_data_output": True}}
CALLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("gpt", "/v1/completions", {"prompt": "x"}),
    ("gpt", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("embedder", "/v1/embeddings", {"input": "x"}),
    ("gpt", "/v2/models/{did}/generate", {"text_input": "x"}),
    ("gpt", "/v2/models/{did}/infer", {"inputs": [TENSOR]}),
    ("gpt", "/v2/models/{did}/infer", BINARY),
    ("embedder", "/v2/models/{did}/infer", BINARY),
    ("embedder", "/v2/models/{did}/versions/1/infer", {"inputs": [TENSOR]}),
    ("gpt", "/models/{did}", {"inputs": "x"}),
    ("embedder", "/models/{did}", {"inputs": "x"}),
)


class Bob:
    """Calls one model with one order."""

    def __init__(self, market: Market, name: str = "gpt", order: TransactionHash | None = None) -> None:
        self.market, self.listing = market, getattr(market, name)
        self.order = order or market.order("bob", self.listing)
        self.token = market.sign_in("bob", self.listing, self.order)

    def call(self, path: str, record: dict[str, Any], key: str | None = "k-1", **headers: str) -> Any:
        named = {"model": self.listing.did} if path.startswith("/v1") else {}
        given = headers if key is None else {"Idempotency_Key": key, **headers}
        return self.market.post(path.format(did=self.listing.did), self.token, json.dumps(named | record).encode(), **given)

    def complete(self, key: str | None = "k-1", **fields: Any) -> Any:
        return self.call("/v1/completions", {"prompt": PROMPT_CANARY, **fields}, key)

    @property
    def used(self) -> int:
        return self.market.calls_used(self.order)


def assert_replayed(answer: Any, first: Any) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.data == first.data
    assert [answer.headers.get(name) for name in SAME] == [first.headers.get(name) for name in SAME]
    assert answer.headers[REPLAYED_HEADER] == "true"


def code_of(answer: Any) -> tuple[int, str]:
    record = answer.get_json()
    return answer.status_code, record["error"]["code"] if isinstance(record["error"], dict) else record["code"]


@pytest.mark.parametrize(("name", "path", "record"), CALLS, ids=[f"{name} {path} {at}" for at, (name, path, _) in enumerate(CALLS)])
def test_a_call_that_is_sent_again_is_answered_as_before_on_every_surface(
    market: Market, name: str, path: str, record: dict[str, Any]
) -> None:
    bob = Bob(market, name)
    first = bob.call(path, record)
    assert first.status_code == 200, first.text
    assert REPLAYED_HEADER not in first.headers
    asked = list(market.server.asked)
    for _ in range(2):
        assert_replayed(bob.call(path, record), first)
    assert (bob.used, market.server.asked) == (1, asked)
    conflict = bob.call(path, record | {"parameters": {}} if "inputs" in record else record | {"user": "another"})
    assert code_of(conflict) == (409, "idempotency_conflict")
    assert "Retry-After" not in conflict.headers
    other = bob.call(path, record, key="k-2")
    assert (other.status_code, bob.used) == (200, 2)
    assert other.headers[CALL_HEADER] != first.headers[CALL_HEADER]
    assert bob.call(path, record, key=None).status_code == 200
    assert bob.used == 3


def test_the_answer_is_there_after_a_restart_in_another_worker_and_for_another_session_of_the_order(market: Market) -> None:
    bob = Bob(market)
    first = bob.complete()
    market.client = market.new_worker()
    assert_replayed(bob.complete(), first)
    again = Bob(market, order=bob.order)
    assert again.token != bob.token
    assert_replayed(again.complete(), first)
    assert bob.used == 1
    stranger = Bob(market)
    assert REPLAYED_HEADER not in stranger.complete().headers
    assert (bob.used, stranger.used) == (1, 1)


def test_the_same_bytes_on_another_path_or_of_another_kind_are_another_call(market: Market) -> None:
    bob = Bob(market)
    assert bob.call("/v2/models/{did}/generate", {"text_input": "x"}).status_code == 200
    assert code_of(bob.call("/v2/models/{did}/versions/1/generate", {"text_input": "x"})) == (409, "idempotency_conflict")
    assert bob.call("/v2/models/{did}/infer", {"inputs": [TENSOR]}, key="k-2").status_code == 200
    length = str(len(json.dumps({"inputs": [TENSOR]})))
    changed = bob.call("/v2/models/{did}/infer", {"inputs": [TENSOR]}, key="k-2", Inference_Header_Content_Length=length)
    assert code_of(changed) == (409, "idempotency_conflict")


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schlüssel", "tab\there", "\x7f"])
def test_a_key_that_is_none_is_refused_by_name(market: Market, key: str) -> None:
    bob = Bob(market)
    answer = bob.complete(key)
    assert code_of(answer) == (400, "bad_input")
    assert answer.get_json()["error"]["param"] == "Idempotency-Key"
    assert bob.used == 0


@pytest.mark.parametrize("key", ["!", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"'])
def test_a_key_of_visible_characters_is_taken_as_it_stands(market: Market, key: str) -> None:
    bob = Bob(market)
    first = bob.complete(key)
    assert_replayed(bob.complete(key), first)
    assert bob.used == 1


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("/v1/completions", {"prompt": "x", "stream": True}),
        ("/v2/models/{did}/generate_stream", {"text_input": "x"}),
        ("/models/{did}", {"inputs": "x", "stream": True}),
    ],
)
def test_a_stream_under_a_key_is_refused_before_it_begins(market: Market, path: str, record: dict[str, Any]) -> None:
    bob = Bob(market)
    asked = list(market.server.asked)
    assert code_of(bob.call(path, record)) == (400, "idempotency_stream")
    assert (bob.used, market.server.asked) == (0, asked)
    assert bob.complete().status_code == 200


def test_a_call_that_failed_frees_its_key_for_any_other(market: Market) -> None:
    bob = Bob(market)
    assert bob.complete(temperature=9).status_code == 400
    assert bob.complete(prompt="word " * 100).status_code == 422
    market.server.is_down = True
    assert bob.complete().status_code == 503
    market.server.is_down = False
    assert (bob.used, bob.complete().status_code, bob.used) == (0, 200, 1)


def test_the_last_call_of_an_order_is_answered_again(tmp_path: Path) -> None:
    market = open_market(tmp_path / "home", POSTHUMAN_SESSION_CALLS="1")
    bob = Bob(market)
    first = bob.complete()
    assert_replayed(bob.complete(), first)
    assert code_of(bob.complete("k-2")) == (403, "quota_exhausted")
    market.services.catalogue.withdraw(bob.listing.did, "for a test")
    assert_replayed(bob.complete(), first)
    market.services.sessions.revoke_order(bob.order, "for a test")
    assert bob.complete().status_code == 401
    assert bob.complete(key="a b").status_code == 401
    market.engine.dispose()


def test_who_sends_it_again_too_early_is_told_to_wait(market: Market) -> None:
    bob, reached, goes_on = Bob(market), threading.Event(), threading.Event()
    generate = market.server.generate

    def slow(*arguments: Any, **named: Any) -> Any:
        reached.set()
        assert goes_on.wait(20)
        return generate(*arguments, **named)

    market.server.generate = slow  # type: ignore[method-assign]  # to be slow
    answers: list[Any] = []
    client = market.new_worker()
    body = {"model": bob.listing.did, "prompt": PROMPT_CANARY}
    headers = {**market.bearer(bob.token), "Idempotency-Key": "k-1"}
    sent = json.dumps(body).encode()

    def first() -> None:
        answers.append(client.post("/v1/completions", data=sent, content_type="application/json", headers=headers))

    thread = threading.Thread(target=first)
    thread.start()
    assert reached.wait(20)
    early = market.post("/v1/completions", bob.token, sent, Idempotency_Key="k-1")
    assert code_of(early) == (409, "idempotency_in_flight")
    assert early.headers["Retry-After"] == "1"
    goes_on.set()
    thread.join(20)
    assert_replayed(market.post("/v1/completions", bob.token, sent, Idempotency_Key="k-1"), answers[0])
    assert bob.used == 1


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Market]:
    market = open_market(tmp_path / "home", POSTHUMAN_IDEMPOTENCY_MAX_BYTES="10", POSTHUMAN_IDEMPOTENCY_KEPT_S="60")
    yield market
    market.engine.dispose()


def test_an_answer_that_is_too_long_is_given_once_and_never_charged_again(small: Market) -> None:
    bob = Bob(small)
    assert bob.complete().status_code == 200
    assert code_of(bob.complete()) == (409, "idempotency_not_kept")
    assert bob.used == 1
    small.clock.now += 60
    assert (bob.complete().status_code, bob.used) == (200, 2)


def test_the_receipt_of_an_answer_that_is_given_again_is_the_one_in_the_log(market: Market) -> None:
    bob = Bob(market)
    first, again = bob.complete(), bob.complete()
    assert receipt_of(again) == receipt_of(first)
    assert [issued.id for issued in market.services.store.receipts_of(order=bob.order)] == [receipt_of(first).id]
    lines = [json.loads(line) for line in market.journal.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["call", "replayed"]
    assert (lines[1]["route"], lines[1]["receipt"]) == ("/v1/completions", lines[0]["receipt"])
    assert PROMPT_CANARY not in market.journal.getvalue()
    assert "k-1" not in market.journal.getvalue()


def test_the_stock_client_gets_the_same_completion_and_its_own_conflict(market: Market, url: str) -> None:
    bob = Bob(market)
    named = {"Idempotency-Key": "k-1"}
    with openai.OpenAI(base_url=url + "/v1", api_key=bob.token, max_retries=0) as client:
        first, again = (client.completions.create(model=bob.listing.did, prompt="x", extra_headers=named) for _ in range(2))
        assert (first.id, first.choices) == (again.id, again.choices)
        with pytest.raises(openai.ConflictError) as caught:
            client.completions.create(model=bob.listing.did, prompt="y", extra_headers=named)
        assert caught.value.code == "idempotency_conflict"
    assert bob.used == 1


def test_a_kept_answer_is_forgotten_by_the_keeper(small: Market) -> None:
    from control_plane.flows.keep import keeper_steps

    bob = Bob(small)
    bob.complete()
    services = services_over(small.engine, small.services.settings, small.ledger, small.server, small.clock)
    named: dict[str, Any] = dict.fromkeys(
        ("is_alive", "log", "ledger", "wallet", "log_nft", "watch", "watch_chain", "watch_listings", "index")
    )
    steps = keeper_steps(
        **named,
        store=services.store,
        run_folder=small.services.settings.home,
        checkpoint_interval_s=1,
        anchor_interval_s=1,
        anchor_receipts=1,
        clock=small.clock,
    )
    (sweep,) = [step for step in steps if step.name == "sweep"]
    assert sweep.run() is None
    small.clock.now += 60
    assert sweep.run() == {"forgotten": 1}
    assert sweep.run() is None
