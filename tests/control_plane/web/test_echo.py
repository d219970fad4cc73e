"""A text scored through the gate: a call like any other, as the stock `openai` client asks for it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from control_plane.receipts.receipt import request_hash, response_hash
from tests.fixtures_market import CONTEXT_LENGTH, Market, receipt_of
from tests.fixtures_web import url

__all__ = ["url"]

TEXT = "the market stands by the harbour"
SCORE: dict[str, Any] = {"echo": True, "max_tokens": 0, "logprobs": 0}


def test_the_stock_client_gets_the_probability_of_each_token_of_its_text(market: Market, url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=market.sign_in("bob", market.gpt), max_retries=0) as client:
        made = client.completions.create(model=market.gpt.did, prompt=TEXT, temperature=0, seed=1234, **SCORE)
    (choice,) = made.choices
    assert (choice.text, choice.finish_reason) == (TEXT, "length")
    assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None and choice.logprobs.tokens is not None
    first, *others = choice.logprobs.token_logprobs
    assert first is None and len(others) == 5 and all(each < 0 for each in others)
    assert "".join(choice.logprobs.tokens) == TEXT
    assert choice.logprobs.text_offset == [0, 3, 10, 17, 20, 24]
    assert choice.logprobs.top_logprobs is None
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (6, 0, 6)


def test_a_score_is_charged_and_has_its_receipt(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    answer = market.complete(token, prompt=TEXT, **SCORE)
    assert answer.status_code == 200, answer.text
    issued = receipt_of(answer)
    receipt = issued.signed.receipt
    assert (receipt.units_in, receipt.units_out) == (6, 0)
    assert receipt.request_hash == request_hash(issued.salt, answer.sent)
    assert receipt.response_hash == response_hash(issued.salt, answer.data)
    assert market.calls_used(order) == 1
    assert market.server.asked == [("generate", market.gpt.entry_name)]
    assert market.server.callers == [market.wallet("bob").address]


def test_who_has_no_order_scores_nothing(market: Market) -> None:
    answer = market.complete(market.sign_in("bob", market.other_gpt), prompt=TEXT, **SCORE)
    assert answer.status_code == 403
    assert market.server.asked == []


def test_a_text_may_fill_the_context_and_a_longer_one_is_refused_before_the_model_is_asked(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    assert market.complete(token, prompt="word " * CONTEXT_LENGTH, **SCORE).status_code == 200
    answer = market.complete(token, prompt="word " * (CONTEXT_LENGTH + 1), **SCORE)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (422, "prompt_too_long", "prompt")
    assert error["found"] == f"{CONTEXT_LENGTH + 1} tokens"
    assert (market.calls_used(order), len(market.server.asked)) == (1, 1)


def test_a_model_that_goes_on_with_no_text_scores_none(market: Market) -> None:
    answer = market.complete(market.sign_in("bob", market.embedder), market.embedder.did, prompt=TEXT, **SCORE)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "wrong_task")


@pytest.mark.parametrize("parameters", [{"score": True}, {"score": True, "max_tokens": 9, "temperature": 0.5}])
def test_under_v2_it_is_the_tensor_score(market: Market, parameters: dict[str, Any]) -> None:
    token = market.sign_in("bob", market.gpt)
    body = json.dumps({"text_input": TEXT, "parameters": parameters}).encode()
    found = market.post(f"/v2/models/{market.gpt.did}/generate", token, body).get_json()
    assert (found["text_output"], found["completion_tokens"], found["prompt_tokens"]) == ("", 0, 6)
    assert found["token_logprobs"][0] == 0 and len(found["token_logprobs"]) == 6
    inputs = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [TEXT]},
        {"name": "score", "datatype": "BOOL", "shape": [1], "data": [True]},
    ]
    answer = market.post(f"/v2/models/{market.gpt.did}/infer", token, json.dumps({"inputs": inputs}).encode()).get_json()
    told = {output["name"]: output["data"] for output in answer["outputs"]}
    assert told["token_logprobs"] == found["token_logprobs"]
    metadata = market.client.get(f"/v2/models/{market.gpt.did}").get_json()
    assert "score" in [tensor["name"] for tensor in metadata["inputs"]]


def test_under_v2_a_conversation_is_not_scored(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    body = json.dumps({"messages": '[{"role": "user", "content": "hello"}]', "score": True}).encode()
    answer = market.post(f"/v2/models/{market.gpt.did}/generate", token, body)
    assert (answer.status_code, answer.get_json()["param"]) == (400, "score")
