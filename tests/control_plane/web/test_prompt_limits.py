"""A prompt that its model cannot read: 422 that says how long it is, before the server is asked, without a charge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.control_plane.web.asking import checked
from tests.fixtures_market import CONTEXT_LENGTH, PROMPT_CANARY, Market, open_market
from tests.fixtures_web import url

__all__ = ["url"]

LONG = f"{PROMPT_CANARY} " * (CONTEXT_LENGTH + 1)
WIDE = "w" * 5000
"""More bytes than tokens would fit, and a single one."""


def infer(text: str) -> dict[str, Any]:
    return {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [text]}]}


TOO_LONG: tuple[tuple[str, str, Any, str], ...] = (
    ("gpt", "/v1/completions", lambda text: {"prompt": text}, "prompt"),
    ("gpt", "/v1/completions", lambda text: {"prompt": [text], "stream": True}, "prompt"),
    ("gpt", "/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]}, "messages"),
    ("gpt", "/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}], "stream": True}, "messages"),
    ("gpt", "/models/{did}/v1/chat/completions", lambda text: {"messages": [{"role": "user", "content": text}]}, "messages"),
    ("embedder", "/v1/embeddings", lambda text: {"input": text}, "input"),
    ("embedder", "/v1/embeddings", lambda text: {"input": ["a", text]}, "input"),
    ("gpt", "/v2/models/{did}/generate", lambda text: {"text_input": text}, "text_input"),
    ("gpt", "/v2/models/{did}/generate_stream", lambda text: {"text_input": text}, "text_input"),
    ("gpt", "/v2/models/{did}/infer", infer, "text_input"),
    ("gpt", "/models/{did}", lambda text: {"inputs": text}, "inputs"),
    ("gpt", "/models/{did}", lambda text: {"inputs": text, "stream": True}, "inputs"),
    ("embedder", "/models/{did}", lambda text: {"inputs": text}, "inputs"),
)
NAMES = [f"{path} {number}" for number, (_, path, _, _) in enumerate(TOO_LONG)]


def asked(market: Market, tokens: dict[str, str], name: str, path: str, record: dict[str, Any]) -> Any:
    did = getattr(market, name).did
    return market.post(
        path.format(did=did), tokens[name], json.dumps({**({"model": did} if "/v1" in path else {}), **record}).encode()
    )


@pytest.mark.parametrize(("name", "path", "record", "param"), TOO_LONG, ids=NAMES)
def test_a_prompt_longer_than_the_context_is_a_422_before_the_server_is_asked(
    opened: Any, name: str, path: str, record: Any, param: str
) -> None:
    market, tokens, orders = opened
    before = len(market.server.asked)
    error = checked(market, orders, asked(market, tokens, name, path, record(LONG)), 422, param)
    assert (error["code"], error["type"]) == ("prompt_too_long", "invalid_request_error")
    assert str(CONTEXT_LENGTH + 1) in error["found"]
    assert len(market.server.asked) == before


@pytest.mark.parametrize(("name", "path", "record", "param"), TOO_LONG, ids=NAMES)
def test_a_long_text_of_few_tokens_is_answered(market: Market, name: str, path: str, record: Any, param: str) -> None:
    tokens = {name: market.sign_in("bob", getattr(market, name))}
    answer = asked(market, tokens, name, path, record(WIDE))
    assert answer.status_code == 200, answer.text
    market.services.prompts.close()


MORE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("/v1/completions", {"prompt": "a", "max_tokens": CONTEXT_LENGTH + 1}, "max_tokens"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": CONTEXT_LENGTH + 1}, "max_tokens"),
    ("/v2/models/{did}/generate", {"text_input": "a", "max_tokens": CONTEXT_LENGTH + 1}, "max_tokens"),
    ("/models/{did}", {"inputs": "a", "parameters": {"max_new_tokens": CONTEXT_LENGTH + 1}}, "parameters.max_new_tokens"),
)


def test_a_conversation_that_only_its_template_makes_too_long_is_refused_by_the_model_with_the_same_code(opened: Any) -> None:
    market, tokens, orders = opened
    said = [{"role": role, "content": "word " * (CONTEXT_LENGTH // 2)} for role in ("user", "assistant", "user")]
    error = checked(market, orders, asked(market, tokens, "gpt", "/v1/chat/completions", {"messages": said}), 422, "messages")
    assert error["code"] == "prompt_too_long"


@pytest.mark.parametrize(("path", "record", "param"), MORE, ids=[path for path, *_ in MORE])
def test_more_tokens_than_the_context_can_ever_hold_are_a_422(opened: Any, path: str, record: dict[str, Any], param: str) -> None:
    market, tokens, orders = opened
    before = len(market.server.asked)
    error = checked(market, orders, asked(market, tokens, "gpt", path, record), 422, param)
    assert error["code"] == "max_tokens_too_large"
    assert len(market.server.asked) == before


def test_tensors_that_pass_through_unread_are_counted_by_the_model_with_the_same_refusal(opened: Any) -> None:
    market, tokens, orders = opened
    error = checked(market, orders, asked(market, tokens, "embedder", "/v2/models/{did}/infer", infer(LONG)), 422, "text_input")
    assert error["code"] == "prompt_too_long"


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Market]:
    market = open_market(tmp_path / "home", POSTHUMAN_MAX_PROMPT_TOKENS="3")
    yield market
    market.engine.dispose()


def test_the_operators_limit_is_below_the_models(strict: Market) -> None:
    token = strict.sign_in("bob", strict.gpt)
    assert strict.complete(token, prompt="one two three").status_code == 200
    refused = strict.complete(token, prompt="one two three four").get_json()["error"]
    assert (refused["code"], refused["expected"]) == ("prompt_too_long", "at most 3 tokens, the limit of this market")


def test_openais_client_raises_its_own_error(market: Market, url: str) -> None:
    client = openai.OpenAI(base_url=url + "/v1", api_key=market.sign_in("bob", market.gpt), max_retries=0)
    with client, pytest.raises(openai.UnprocessableEntityError) as caught:
        client.completions.create(model=market.gpt.did, prompt=LONG)
    assert (caught.value.code, caught.value.param) == ("prompt_too_long", "prompt")
