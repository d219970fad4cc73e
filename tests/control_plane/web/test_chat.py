"""`/v1/chat/completions` with the stock clients over HTTP, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from huggingface_hub import InferenceClient

from control_plane.receipts.receipt import response_hash
from control_plane.receipts.store import Issued
from control_plane.web.chat_messages import MOST_MESSAGES
from tests.control_plane.web.asking import checked
from tests.fixtures_market import CONTEXT_LENGTH, PROMPT_CANARY, Market, events_of, receipt_of, record_of
from tests.fixtures_web import url

__all__ = ["url"]

SAID: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What does the market sell?"},
]
AS_PLAIN = "system: Be brief.\nuser: What does the market sell?\nassistant:"


@pytest.fixture
def client(market: Market, url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=market.sign_in("bob", market.gpt), max_retries=0) as made:
        yield made


def told(market: Market, **fields: Any) -> str:
    """What the model's backend is told and answers, asked directly."""
    return market.server.generate(market.gpt.entry_name, {"text_input": AS_PLAIN, "temperature": 0, **fields}).text


def test_openai_talks_and_reads_text_usage_template_and_receipt(market: Market, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=market.gpt.did, messages=SAID, max_tokens=5, temperature=0)
    answer = raw.parse()
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", told(market, max_tokens=5))
    assert (choice.finish_reason, answer.object) == ("length", "chat.completion")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(AS_PLAIN.split()), 5)
    assert answer.model_extra == {"chat_template": "plain"}
    assert answer.system_fingerprint == market.gpt.model_digest
    assert receipt_of(raw).signed.receipt.units_out == 5


def test_openai_streams_who_speaks_then_text_then_the_end_then_usage_then_the_receipt(
    market: Market, client: openai.OpenAI
) -> None:
    chunks = list(
        client.chat.completions.create(
            model=market.gpt.did,
            messages=SAID,
            max_completion_tokens=5,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == told(market, max_tokens=5)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["length"]
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [5]
    assert Issued.from_json(chunks[-1].receipt).signed.receipt.units_out == 5
    assert {chunk.chat_template for chunk in chunks} == {"plain"}


def test_openais_own_collector_of_a_stream_takes_it(market: Market, client: openai.OpenAI) -> None:
    end = told(market, max_tokens=4).split()[3]
    with client.chat.completions.stream(model=market.gpt.did, messages=SAID, max_tokens=9, temperature=0, stop=[end]) as stream:
        stream.until_done()
        answer = stream.get_final_completion()  # raises where an answer was cut short
    assert answer.choices[0].message.content == told(market, max_tokens=9, stop=[end])
    assert answer.choices[0].finish_reason == "stop"


def test_the_receipt_of_a_stream_is_over_every_byte_before_it(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    record = {"model": market.gpt.did, "messages": SAID, "max_tokens": 3, "stream": True}
    answer = market.post("/v1/chat/completions", token, json.dumps(record).encode())
    events = events_of(answer.data)
    assert events[-1] == b"data: [DONE]\n\n"
    issued = Issued.from_json(record_of(events[-2])["receipt"])
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, b"".join(events[:-2]))


def test_a_seed_a_stop_and_parts_of_text_mean_what_they_say(market: Market, client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What does the "}, {"type": "text", "text": "market sell?"}]
    asked = {"model": market.gpt.did, "max_tokens": 6, "seed": 7}
    plain = client.chat.completions.create(messages=SAID, **asked).choices[0]
    assert plain.message.content == told(market, max_tokens=6, temperature=1.0, seed=7)
    assert client.chat.completions.create(messages=[SAID[0], {"role": "user", "content": parts}], **asked).choices[0] == plain
    assert client.chat.completions.create(messages=[{**SAID[0], "role": "developer"}, SAID[1]], **asked).choices[0] == plain
    word = str(plain.message.content).split()[1]
    stopped = client.chat.completions.create(messages=SAID, stop=[word], **asked).choices[0]
    assert stopped.finish_reason == "stop"
    assert word not in str(stopped.message.content)


def test_logprobs_of_the_chosen_tokens_are_told_whole_and_streamed(market: Market, client: openai.OpenAI) -> None:
    asked = {"model": market.gpt.did, "messages": SAID, "max_tokens": 4, "temperature": 0, "logprobs": True}
    made = market.server.generate(
        market.gpt.entry_name, {"text_input": AS_PLAIN, "max_tokens": 4, "temperature": 0, "logprobs": True}
    )
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None and whole.logprobs.content is not None
    assert [(each.token, each.logprob) for each in whole.logprobs.content] == list(
        zip(made.token_texts, made.token_logprobs, strict=True)
    )
    assert all(each.bytes == list(each.token.encode()) and each.top_logprobs == [] for each in whole.logprobs.content)
    streamed = [
        each
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        if choice.logprobs is not None
        for each in choice.logprobs.content or []
    ]
    assert streamed == whole.logprobs.content


def test_without_a_limit_an_answer_goes_to_the_end_of_the_context(market: Market, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=market.gpt.did, messages=SAID)
    assert answer.usage is not None
    assert answer.usage.total_tokens == CONTEXT_LENGTH


def test_an_answer_goes_back_as_the_client_holds_it(market: Market, client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model=market.gpt.did, messages=SAID, max_tokens=3).choices[0].message
    again = [*SAID, first.model_dump(), {"role": "user", "content": "Why?"}]
    assert client.chat.completions.create(model=market.gpt.did, messages=again, max_tokens=3).choices[0].message.content


@pytest.mark.parametrize("model", [None, "tgi", "the DID"])
def test_hugging_faces_client_talks_to_a_models_url(market: Market, url: str, model: str | None) -> None:
    client = InferenceClient(model=f"{url}/models/{market.gpt.did}", token=market.sign_in("bob", market.gpt))
    more = {} if model is None else {"extra_body": {"model": market.gpt.did if model == "the DID" else model}}
    answer = client.chat_completion(SAID, max_tokens=5, temperature=0, **more)
    assert answer.choices[0].message.content == told(market, max_tokens=5)
    assert (answer.usage.completion_tokens, answer.chat_template) == (5, "plain")


def test_hugging_faces_client_streams_a_conversation(market: Market, url: str) -> None:
    client = InferenceClient(model=f"{url}/models/{market.gpt.did}", token=market.sign_in("bob", market.gpt))
    chunks = list(client.chat_completion(SAID, max_tokens=5, temperature=0, stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == told(market, max_tokens=5)
    assert Issued.from_json(chunks[-1].receipt).signed.receipt.units_out == 5


def test_a_model_says_whose_template_it_has(market: Market) -> None:
    def template_of(did: str) -> object:
        return market.client.get(f"/v1/models/{did}").get_json().get("chat_template")

    assert template_of(market.gpt.did) == "plain"
    assert template_of(market.embedder.did) is None
    details = {"context_length": CONTEXT_LENGTH, "chat_template": {"file": "1/chat_template.jinja"}}
    own = market.publish("text-generation", "talker", details=details)
    assert template_of(own.did) == "model"
    token = market.sign_in("bob", own)
    record = {"model": own.did, "messages": SAID, "max_tokens": 3}
    assert market.post("/v1/chat/completions", token, json.dumps(record).encode()).get_json()["chat_template"] == "model"


OTHER = [{"role": "user", "content": PROMPT_CANARY}]
REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": "hello"}, "messages"),
    ({"messages": [{}] * (MOST_MESSAGES + 1)}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [PROMPT_CANARY]}, "messages[0]"),
    ({"messages": [*OTHER, {"content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "judge", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": "x", "name": PROMPT_CANARY}]}, "messages[0].name"),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 3}, "max_completion_tokens"),
    ({"temperature": 3}, "temperature"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"store": True}, "store"),
    ({"stream": True, "stream_options": {"tokens": True}}, "stream_options"),
    ({"beams": 3}, "beams"),
    ({"prompt": PROMPT_CANARY}, "prompt"),
]


