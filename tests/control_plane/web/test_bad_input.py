"""The table of bad inputs: each is a 4xx that names the field, what was expected and what was found; none is charged or logged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.control_plane.web.asking import checked
from tests.fixtures_market import PROMPT_CANARY, Market

COMPLETIONS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("an empty prompt", {"prompt": ""}, "prompt"),
    ("no prompt", {"prompt": ...}, "prompt"),
    ("a null prompt", {"prompt": None}, "prompt"),
    ("a number for a prompt", {"prompt": 5}, "prompt"),
    ("token ids for a prompt", {"prompt": [1, 2]}, "prompt"),
    ("two prompts", {"prompt": ["a", "b"]}, "prompt"),
    ("half a surrogate pair", {"prompt": "\ud800"}, "prompt"),
    ("no tokens at all", {"max_tokens": 0}, "max_tokens"),
    ("negative max tokens", {"max_tokens": -1}, "max_tokens"),
    ("huge max tokens", {"max_tokens": 10**9}, "max_tokens"),
    ("max tokens of a thousand digits", {"max_tokens": 10**1000}, "max_tokens"),
    ("max tokens as text", {"max_tokens": "4"}, "max_tokens"),
    ("max tokens with a fraction", {"max_tokens": 4.0}, "max_tokens"),
    ("true as max tokens", {"max_tokens": True}, "max_tokens"),
    ("a negative temperature", {"temperature": -0.1}, "temperature"),
    ("a temperature above 2", {"temperature": 2.1}, "temperature"),
    ("a temperature that overflows", {"temperature": "1e999"}, "temperature"),
    ("top_p 0", {"top_p": 0}, "top_p"),
    ("top_p above 1", {"top_p": 1.01}, "top_p"),
    ("a negative top_k", {"top_k": -1}, "top_k"),
    ("a seed that needs 65 bits", {"seed": 2**63}, "seed"),
    ("five stops", {"stop": ["a"] * 5}, "stop"),
    ("an empty stop", {"stop": ""}, "stop"),
    ("a stop that is a number", {"stop": [1]}, "stop"),
    ("stream as text", {"stream": "yes"}, "stream"),
    ("an unknown stream option", {"stream": True, "stream_options": {"include_everything": True}}, "stream_options"),
    ("no completions", {"n": 0}, "n"),
    ("seventeen completions", {"n": 17}, "n"),
    ("the best of two", {"best_of": 2}, "best_of"),
    ("an echo before a new text", {"echo": True}, "max_tokens"),
    ("an echo without its probabilities", {"echo": True, "max_tokens": 0}, "logprobs"),
    ("an echo and the likeliest tokens", {"echo": True, "max_tokens": 0, "logprobs": 1}, "logprobs"),
    ("an echo twice", {"echo": True, "max_tokens": 0, "logprobs": 0, "n": 2, "stream": False}, "n"),
    ("a streamed echo", {"echo": True, "max_tokens": 0, "logprobs": 0, "stream": True}, "stream"),
    ("an echo of several", {"echo": True, "max_tokens": 0, "logprobs": 0, "prompt": ["a", "b"]}, "prompt"),
    ("an echo as text", {"echo": "yes"}, "echo"),
    ("a suffix", {"suffix": "end"}, "suffix"),
    ("log probabilities", {"logprobs": 5}, "logprobs"),
    ("true as log probabilities", {"logprobs": True}, "logprobs"),
    ("the log probability of the likeliest", {"logprobs": 1}, "logprobs"),
    ("a logit bias", {"logit_bias": {"50256": -100}}, "logit_bias"),
    ("a frequency penalty above 2", {"frequency_penalty": 2.5}, "frequency_penalty"),
    ("a presence penalty below -2", {"presence_penalty": -2.5}, "presence_penalty"),
    ("no repetition penalty at all", {"repetition_penalty": 0}, "repetition_penalty"),
    ("min_p above 1", {"min_p": 1.1}, "min_p"),
    ("an unknown parameter", {"temprature": 1}, "temprature"),
    ("a parameter with a name full of text", {f"{PROMPT_CANARY} x": 1}, "a parameter"),
    ("no model", {"model": ...}, "model"),
    ("a model that is no DID", {"model": "gpt-4"}, "model"),
    ("a DID in capitals", {"model": "did:op:" + "A" * 64}, "model"),
)


@pytest.mark.parametrize(("_what", "change", "param"), COMPLETIONS, ids=[case[0] for case in COMPLETIONS])
@pytest.mark.parametrize("is_streaming", [False, True], ids=["whole", "streamed"])
def test_a_bad_completion_request_is_a_named_400(
    opened: Any, _what: str, change: dict[str, Any], param: str, is_streaming: bool
) -> None:
    market, tokens, orders = opened
    record = {"model": market.gpt.did, "prompt": PROMPT_CANARY, "stream": is_streaming, **change}
    body = json.dumps({name: value for name, value in record.items() if value is not ...}).replace('"1e999"', "1e999")
    answer = market.client.post("/v1/completions", data=body, content_type="application/json", headers=market.bearer(tokens["gpt"]))
    checked(market, orders, answer, 400, param)


EMBEDDINGS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("no input", {"input": ...}, "input"),
    ("an empty input", {"input": ""}, "input"),
    ("no inputs", {"input": []}, "input"),
    ("an empty one among them", {"input": ["a", ""]}, "input"),
    ("token ids", {"input": [1, 2]}, "input"),
    ("too many", {"input": ["a"] * 2049}, "input"),
    ("another format", {"encoding_format": "hex"}, "encoding_format"),
    ("other dimensions", {"dimensions": 3}, "dimensions"),
    ("an unknown parameter", {"truncate": True}, "truncate"),
)


@pytest.mark.parametrize(("_what", "change", "param"), EMBEDDINGS, ids=[case[0] for case in EMBEDDINGS])
def test_a_bad_embeddings_request_is_a_named_400(opened: Any, _what: str, change: dict[str, Any], param: str) -> None:
    market, tokens, orders = opened
    record = {"model": market.embedder.did, "input": "a", **change}
    sent = {name: value for name, value in record.items() if value is not ...}
    answer = market.client.post("/v1/embeddings", json=sent, headers=market.bearer(tokens["embedder"]))
    checked(market, orders, answer, 400, param)


GENERATE: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("no text", {"text_input": ...}, "text_input"),
    ("an empty text", {"text_input": ""}, "text_input"),
    ("a text that is a number", {"text_input": 5}, "text_input"),
    ("half a surrogate pair", {"text_input": "\ud800"}, "text_input"),
    ("no tokens at all", {"max_tokens": 0}, "max_tokens"),
    ("negative max tokens", {"max_tokens": -1}, "max_tokens"),
    ("huge max tokens", {"max_tokens": 10**9}, "max_tokens"),
    ("max tokens that wrap around in 32 bits", {"max_tokens": 2**32 + 1}, "max_tokens"),
    ("max tokens of a thousand digits", {"max_tokens": 10**1000}, "max_tokens"),
    ("negative max tokens inside", {"parameters": {"max_tokens": -1}}, "max_tokens"),
    ("a temperature above 2", {"temperature": 2.1}, "temperature"),
    ("min_p as text", {"min_p": "0.1"}, "min_p"),
    ("log probabilities by number", {"logprobs": 1}, "logprobs"),
    ("a repetition penalty above 16", {"repetition_penalty": 17}, "repetition_penalty"),
    ("an unknown parameter", {"beam": 2}, "beam"),
    ("a parameter of Triton's", {"id": "x"}, "id"),
    ("a parameter twice", {"max_tokens": 1, "parameters": {"max_tokens": 2}}, "parameters"),
    ("parameters that are no object", {"parameters": [1]}, "parameters"),
    ("an unknown parameter inside", {"parameters": {"beam": 2}}, "beam"),
)


@pytest.mark.parametrize(("_what", "change", "param"), GENERATE, ids=[case[0] for case in GENERATE])
@pytest.mark.parametrize("path", ["generate", "generate_stream"])
def test_a_bad_generate_request_is_a_named_400(opened: Any, _what: str, change: dict[str, Any], param: str, path: str) -> None:
    market, tokens, orders = opened
    sent = {name: value for name, value in {"text_input": "a", **change}.items() if value is not ...}
    answer = market.client.post(f"/v2/models/{market.gpt.did}/{path}", json=sent, headers=market.bearer(tokens["gpt"]))
    checked(market, orders, answer, 400, param)


def binary(*tensors: tuple[str, str, list[int], bytes]) -> tuple[bytes, int]:
    """A body of the binary tensor data extension, and its header's length."""
    records = [
        {"name": name, "datatype": dtype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, dtype, shape, raw in tensors
    ]
    header = json.dumps({"inputs": records}).encode()
    return header + b"".join(raw for *_, raw in tensors), len(header)


def tensor(name: str, dtype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": dtype, "shape": [len(data)] if shape is None else shape, "data": data}


TEXT = tensor("text_input", "BYTES", ["a"])


INFER: tuple[tuple[str, list[dict[str, Any]], str], ...] = (
    ("no tensors", [], "inputs"),
    ("no text", [tensor("max_tokens", "INT32", [4])], "text_input"),
    ("an empty text", [tensor("text_input", "BYTES", [""])], "text_input"),
    ("half a surrogate pair", [tensor("text_input", "BYTES", ["\ud800"])], "text_input"),
    ("no tokens at all", [TEXT, tensor("max_tokens", "INT32", [0])], "max_tokens"),
    ("negative max tokens", [TEXT, tensor("max_tokens", "INT32", [-1])], "max_tokens"),
    ("huge max tokens", [TEXT, tensor("max_tokens", "INT32", [10**9])], "max_tokens"),
    ("max tokens that wrap around in 32 bits", [TEXT, tensor("max_tokens", "INT32", [2**32 + 1])], "max_tokens"),
    ("a temperature above 2", [TEXT, tensor("temperature", "FP32", [2.1])], "temperature"),
    ("streaming", [TEXT, tensor("stream", "BOOL", [True])], "stream"),
    ("an unknown tensor", [TEXT, tensor("beam", "INT32", [2])], "beam"),
    ("a tensor with a name full of text", [TEXT, tensor(f"{PROMPT_CANARY} x", "INT32", [2])], "a tensor"),
    ("a tensor twice", [TEXT, TEXT], "inputs"),
    ("another datatype", [TEXT, tensor("max_tokens", "INT64", [4])], "inputs.max_tokens.datatype"),
    ("a number for a text", [tensor("text_input", "INT32", [4])], "inputs.text_input.datatype"),
    ("a datatype of nobody", [tensor("text_input", "UTF8", ["a"])], "inputs.text_input.datatype"),
    ("data of another datatype", [TEXT, tensor("max_tokens", "INT32", ["4"])], "inputs.max_tokens.data"),
    ("two texts", [tensor("text_input", "BYTES", ["a", "b"])], "inputs.text_input.shape"),
    ("a batch axis", [tensor("text_input", "BYTES", ["a"], [1, 1])], "inputs.text_input.shape"),
    ("no axis", [tensor("text_input", "BYTES", ["a"], [])], "inputs.text_input.shape"),
    ("an axis of nothing", [tensor("text_input", "BYTES", [], [0])], "inputs.text_input.shape"),
    ("a negative axis", [tensor("text_input", "BYTES", ["a"], [-1])], "inputs.text_input.shape"),
    ("fewer elements than its shape says", [tensor("text_input", "BYTES", ["a"], [3])], "inputs.text_input"),
    ("no data", [{"name": "text_input", "datatype": "BYTES", "shape": [1]}], "inputs.text_input.data"),
)


@pytest.mark.parametrize(("_what", "inputs", "param"), INFER, ids=[case[0] for case in INFER])
def test_a_bad_infer_request_of_a_generating_model_is_a_named_400(
    opened: Any, _what: str, inputs: list[dict[str, Any]], param: str
) -> None:
    market, tokens, orders = opened
    answer = market.client.post(f"/v2/models/{market.gpt.did}/infer", json={"inputs": inputs}, headers=market.bearer(tokens["gpt"]))
    checked(market, orders, answer, 400, param)


RIGHT, RIGHT_LENGTH = binary(("text_input", "BYTES", [1], b"\1\0\0\0a"))


BINARY: tuple[tuple[str, bytes, str | None, str], ...] = (
    ("a header that is not JSON", b"text_input=a", "12", "body"),
    ("JSON and tensors without a header length", RIGHT, None, "body"),
    ("a header length that is too short", RIGHT, str(RIGHT_LENGTH - 1), "body"),
    ("a header length into the tensors", RIGHT, str(RIGHT_LENGTH + 1), "body"),
    ("a header length beyond the body", RIGHT, str(len(RIGHT) + 1), "Inference-Header-Content-Length"),
    ("a header length of nothing", RIGHT, "0", "body"),
    ("a negative header length", RIGHT, "-1", "Inference-Header-Content-Length"),
    ("a header length that is a word", RIGHT, "all", "Inference-Header-Content-Length"),
    ("a header length of a thousand digits", RIGHT, "9" * 1000, "Inference-Header-Content-Length"),
    ("bytes that no tensor names", RIGHT + b"more", str(RIGHT_LENGTH), "body"),
    (
        "fewer bytes than its tensors name",
        RIGHT[:-1],
        str(RIGHT_LENGTH),
        "inputs.text_input.parameters.binary_data_size",
    ),
)


@pytest.mark.parametrize(("_what", "body", "length", "param"), BINARY, ids=[case[0] for case in BINARY])
def test_a_bad_binary_infer_request_is_a_named_400(opened: Any, _what: str, body: bytes, length: str | None, param: str) -> None:
    market, tokens, orders = opened
    told = {} if length is None else {"Inference-Header-Content-Length": length}
    answer = market.client.post(
        f"/v2/models/{market.gpt.did}/infer",
        data=body,
        content_type="application/octet-stream",
        headers={**market.bearer(tokens["gpt"]), **told},
    )
    checked(market, orders, answer, 400, param)


@pytest.mark.parametrize("name", ["gpt", "embedder"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml"])
def test_another_content_type_for_infer_is_a_415(opened: Any, name: str, kind: str) -> None:
    market, tokens, orders = opened
    path, headers = f"/v2/models/{getattr(market, name).did}/infer", market.bearer(tokens[name])
    answer = market.client.post(path, data=json.dumps({"inputs": [TEXT]}), content_type=kind, headers=headers)
    checked(market, orders, answer, 415, "Content-Type")


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "application/octet-stream", None])
def test_infer_takes_the_content_types_of_stock_clients(market: Market, kind: str | None) -> None:
    token = market.sign_in("bob", market.gpt)
    body = json.dumps({"inputs": [TEXT]})
    answer = market.client.post(f"/v2/models/{market.gpt.did}/infer", data=body, content_type=kind, headers=market.bearer(token))
    assert answer.status_code == 200, answer.get_json()
