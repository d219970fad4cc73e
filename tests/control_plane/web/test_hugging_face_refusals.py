"""`/models/<did>`: what is refused, by the name the caller wrote, and answers that break: neither is charged."""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, OverloadedError, ValidationError

from control_plane.errors import BadInput
from control_plane.fields import Kind
from control_plane.serving import oip
from control_plane.serving.inference import TensorAnswer
from tests.control_plane.web.asking_hugging_face import FILE, SENTENCES, Shared, client_of, post, shared
from tests.fixtures_market import Market, events_of, record_of
from tests.fixtures_web import url

__all__ = ["shared", "url"]

GENERATION: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, "inputs"),
    ({"inputs": 5}, "inputs"),
    ({"inputs": ""}, "inputs"),
    ({"inputs": ["a", "b"]}, "inputs"),
    ({"inputs": "a", "parameters": []}, "parameters"),
    ({"inputs": "a", "parameters": {"beam": 1}}, "parameters.beam"),
    ({"inputs": "a", "parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
    ({"inputs": "a", "parameters": {"temperature": -1}}, "parameters.temperature"),
    ({"inputs": "a", "parameters": {"temperature": 1, "do_sample": False}}, "parameters.temperature"),
    ({"inputs": "a", "parameters": {"top_p": 0}}, "parameters.top_p"),
    ({"inputs": "a", "parameters": {"num_beams": 4}}, "parameters.num_beams"),
    ({"inputs": "a", "parameters": {"watermark": True}}, "parameters.watermark"),
    ({"inputs": "a", "parameters": {"seed": 1, "generate_kwargs": {"seed": 2}}}, "parameters.generate_kwargs"),
    ({"inputs": "a", "stream": "yes"}, "stream"),
    ({"inputs": "a", "beside": 1}, "beside"),
    ({"inputs": "a", "options": {"wait_for_model": True}}, "wait_for_model"),
    ({"inputs": "a", "options": {"unknown": 1}}, "unknown"),
)


@pytest.mark.parametrize(("record", "field"), GENERATION, ids=[f"{field} {index}" for index, (_, field) in enumerate(GENERATION)])
def test_a_generation_that_cannot_be_is_refused_by_the_callers_own_name(shared: Shared, record: dict[str, Any], field: str) -> None:
    assert_refused(shared, "text-generation", record, field)


PREDICTION: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("text-classification", {"inputs": 5}, "inputs"),
    ("text-classification", {"inputs": []}, "inputs"),
    ("text-classification", {"inputs": ["a", ""]}, "inputs"),
    ("text-classification", {"inputs": "a", "stream": True}, "stream"),
    ("text-classification", {"inputs": "a", "parameters": {"unknown": 1}}, "parameters.unknown"),
    ("text-classification", {"inputs": "a", "top_k": 1}, "top_k"),
    ("feature-extraction", {"inputs": "a", "truncate": True}, "parameters.truncate"),
    ("feature-extraction", {"inputs": {"source_sentence": "a", "sentences": []}}, "inputs.sentences"),
    ("feature-extraction", {"inputs": {"source_sentence": 5, "sentences": ["a"]}}, "inputs.source_sentence"),
    ("question-answering", {"inputs": "a"}, "inputs"),
    ("question-answering", {"inputs": {"question": "a"}}, "inputs"),
    ("question-answering", {"inputs": {"question": "a", "context": ""}}, "inputs.context"),
    ("question-answering", {"inputs": {"question": ["a", "b"], "context": ["c", "d"]}}, "inputs.question"),
    ("multiple-choice", {"inputs": {"text_input": "a", "choices": []}}, "inputs.choices"),
    ("multiple-choice", {"inputs": {"text_input": ["a", "b"], "choices": ["c"]}}, "inputs.text_input"),
    ("multiple-choice", {"inputs": [{"text_input": "a", "choices": ["c"]}, {"text_input": "b", "choices": ["c"]}]}, "inputs"),
    ("zero-shot-classification", {"inputs": "a"}, "parameters.candidate_labels"),
    ("zero-shot-classification", {"inputs": "a", "parameters": {"candidate_labels": []}}, "parameters.candidate_labels"),
    ("image-classification", {"inputs": "not base64!"}, "inputs"),
    ("image-classification", {"inputs": ""}, "inputs"),
    ("image-classification", {"inputs": "data:image/png;base64,"}, "inputs"),
    ("image-classification", {"inputs": "data:image/png,%89PNG"}, "inputs"),
)


@pytest.mark.parametrize(("task", "record", "field"), PREDICTION, ids=[f"{task} {field}" for task, _, field in PREDICTION])
def test_a_prediction_that_cannot_be_is_refused_by_the_callers_own_name(
    shared: Shared, task: str, record: dict[str, Any], field: str
) -> None:
    assert_refused(shared, task, record, field)


ASKED: dict[str, dict[str, Any]] = {
    "question-answering": {"inputs": {"question": "a", "context": "b"}},
    "multiple-choice": {"inputs": {"text_input": "a", "choices": ["b", "c"]}},
    "zero-shot-classification": {"inputs": "a", "parameters": {"candidate_labels": ["b"]}},
    "text-classification": {"inputs": "a"},
    "text-generation": {"inputs": "a", "parameters": {"stop": ["b"]}},
    "speech-to-text": {"inputs": b64encode(FILE).decode()},
}


