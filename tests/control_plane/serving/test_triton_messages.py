"""What is sent to Triton is checked first, and every way it can refuse becomes one of our errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.errors import BadInput, NotFound, PosthumanError, Unavailable
from control_plane.serving.triton_messages import (
    error_from,
    error_text,
    generate_body,
    generated_from,
    is_beat,
    json_object,
    management_error_from,
)


def test_the_body_holds_the_fields_and_says_whether_it_is_a_stream() -> None:
    fields = {
        "text_input": "é\0",
        "stream": False,
        "max_tokens": 3,
        "temperature": 0,
        "top_p": 1.0,
        "seed": -1,
        "stop": ["a", "b"],
        "min_p": 0.1,
        "repetition_penalty": 1,
        "logprobs": True,
    }
    body = generate_body(fields, is_streamed=True)
    assert json.loads(body) == {**fields, "beats": True, "stream": True}


def test_how_long_a_call_may_wait_goes_along_as_a_parameter() -> None:
    assert json.loads(generate_body({"text_input": "x"}, is_streamed=False, wait_ms=0))["wait_ms"] == 0
    assert "wait_ms" not in json.loads(generate_body({"text_input": "x"}, is_streamed=False))


def test_who_asks_goes_along_as_a_parameter() -> None:
    body = generate_body({"text_input": "a"}, is_streamed=False, caller="0xB0b")
    assert json.loads(body) == {"text_input": "a", "caller": "0xB0b", "beats": True, "stream": False}
    with pytest.raises(BadInput, match="caller"):
        generate_body({"text_input": "a", "caller": "0xB0b"}, is_streamed=False)


def test_a_requests_id_goes_along_as_tritons_own() -> None:
    body = generate_body({"text_input": "a"}, is_streamed=False, request_id="r-1")
    assert json.loads(body) == {"text_input": "a", "id": "r-1", "beats": True, "stream": False}
    with pytest.raises(BadInput, match="id"):
        generate_body({"text_input": "a", "id": "r-1"}, is_streamed=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_input", 5),
        ("text_input", None),
        ("text_input", "\ud800"),
        ("max_tokens", 2**31),  # Triton 2.51 would take it for a small or negative number
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("temperature", "hot"),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", None),
        ("top_k", -(2**31) - 1),
        ("min_p", "0.1"),
        ("repetition_penalty", float("inf")),
        ("frequency_penalty", None),
        ("presence_penalty", True),
        ("logprobs", 1),
        ("seed", 2**63),
        ("stop", "a"),
        ("stop", [1]),
        ("stream", 1),
        ("logit_bias", {}),
    ],
)
def test_a_field_of_another_type_or_name_is_refused_by_its_name(field: str, value: Any) -> None:
    with pytest.raises(BadInput) as refused:
        generate_body({"text_input": "a", field: value}, is_streamed=False)
    assert refused.value.field == field


def test_a_missing_prompt_is_refused() -> None:
    with pytest.raises(BadInput, match="text_input"):
        generate_body({"max_tokens": 1}, is_streamed=False)


def test_a_refusal_never_shows_a_text() -> None:
    with pytest.raises(BadInput) as refused:
        generate_body({"text_input": ["a secret"]}, is_streamed=False)
    assert "secret" not in str(refused.value)


def test_one_token_and_many_are_read_alike() -> None:
    record = {"text_output": "a", "prompt_tokens": 1, "completion_tokens": 2, "finish_reason": ""}
    assert generated_from({**record, "token_ids": 7}).token_ids == (7,)
    assert generated_from({**record, "token_ids": [7, 8]}).token_ids == (7, 8)
    assert generated_from({**record, "token_ids": []}).finish_reason is None


def test_an_event_without_tensors_only_says_that_it_goes_on() -> None:
    assert is_beat({"model_name": "m-1", "model_version": "1"})
    assert is_beat({"id": "r-1", "model_name": "m-1", "model_version": "1"}), "what was asked under an id is answered with it"
    assert not is_beat({"model_name": "m-1", "model_version": "1", "text_output": ""})
    assert not is_beat({"error": "no"})


def test_probabilities_and_texts_of_tokens_are_read_where_there_are_any() -> None:
    record = {"text_output": "a", "prompt_tokens": 1, "completion_tokens": 2, "finish_reason": ""}
    one = generated_from({**record, "token_ids": 7, "token_logprobs": -0.5, "token_texts": "a"})
    assert (one.token_logprobs, one.token_texts) == ((-0.5,), ("a",))
    two = generated_from({**record, "token_ids": [7, 8], "token_logprobs": [-0.5, 0], "token_texts": ["", "a"]})
    assert (two.token_logprobs, two.token_texts) == ((-0.5, 0.0), ("", "a"))
    none = generated_from({**record, "token_ids": [7, 8]})
    assert (none.token_logprobs, none.token_texts) == ((), ())
    with pytest.raises(Unavailable):
        generated_from({**record, "token_ids": [7, 8], "token_logprobs": [-0.5], "token_texts": ["a", "b"]})


@pytest.mark.parametrize("record", [{}, {"text_output": "a"}, {"token_ids": None, "text_output": "a", "prompt_tokens": 1}])
def test_an_answer_of_another_form_is_the_servers_fault(record: dict[str, Any]) -> None:
    with pytest.raises(Unavailable):
        generated_from(record)
    with pytest.raises(Unavailable):
        json_object(b"[]")
    with pytest.raises(Unavailable):
        json_object(b"<html>")


REFUSAL = '{"field": "top_p", "expected": "a number above 0", "found": "-1.0"}'


@pytest.mark.parametrize("text", [REFUSAL, f"in ensemble 'x', {REFUSAL}", f"[request id: 7] {REFUSAL} (retried)"])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_our_backends_refusal_is_found_whatever_stands_around_it(text: str, status: int) -> None:
    error = error_from(status, text, "m-1")
    assert isinstance(error, BadInput)
    assert (error.field, error.expected, error.found) == ("top_p", "a number above 0", "'-1.0'")
    assert (error.status, error.code) == (400, "bad_input")


@pytest.mark.parametrize("code", ["prompt_too_long", "max_tokens_too_large", "something_new"])
def test_a_backends_refusal_of_too_much_is_a_422_with_its_code(code: str) -> None:
    error = error_from(400, REFUSAL[:-1] + f', "code": "{code}"}}', "m-1")
    assert (error.status, error.code) == ((400, "bad_input") if code == "something_new" else (422, code))


@pytest.mark.parametrize(
    ("status", "text", "kind", "code"),
    [
        (400, "unexpected shape for input 'a'", BadInput, "bad_input"),
        (400, "{not json}", BadInput, "bad_input"),
        (500, "failed to parse the request JSON buffer: Missing a closing quotation mark", BadInput, "bad_input"),
        (500, "Unable to parse 'data': attempt to access JSON non-string as string", BadInput, "bad_input"),
        (501, "HTTP end point doesn't support models with decoupled transaction policy", BadInput, "bad_input"),
        (404, "Request for unknown model: 'm-1' is not found", NotFound, "not_found"),
        (404, "Request for unknown model: 'm-1' has no available versions", Unavailable, "unavailable"),
        (400, "Request for unknown model: 'm-1' version 1 is not at ready state", Unavailable, "unavailable"),
        (403, "This API is restricted, expecting header 'triton-key'", Unavailable, "management_key_refused"),
        (500, "the computation failed: ValueError", Unavailable, "inference_failed"),
        (400, "the computation failed: ValueError", Unavailable, "inference_failed"),
        (400, "4 calls are waiting for this model", Unavailable, "queue_full"),
        (200, "2 of your calls are waiting for this model", Unavailable, "queue_full"),
        (400, "this call has waited for this model as long as it may", Unavailable, "queue_timeout"),
        (400, "the model is being unloaded", Unavailable, "inference_failed"),
        (400, "Stub process 'm-1_0_0' is not healthy.", Unavailable, "backend_crashed"),
        (500, "Stub process 'm-1_0_0' is not healthy.", Unavailable, "backend_crashed"),
        (503, "whatever else", Unavailable, "inference_failed"),
    ],
)
def test_each_answer_of_triton_becomes_our_error(status: int, text: str, kind: type[PosthumanError], code: str) -> None:
    error = error_from(status, text, "m-1")
    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize(
    ("status", "text", "kind", "code"),
    [
        (500, "failed to load 'm-1', failed to poll from model repository", NotFound, "not_found"),
        (400, "load failed for model 'm-1': version 1 is at UNAVAILABLE state", Unavailable, "load_failed"),
        (403, "This API is restricted, expecting header 'triton-key'", Unavailable, "management_key_refused"),
    ],
)
def test_managing_never_fails_as_a_callers_fault(status: int, text: str, kind: type[PosthumanError], code: str) -> None:
    error = management_error_from(status, text, "m-1")
    assert type(error) is kind
    assert error.code == code


@pytest.mark.parametrize(
    ("body", "text"), [(b'{"error":"no"}', "no"), (b"plain", "plain"), (b"[1]", "[1]"), (b"", ""), (b"\xff", "\ufffd")]
)
def test_an_error_body_of_any_form_gives_a_text(body: bytes, text: str) -> None:
    assert error_text(body) == text
