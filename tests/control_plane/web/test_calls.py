"""The surfaces answer as their clients expect, and every answer has its receipt."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from typing import Any

import pytest

from control_plane.receipts.receipt import CallStatus, request_hash, response_hash
from control_plane.serving import oip
from control_plane.serving.inference import TensorAnswer
from converters.tasks import TASKS
from converters.tasks.generation import GENERATED
from tests.fixtures_market import DIMENSIONS, PROMPT_CANARY, Market, events_of, receipt_of, record_of

LENGTH = "Inference-Header-Content-Length"


def binds(answer: Any) -> None:
    """The receipt in the header is over exactly the bytes that were sent and received."""
    issued = receipt_of(answer)
    assert issued.signed.receipt.request_hash == request_hash(issued.salt, answer.sent)
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, answer.data)


def test_a_completion_has_openais_shape_and_a_receipt_over_its_bytes(market: Market) -> None:
    answer = market.complete(market.sign_in("bob", market.gpt), max_tokens=3)
    record = answer.get_json()
    assert set(record) == {"id", "object", "created", "model", "choices", "usage"}
    assert (record["object"], record["model"], record["created"]) == ("text_completion", market.gpt.did, int(market.clock()))
    assert record["choices"][0]["finish_reason"] == "length"
    assert record["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert record["id"] == "cmpl-" + answer.headers["X-Posthuman-Call"]
    assert market.server.callers[-1] == market.wallet("bob").address
    assert {part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")} == {"access", "triton", "receipt"}
    binds(answer)


def test_defaults_that_clients_send_are_accepted(market: Market) -> None:
    answer = market.complete(
        market.sign_in("bob", market.gpt),
        prompt=["one"],
        n=1,
        best_of=1,
        echo=False,
        suffix=None,
        logprobs=None,
        logit_bias={},
        frequency_penalty=0,
        presence_penalty=0.0,
        temperature=0,
        top_p=1,
        top_k=0,
        seed=-5,
        stop=["zz"],
        user="bob",
        stream=False,
        stream_options=None,
    )
    assert answer.status_code == 200, answer.text


def test_a_stop_text_ends_the_completion(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    whole = market.complete(token, max_tokens=16).get_json()["choices"][0]["text"]
    third = whole.split()[2]
    record = market.complete(token, max_tokens=16, stop=third).get_json()
    assert record["choices"][0]["finish_reason"] == "stop"
    assert third not in record["choices"][0]["text"]


@pytest.mark.parametrize("has_usage", [False, True])
def test_a_stream_has_openais_chunks_then_the_receipt_then_done(market: Market, has_usage: bool) -> None:
    token = market.sign_in("bob", market.gpt)
    options = {"stream_options": {"include_usage": True}} if has_usage else {}
    whole = market.complete(token, max_tokens=4).get_json()["choices"][0]["text"]
    answer = market.complete(token, max_tokens=4, stream=True, **options)
    assert answer.mimetype == "text/event-stream"
    events = events_of(answer.data)
    assert events[-1] == b"data: [DONE]\n\n"
    chunks = [record_of(event) for event in events[:-1]]
    assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == whole
    assert chunks[-1]["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}]
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]] == [None] * 3 + ["length", None]
    if has_usage:
        assert chunks[-2]["choices"] == []
        assert chunks[-2]["usage"] == {"prompt_tokens": 1, "completion_tokens": 4, "total_tokens": 5}
        assert all(chunk["usage"] is None for chunk in chunks[:-2])
    issued = market.services.store.receipt_of_call(answer.headers["X-Posthuman-Call"])
    assert issued is not None
    assert chunks[-1]["receipt"] == issued.to_json()
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, b"".join(events[:-2]))
    assert issued.signed.receipt.request_hash == request_hash(issued.salt, answer.sent)
    assert all(chunk["id"] == "cmpl-" + answer.headers["X-Posthuman-Call"] for chunk in chunks)


def test_a_stream_that_its_reader_leaves_is_charged_and_its_receipt_can_be_fetched(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    record = {"model": market.gpt.did, "prompt": "x", "max_tokens": 9, "stream": True}
    answer = market.client.post("/v1/completions", json=record, headers=market.bearer(token), buffered=False)
    pieces = answer.iter_encoded()
    sent = next(pieces)
    answer.close()
    assert market.server.closed_streams == 1
    call_id = answer.headers["X-Posthuman-Call"]
    found = market.client.get(f"/v1/receipts?call={call_id}", headers=market.bearer(token)).get_json()["receipts"]
    assert found[0]["signed"]["receipt"]["status"] == CallStatus.CUT
    issued = market.services.store.receipt_of_call(call_id)
    assert issued is not None
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, sent)


def test_a_stream_whose_server_breaks_ends_with_an_error_and_no_charge(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    market.server.break_after = 2
    events = events_of(market.complete(token, stream=True).data)
    assert record_of(events[-1])["error"]["code"] == "unavailable"
    assert b"[DONE]" not in b"".join(events)
    assert market.calls_used(order) == 0


@pytest.mark.parametrize("is_base64", [False, True])
def test_embeddings_come_as_numbers_or_as_base64_of_the_same(market: Market, is_base64: bool) -> None:
    token = market.sign_in("bob", market.embedder)
    fields = {"encoding_format": "base64"} if is_base64 else {}
    record = {"model": market.embedder.did, "input": ["a b", "c"], **fields}
    answer = market.post("/v1/embeddings", token, json.dumps(record).encode())
    found = answer.get_json()
    assert found["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [line["index"] for line in found["data"]] == [0, 1]
    vectors = [line["embedding"] for line in found["data"]]
    if is_base64:
        vectors = [list(struct.unpack(f"<{DIMENSIONS}f", b64decode(vector))) for vector in vectors]
    asked, length = oip.write_request([oip.Values("text_input", "BYTES", (2,), ("a b", "c"))])
    direct = oip.numbers(oip.read_answer(market.server.infer(market.embedder.entry_name, asked, length))["embedding"])
    assert [number for vector in vectors for number in vector] == list(direct)
    receipt = receipt_of(answer).signed.receipt
    assert (receipt.units_in, receipt.units_out) == (3, 2)
    binds(answer)


def test_one_text_gives_one_embedding(market: Market) -> None:
    token = market.sign_in("bob", market.embedder)
    record = {"model": market.embedder.did, "input": "a"}
    assert len(market.client.post("/v1/embeddings", json=record, headers=market.bearer(token)).get_json()["data"]) == 1


@pytest.mark.parametrize("is_binary", [False, True])
def test_tensors_of_a_predict_model_pass_through_unread(market: Market, is_binary: bool) -> None:
    token = market.sign_in("bob", market.embedder)
    if is_binary:
        body, length = oip.write_request([oip.Values("text_input", "BYTES", (3,), ("a", "b", "c"))])
        headers = {LENGTH: str(length)}
    else:
        record = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [3], "data": ["a", "b", "c"]}]}
        body, length, headers = json.dumps(record).encode(), None, {}
    answer = market.post(f"/v2/models/{market.embedder.did}/infer", token, body, **headers)
    direct = market.server.infer(market.embedder.entry_name, body, length)
    assert answer.data == direct.body
    assert answer.headers.get(LENGTH) == (None if direct.header_length is None else str(direct.header_length))
    receipt = receipt_of(answer).signed.receipt
    assert (receipt.units_in, receipt.units_out) == (3, 3)
    binds(answer)


@pytest.mark.parametrize("is_binary", [False, True])
def test_a_generating_model_answers_infer_through_generate(market: Market, is_binary: bool) -> None:
    token = market.sign_in("bob", market.gpt)
    tensors = (
        oip.Values("text_input", "BYTES", (1,), ("hello there",)),
        oip.Values("max_tokens", "INT32", (1,), (2,)),
        oip.Values("temperature", "FP32", (1,), (0.5,)),
        oip.Values("seed", "INT64", (1,), (11,)),
    )
    if is_binary:
        body, length = oip.write_request(tensors)
        headers = {LENGTH: str(length)}
    else:
        records = [{"name": each.name, "datatype": each.dtype, "shape": each.shape, "data": each.elements} for each in tensors]
        body, headers = json.dumps({"inputs": records, "id": "mine"}).encode(), {}
    answer = market.post(f"/v2/models/{market.gpt.did}/infer", token, body, **headers)
    assert answer.status_code == 200, answer.text
    made = market.server.generate(
        market.gpt.entry_name, {"text_input": "hello there", "max_tokens": 2, "temperature": 0.5, "seed": 11}
    )
    if is_binary:
        outputs = oip.read_answer(TensorAnswer(answer.data, int(answer.headers[LENGTH])))
        assert outputs["text_output"].raw[4:].decode() == made.text
        assert oip.numbers(outputs["token_ids"]) == made.token_ids
        assert outputs["finish_reason"].raw[4:] == b"length"
    else:
        record = answer.get_json()
        assert (record["id"], record["model_name"]) == ("mine", market.gpt.did)
        outputs_json = {each["name"]: each["data"] for each in record["outputs"]}
        assert outputs_json == {
            "text_output": [made.text],
            "token_ids": list(made.token_ids),
            "prompt_tokens": [2],
            "completion_tokens": [2],
            "finish_reason": ["length"],
            "token_logprobs": [],
            "token_texts": [],
        }
    receipt = receipt_of(answer).signed.receipt
    assert (receipt.units_in, receipt.units_out) == (2, 2)
    binds(answer)


@pytest.mark.parametrize("length", ["x", "-1", "999999", "1e2", "٣"])
def test_a_false_header_length_is_a_400(market: Market, length: str) -> None:
    token = market.sign_in("bob", market.gpt)
    headers = {**market.bearer(token), LENGTH: length}
    answer = market.client.post(f"/v2/models/{market.gpt.did}/infer", data=b"{}", headers=headers)
    assert (answer.status_code, answer.get_json()["param"]) == (400, LENGTH)


def test_generate_has_tritons_shape(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    record = {"text_input": "x", "parameters": {"max_tokens": 1, "temperature": 0}}
    answer = market.post(f"/v2/models/{market.gpt.did}/generate", token, json.dumps(record).encode())
    found = answer.get_json()
    assert (found["model_name"], found["model_version"]) == (market.gpt.did, "1")
    assert (found["completion_tokens"], found["finish_reason"]) == (1, "length")
    assert isinstance(found["token_ids"], int)
    binds(answer)


def test_generate_stream_ends_with_an_event_that_holds_the_receipt(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    record = {"text_input": "x", "max_tokens": 3, "stream": True}
    answer = market.client.post(f"/v2/models/{market.gpt.did}/generate_stream", json=record, headers=market.bearer(token))
    events = events_of(answer.data)
    assert [record_of(event)["finish_reason"] for event in events[:-1]] == ["", "", "length"]
    issued = market.services.store.receipt_of_call(answer.headers["X-Posthuman-Call"])
    assert issued is not None
    assert record_of(events[-1])["receipt"] == issued.to_json()
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, b"".join(events[:-1]))


def test_a_predict_model_does_not_generate(market: Market) -> None:
    token = market.sign_in("bob", market.embedder)
    answer = market.client.post(
        f"/v2/models/{market.embedder.did}/generate", json={"text_input": "x"}, headers=market.bearer(token)
    )
    assert (answer.status_code, answer.get_json()["code"]) == (400, "wrong_task")


def test_triton_down_is_a_503_with_retry_after_and_no_charge(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    market.server.is_down = True
    for is_streaming in (False, True):
        answer = market.complete(token, stream=is_streaming)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.get_json()["error"]["code"] == "unavailable"
    assert market.calls_used(order) == 0
    market.server.is_down = False
    assert market.complete(token).status_code == 200


def test_the_chain_node_down_stops_new_sessions_and_no_call(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    order = market.order("carol", market.gpt)
    text = market.message("carol", market.gpt.did, order)
    market.ledger.is_down = True
    answer = market.hand_in(text, market.sign("carol", text))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert market.complete(token).status_code == 200
    ready = market.client.get("/readyz")
    assert (ready.status_code, ready.get_json()["components"]["chain"]) == (200, "unavailable")
    market.ledger.is_down = False
    assert market.hand_in(text, market.sign("carol", text)).status_code == 200


def test_swapped_weights_are_refused_with_both_digests_and_the_model_leaves_the_market(market: Market) -> None:
    order = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, order)
    assert market.complete(token).status_code == 200
    market.tamper(market.gpt)
    for code in ("model_tampered", "model_withdrawn"):
        answer = market.complete(token)
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, code)
        assert market.gpt.model_digest in answer.get_json()["error"]["message"]
    assert market.calls_used(order) == 1
    assert market.gpt.did not in [model["id"] for model in market.client.get("/v1/models").get_json()["data"]]
    assert market.client.get(f"/v1/models/{market.gpt.did}").get_json()["state"] == "withdrawn"
    assert market.client.get(f"/v2/models/{market.gpt.did}/ready").status_code == 503
    assert market.client.get(f"/v1/offers/{market.gpt.did}?consumer=0x{'1' * 40}").status_code == 503


def test_a_fault_of_ours_is_a_500_with_an_id_and_nothing_of_the_prompt(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError(f"failed on {PROMPT_CANARY}")

    token = market.sign_in("bob", market.gpt)
    monkeypatch.setattr(market.server, "generate", broken)
    answer = market.complete(token)
    assert answer.status_code == 500
    noted = json.loads(market.journal.getvalue().splitlines()[-1])
    assert noted["id"] in answer.get_json()["error"]["message"]
    assert noted["kind"] == "RuntimeError"
    assert "broken" in noted["where"]
    assert PROMPT_CANARY not in answer.text + market.journal.getvalue()


def test_the_journal_holds_no_prompt_no_answer_no_token_and_no_key(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    text = market.complete(token).get_json()["choices"][0]["text"]
    market.complete(token, stream=True)
    market.complete(token, temperature=9)
    lines = market.journal.getvalue()
    assert len(lines.splitlines()) >= 3
    for secret in (PROMPT_CANARY, text, token, token[3:]):
        assert secret not in lines


def test_metadata_states_the_entrys_tensors_under_the_did(market: Market) -> None:
    for path in (f"/v2/models/{market.embedder.did}", f"/v2/models/{market.embedder.did}/versions/1"):
        record = market.client.get(path).get_json()
        assert (record["name"], record["versions"]) == (market.embedder.did, ["1"])
        assert record["inputs"] == [
            {"name": "text_input", "datatype": "BYTES", "shape": [-1]},
            {"name": "parameters", "datatype": "BYTES", "shape": [1]},
        ]
        assert {"name": "embedding", "datatype": "FP32", "shape": [-1, DIMENSIONS]} in record["outputs"]
    assert market.client.get(f"/v2/models/{market.embedder.did}/versions/2").status_code == 404


def test_metadata_of_a_generating_model_from_before_a_parameter_has_it_and_takes_it(market: Market) -> None:
    """What is the backend's own is not the entry's to state: an entry is never changed once it has a digest."""
    stated = TASKS["text-generation"].inputs[:6]
    old = market.publish("text-generation", "old", inputs=stated, outputs=GENERATED[:5])
    token = market.sign_in("bob", old)
    assert len(market.client.get(f"/v1/models/{old.did}/entry").get_json()["inputs"]) == len(stated)
    record = market.client.get(f"/v2/models/{old.did}").get_json()
    assert {"name": "min_p", "datatype": "FP32", "shape": [1]} in record["inputs"]
    assert {"name": "token_logprobs", "datatype": "FP32", "shape": [-1]} in record["outputs"]
    tensors = [
        {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["hello"]},
        {"name": "presence_penalty", "datatype": "FP32", "shape": [1], "data": [0.5]},
        {"name": "max_tokens", "datatype": "INT32", "shape": [1], "data": [3]},
        {"name": "logprobs", "datatype": "BOOL", "shape": [1], "data": [True]},
    ]
    answer = market.post(f"/v2/models/{old.did}/infer", token, json.dumps({"inputs": tensors}).encode())
    told = {each["name"]: each["data"] for each in answer.get_json()["outputs"]}
    assert "".join(told["token_texts"]) == told["text_output"][0]
    assert len(told["token_logprobs"]) == len(told["token_ids"]) == 3


def test_a_model_is_ready_when_it_is_on_sale_and_loaded(market: Market) -> None:
    assert market.client.get(f"/v2/models/{market.gpt.did}/ready").status_code == 200
    market.server.restart()
    assert market.client.get(f"/v2/models/{market.gpt.did}/ready").status_code == 503
    market.server.is_down = True
    assert market.client.get("/v2/health/ready").status_code == 503
    assert market.client.get("/v2/health/live").status_code == 200
    assert market.client.get("/readyz").status_code == 503
    assert market.client.get("/healthz").status_code == 200