@pytest.mark.parametrize(
    ("task", "tensor", "field", "beside"),
    [
        ("question-answering", "context", "inputs.context", {}),
        ("multiple-choice", "choices", "inputs.choices", {}),
        ("zero-shot-classification", "candidate_labels", "parameters.candidate_labels", {}),
        ("text-classification", "text_input", "inputs", {}),
        ("text-classification", "parameters.top_k", "parameters.top_k", {}),
        ("text-generation", "stop", "parameters.stop", {}),
        ("text-generation", "max_tokens", "parameters.max_new_tokens", {"stream": True}),
        ("speech-to-text", "audio", "inputs", {}),
    ],
)
def test_what_the_model_refuses_is_named_as_the_caller_wrote_it(
    shared: Shared, task: str, tensor: str, field: str, beside: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> Any:
        raise BadInput(tensor, "less of it", Kind("too much"))

    for method in ("infer", "generate", "generate_stream"):
        monkeypatch.setattr(shared.market.server, method, refuses)
    assert_refused(shared, task, ASKED[task] | beside, field)


def test_another_number_of_results_than_was_asked_is_no_answer_and_no_charge(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, whole = "text-classification", shared.market.server.infer

    def short(name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        one, length = oip.write_request([oip.Values("text_input", "BYTES", (1,), ("a",))], ["result"])
        return whole(name, one, length)

    monkeypatch.setattr(shared.market.server, "infer", short)
    answer = post(shared.market, shared.listings[task], {"inputs": ["a", "b"]}, shared.tokens[task])
    assert (answer.status_code, answer.get_json()["code"]) == (503, "strange_answer")
    assert shared.market.calls_used(shared.orders[task]) == 0


def assert_refused(shared: Shared, task: str, record: dict[str, Any], field: str) -> None:
    used = shared.market.calls_used(shared.orders[task])
    answer = post(shared.market, shared.listings[task], record, shared.tokens[task])
    assert (answer.status_code, answer.get_json()["param"]) == (400, field), answer.get_json()
    assert answer.get_json()["error_type"] == "validation"
    assert shared.market.calls_used(shared.orders[task]) == used


@pytest.mark.parametrize(("task", "kind"), [("text-generation", "image/png"), ("image-classification", "text/plain")])
def test_a_body_that_the_task_does_not_take_is_refused(shared: Shared, task: str, kind: str) -> None:
    path, headers = f"/models/{shared.listings[task].did}", shared.market.bearer(shared.tokens[task])
    answer = shared.market.client.post(path, data=FILE, content_type=kind, headers=headers)
    assert (answer.status_code, answer.get_json()["param"]) == (415, "Content-Type")


def test_the_client_raises_what_its_users_know(market: Market, url: str) -> None:
    client = client_of(market, url, market.gpt)
    with pytest.raises(ValidationError, match=r"parameters\.temperature: expected a number from 0"):
        client.text_generation("hello", temperature=9.0)
    with pytest.raises(BadRequestError, match="inputs"):
        client.fill_mask("")
    stranger = InferenceClient(model=f"{url}/models/{market.gpt.did}", token="nobody")
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.text_generation("hello")
    market.server.is_down = True
    with pytest.raises(OverloadedError):
        client.text_generation("hello")


def test_a_stream_that_breaks_ends_with_the_error_and_charges_nothing(market: Market, url: str) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    market.server.break_after = 2
    answer = post(market, market.gpt, {"inputs": "hello", "parameters": {"max_new_tokens": 5}, "stream": True}, token)
    events = [record_of(each) for each in events_of(answer.data)]
    assert [event["token"]["id"] is None for event in events[:2]] == [False, False]
    assert events[2]["error_type"] == "overloaded"
    assert len(events) == 3
    assert market.calls_used(order) == 0
    client = InferenceClient(model=f"{url}/models/{market.gpt.did}", token=token)
    with pytest.raises(OverloadedError):
        list(client.text_generation("hello", max_new_tokens=5, stream=True))


def test_an_embedding_that_is_no_number_is_no_answer_and_no_charge(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = market.publish("feature-extraction", "no number")
    order = market.order("bob", embedder)
    token = market.sign_in("bob", embedder, order)
    whole = market.server.infer

    def broken(name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        given = whole(name, body, header_length)
        assert given.header_length is not None
        nothing = struct.pack("<f", float("nan"))
        numbers = nothing * ((len(given.body) - given.header_length) // len(nothing))
        return TensorAnswer(given.body[: given.header_length] + numbers, given.header_length)

    monkeypatch.setattr(market.server, "infer", broken)
    asked = {"inputs": {"source_sentence": "the model", "sentences": SENTENCES}}
    answer = post(market, embedder, asked, token)
    assert (answer.status_code, market.calls_used(order)) == (503, 0), answer.data
    assert b"no number" in answer.data


def test_a_model_without_a_shape_here_says_where_to_ask(market: Market) -> None:
    listing = market.publish("tensors", "raw")
    answer = post(market, listing, {"inputs": "a"})
    assert (answer.status_code, answer.get_json()["code"]) == (400, "wrong_task")
    assert "/v2" in answer.get_json()["error"]