@pytest.mark.parametrize(
    ("changes", "param"), REFUSALS, ids=[f"{param} {next(iter(changes))} {n}" for n, (changes, param) in enumerate(REFUSALS)]
)
def test_what_is_no_conversation_or_not_supported_is_refused_by_name(opened: Any, changes: dict[str, Any], param: str) -> None:
    market, tokens, orders = opened
    record = {"model": market.gpt.did, "messages": OTHER, **changes}
    checked(market, orders, market.post("/v1/chat/completions", tokens["gpt"], json.dumps(record).encode()), 400, param)


def test_a_model_for_something_else_does_not_talk(opened: Any) -> None:
    market, tokens, orders = opened
    record = json.dumps({"model": market.embedder.did, "messages": OTHER}).encode()
    error = checked(market, orders, market.post("/v1/chat/completions", tokens["embedder"], record), 400, "model")
    assert error["code"] == "wrong_task"


def test_under_a_models_url_the_body_may_not_name_another(opened: Any) -> None:
    market, tokens, orders = opened
    record = json.dumps({"model": market.other_gpt.did, "messages": OTHER}).encode()
    answer = market.post(f"/models/{market.gpt.did}/v1/chat/completions", tokens["gpt"], record)
    checked(market, orders, answer, 400, "model")


def test_a_conversation_longer_than_the_context_is_refused_by_name(opened: Any) -> None:
    market, tokens, orders = opened
    long = [{"role": "user", "content": "word " * CONTEXT_LENGTH}]
    record = json.dumps({"model": market.gpt.did, "messages": long}).encode()
    checked(market, orders, market.post("/v1/chat/completions", tokens["gpt"], record), 422, "messages")


def test_each_refusal_is_the_stock_clients_own_kind_of_error(market: Market, url: str) -> None:
    def ask(token: str, did: str, **fields: Any) -> None:
        with openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as client:
            client.chat.completions.create(model=did, messages=SAID, **fields)

    token = market.sign_in("bob", market.gpt)
    with pytest.raises(openai.BadRequestError) as bad:
        ask(token, market.gpt.did, temperature=9)
    assert (bad.value.param, bad.value.code, bad.value.type) == ("temperature", "bad_input", "invalid_request_error")
    with pytest.raises(openai.AuthenticationError):
        ask("ph_" + "x" * 43, market.gpt.did)
    with pytest.raises(openai.PermissionDeniedError):
        ask(token, market.other_gpt.did)
    with pytest.raises(openai.NotFoundError):
        ask(token, "did:op:" + "0" * 64)
    market.server.is_down = True
    with pytest.raises(openai.InternalServerError):
        ask(token, market.gpt.did)


def test_a_stream_that_breaks_raises_in_the_stock_client_and_costs_nothing(market: Market, url: str) -> None:
    order = market.order("bob", market.gpt)
    market.server.break_after = 2
    with openai.OpenAI(base_url=f"{url}/v1", api_key=market.sign_in("bob", market.gpt, order), max_retries=0) as client:
        stream = client.chat.completions.create(model=market.gpt.did, messages=SAID, max_tokens=5, stream=True)
        with pytest.raises(openai.APIError, match="went away"):
            list(stream)
    assert market.calls_used(order) == 0
