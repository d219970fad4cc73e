"""Tensor bodies are read strictly and written as the stock client reads them."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from control_plane.errors import BadInput, Unavailable
from control_plane.serving import oip
from control_plane.serving.inference import TensorAnswer


def texts(*elements: str) -> oip.Values:
    return oip.Values("text_input", "BYTES", (len(elements),), elements)


SAMPLES = (
    texts("a b", "", "ö €"),
    oip.Values("stream", "BOOL", (1,), (True,)),
    oip.Values("max_tokens", "INT32", (1, 1), (7,)),
    oip.Values("seed", "INT64", (1,), (-(2**63),)),
    oip.Values("temperature", "FP32", (1,), (0.5,)),
)


def test_binary_tensors_read_back_as_they_were_written() -> None:
    body, length = oip.write_request(SAMPLES)
    values, wanted = oip.parse_request(json.loads(body[:length]), body[length:])
    assert values == SAMPLES
    assert wanted.is_binary[None]


def test_tensors_in_json_read_the_same_as_in_binary() -> None:
    records = [
        {"name": each.name, "datatype": each.dtype, "shape": list(each.shape), "data": list(each.elements)} for each in SAMPLES
    ]
    records[2]["data"] = [[7]]
    assert oip.parse_request({"inputs": records}, b"")[0] == SAMPLES


def test_an_answer_reads_back_in_binary_and_is_json_where_that_was_asked() -> None:
    outputs = (oip.Values("embedding", "FP32", (2, 2), (1.0, 2.0, 3.0, 4.0)), oip.Values("prompt_tokens", "INT32", (2,), (5, 6)))
    binary = oip.write_answer("m", outputs, oip.Wanted((), {None: True}))
    read = oip.read_answer(binary)
    assert read["embedding"].shape == (2, 2)
    assert oip.numbers(read["embedding"]) == (1.0, 2.0, 3.0, 4.0)
    assert oip.numbers(read["prompt_tokens"]) == (5, 6)
    plain = oip.write_answer("m", outputs, oip.Wanted(("prompt_tokens",), {None: False}, "id-1"))
    assert plain.header_length is None
    assert json.loads(plain.body) == {
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "prompt_tokens", "datatype": "INT32", "shape": [2], "data": [5, 6]}],
        "id": "id-1",
    }
    mixed = oip.write_answer("m", outputs, oip.Wanted((), {None: True, "embedding": False}))
    assert mixed.header_length is not None
    assert mixed.body[mixed.header_length :] == struct.pack("<2i", 5, 6)


def one(**changes: Any) -> dict[str, Any]:
    record = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["x"], **changes}
    return {"inputs": [{name: value for name, value in record.items() if value is not ...}]}


@pytest.mark.parametrize(
    ("header", "binary"),
    [
        ({}, b""),
        ({"inputs": []}, b""),
        ({"inputs": "x"}, b""),
        ({"inputs": [3]}, b""),
        ({"inputs": [{}] * 65}, b""),
        ({**one(), "surprise": 1}, b""),
        ({**one(), "parameters": []}, b""),
        ({**one(), "outputs": {}}, b""),
        ({**one(), "outputs": [{}]}, b""),
        ({**one(), "outputs": [{"name": "x", "parameters": 3}]}, b""),
        ({**one(), "id": 5}, b""),
        (one(name=5), b""),
        (one(datatype="FP16"), b""),
        (one(datatype=None), b""),
        (one(shape=[2]), b""),
        (one(shape=[-1]), b""),
        (one(shape="1"), b""),
        (one(shape=[True]), b""),
        (one(shape=[1 << 40]), b""),
        (one(data=...), b""),
        (one(data="x"), b""),
        (one(data=[1]), b""),
        (one(data=[[[[[[[[[["x"]]]]]]]]]]), b""),
        (one(datatype="INT32", data=[1.5]), b""),
        (one(datatype="INT32", data=[True]), b""),
        (one(datatype="BOOL", data=[1]), b""),
        (one(), b"left over"),
        (one(data=..., parameters={"binary_data_size": 5}), b"\1\0\0\0"),
        (one(data=..., parameters={"binary_data_size": -1}), b""),
        (one(data=..., parameters={"binary_data_size": "5"}), b"\1\0\0\0x"),
        (one(data=..., parameters={"binary_data_size": 5}), b"\2\0\0\0x"),
        (one(data=..., parameters={"binary_data_size": 5}), b"\1\0\0\0\xff"),
        (one(data=..., parameters={"binary_data_size": 3}), b"\1\0\0"),
        (one(data=..., datatype="INT32", parameters={"binary_data_size": 5}), b"12345"),
        (one(data=..., parameters={"shared_memory_region": "secret"}), b""),
        ({"inputs": one()["inputs"] * 2}, b""),
    ],
)
def test_a_faulty_tensor_request_is_a_named_400(header: dict[str, Any], binary: bytes) -> None:
    with pytest.raises(BadInput) as caught:
        oip.parse_request(header, binary)
    assert caught.value.status == 400
    assert caught.value.field


def test_an_output_that_does_not_exist_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="outputs"):
        oip.write_answer("m", (texts("x"),), oip.Wanted(("logits",), {None: False}))


def test_items_are_counted_without_reading_the_tensors() -> None:
    outputs = (oip.Values("label", "BYTES", (3,), ('"shape":[9]', "b", "c")),)
    for is_binary in (True, False):
        assert oip.count_items(oip.write_answer("m", outputs, oip.Wanted((), {None: is_binary}))) == 3
    assert oip.count_items(TensorAnswer(b"{}", None)) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"outputs":[{"name":"x"}]}', b"\xff"])
def test_a_strange_answer_of_the_server_is_its_fault_and_not_the_callers(body: bytes) -> None:
    with pytest.raises(Unavailable):
        oip.read_answer(TensorAnswer(body, None))
