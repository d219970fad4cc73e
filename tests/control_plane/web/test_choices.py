"""Several answers to one question, and what sampling there is, as the stock `openai` client asks for it."""

from __future__ import annotations

import threading
import time
from typing import Any

import openai
import pytest
import requests

from control_plane.errors import Unavailable
from control_plane.fields import INT64
from control_plane.receipts.store import Issued
from control_plane.web.choices import MOST_CHOICES
from tests.fixtures_market import Market, receipt_of
from tests.fixtures_web import url

__all__ = ["url"]

DRAWN: dict[str, Any] = {"prompt": "hello there", "max_tokens": 5, "temperature": 0.8}


def client_of(market: Market, url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=market.sign_in("bob", market.gpt), max_retries=0)


def test_each_choice_is_what_its_own_seed_gives_alone(market: Market, url: str) -> None:
    with client_of(market, url) as client:
        raw = client.completions.with_raw_response.create(model=market.gpt.did, n=4, seed=7, **DRAWN)
        made = raw.parse()
        alone = [client.completions.create(model=market.gpt.did, seed=seed, **DRAWN) for seed in range(7, 11)]
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in made.choices] == [each.choices[0].text for each in alone]
    assert made.choices[0].text != made.choices[1].text
    assert made.usage is not None and alone[0].usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (alone[0].usage.prompt_tokens, 20)


def test_several_choices_are_one_call_with_one_receipt_over_all_of_them(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    answer = market.complete(token, n=3)
    receipt = receipt_of(answer).signed.receipt
    usage = answer.get_json()["usage"]
    assert (receipt.units_in, receipt.units_out) == (usage["prompt_tokens"], usage["completion_tokens"]) == (1, 12)
    assert market.calls_used(order) == 1
    assert len(market.server.asked) == 3


def test_streamed_choices_come_side_by_side_and_joined_are_the_whole_ones(market: Market, url: str) -> None:
    with client_of(market, url) as client:
        whole = client.completions.create(model=market.gpt.did, n=3, seed=1, **DRAWN)
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.completions.create(model=market.gpt.did, n=3, seed=1, **DRAWN, **options))
    texts, reasons = {0: "", 1: "", 2: ""}, {}
    for chunk in chunks[:-2]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason is not None:
            reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-2].usage == whole.usage
    assert Issued.from_json(chunks[-1].receipt).signed.receipt.units_out == 15


def test_all_choices_are_computed_at_once(market: Market) -> None:
    """None is finished before every one has begun."""
    all_here = threading.Barrier(4, timeout=20)
    market.server.before_piece = lambda number: all_here.wait() if number == 0 else None
    answer = market.complete(market.sign_in("bob", market.gpt), n=4)
    assert answer.status_code == 200, answer.data


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_choice_that_fails_stops_the_others_and_nothing_is_charged(market: Market, is_streaming: bool) -> None:
    order = market.order("bob", market.gpt)
    token, computed = market.sign_in("bob", market.gpt, order), []
    first = threading.Lock()

    def before(number: int) -> None:
        computed.append(number)
        if first.acquire(blocking=False):
            raise Unavailable("the model is busy")
        time.sleep(0.05)

    market.server.before_piece = before
    answer = market.complete(token, n=3, max_tokens=60, stream=is_streaming)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "unavailable")
    assert market.calls_used(order) == 0
    time.sleep(0.3)
    count = len(computed)
    time.sleep(0.2)
    assert len(computed) == count < 60, "somebody still computes"


def test_a_seed_at_the_end_of_its_range_has_a_next_one(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    both = market.complete(token, n=2, seed=INT64 - 1, temperature=0.8).get_json()["choices"]
    other = market.complete(token, seed=-INT64, temperature=0.8).get_json()["choices"]
    assert both[1]["text"] == other[0]["text"]


@pytest.mark.parametrize("change", [{"n": 0}, {"n": MOST_CHOICES + 1}, {"n": True}, {"n": 2, "best_of": 2}, {"best_of": 2}])
def test_what_cannot_be_chosen_is_refused_by_its_name(market: Market, change: dict[str, Any]) -> None:
    answer = market.complete(market.sign_in("bob", market.gpt), **change)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, list(change)[-1])


def test_openai_reads_the_probability_of_each_token(market: Market, url: str) -> None:
    with client_of(market, url) as client:
        made = client.completions.create(model=market.gpt.did, logprobs=0, n=2, seed=3, **DRAWN)
        without = client.completions.create(model=market.gpt.did, n=2, seed=3, **DRAWN)
        chunks = list(client.completions.create(model=market.gpt.did, logprobs=0, n=2, seed=3, stream=True, **DRAWN))
    assert [choice.text for choice in made.choices] == [choice.text for choice in without.choices]
    assert all(choice.logprobs is None for choice in without.choices)
    for choice in made.choices:
        told = choice.logprobs
        assert told is not None and told.tokens is not None and told.text_offset is not None and told.top_logprobs is None
        assert "".join(told.tokens) == choice.text
        assert [choice.text[at:].startswith(token) for at, token in zip(told.text_offset, told.tokens, strict=True)] == [True] * 5
        assert told.token_logprobs is not None and all(value < 0 for value in told.token_logprobs)
        streamed = [each.logprobs for chunk in chunks for each in chunk.choices if each.index == choice.index and each.logprobs]
        for name in ("tokens", "token_logprobs", "text_offset"):
            assert [value for one in streamed for value in getattr(one, name)] == getattr(told, name)


def test_a_stop_text_stands_behind_the_text_among_its_tokens(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    stop = market.complete(token, temperature=0).get_json()["choices"][0]["text"].split()[1]
    (choice,) = market.complete(token, temperature=0, stop=stop, logprobs=0).get_json()["choices"]
    assert "".join(choice["logprobs"]["tokens"]).startswith(choice["text"]) and stop not in choice["text"]
    assert choice["logprobs"]["tokens"][-1].strip() == stop


def test_other_tokens_probabilities_are_refused_and_the_error_says_what_there_is(market: Market) -> None:
    answer = market.complete(market.sign_in("bob", market.gpt), logprobs=1)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["param"]) == (400, "logprobs")
    assert "0, which gives the logarithm of each chosen token" in error["message"]


def test_every_parameter_reaches_the_server_under_its_tensors_name(
    market: Market, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[dict[str, Any]] = []
    generate = market.server.generate

    def noting(name: str, fields: Any, *others: Any) -> Any:
        reached.append(dict(fields))
        return generate(name, fields, *others)

    monkeypatch.setattr(market.server, "generate", noting)
    asked = {"frequency_penalty": -0.5, "presence_penalty": 1.5, "temperature": 0.5, "top_p": 0.25}
    extra = {"top_k": 5, "min_p": 0.125, "repetition_penalty": 1.25}
    with client_of(market, url) as client:
        client.completions.create(model=market.gpt.did, prompt="hello", extra_body=extra, **asked)
        client.completions.create(model=market.gpt.did, prompt="hello", frequency_penalty=0, extra_body={"repetition_penalty": 1.0})
    assert {name: reached[0][name] for name in (*asked, *extra)} == {**asked, **extra}
    assert not {"frequency_penalty", "presence_penalty", "min_p", "repetition_penalty", "logprobs"} & set(reached[1])


def test_a_reader_who_hangs_up_stops_every_choice_and_gets_a_receipt_for_what_was_sent(market: Market, url: str) -> None:
    market.server.before_piece = lambda _number: time.sleep(0.05)
    token = market.sign_in("bob", market.gpt)
    record = {"model": market.gpt.did, "prompt": "x", "max_tokens": 60, "stream": True, "n": 3}
    with requests.post(f"{url}/v1/completions", json=record, headers=market.bearer(token), stream=True, timeout=20) as answer:
        next(answer.iter_content(chunk_size=None))
    until = time.monotonic() + 20
    while (issued := market.services.store.receipt_of_call(answer.headers["X-Posthuman-Call"])) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert 0 < issued.signed.receipt.units_out < 180
    while market.server.closed_streams < 3:
        assert time.monotonic() < until, market.server.closed_streams
        time.sleep(0.02)


def test_a_conversation_has_several_answers_too_whole_and_streamed(market: Market, url: str) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0.8, "seed": 2}
    with client_of(market, url) as client:
        made = client.chat.completions.create(model=market.gpt.did, n=3, logprobs=True, **asked)
        alone = client.chat.completions.create(model=market.gpt.did, **{**asked, "seed": 4})
        chunks = list(client.chat.completions.create(model=market.gpt.did, n=3, stream=True, **asked))
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert made.choices[2].message.content == alone.choices[0].message.content
    assert made.usage is not None and made.usage.completion_tokens == 12
    for choice in made.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        assert "".join(token.token for token in choice.logprobs.content) == choice.message.content
    texts = {0: "", 1: "", 2: ""}
    for chunk in chunks:
        for each in chunk.choices:
            texts[each.index] += each.delta.content or ""
    assert texts == {choice.index: choice.message.content for choice in made.choices}
