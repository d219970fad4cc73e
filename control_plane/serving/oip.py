"""Open Inference Protocol bodies: a JSON header, then binary tensors.

In: bytes with the header's length, or tensors. Out: tensors, or bytes with the header's length. This module must never be on the
way of a call whose tensors pass through unread.

Source: KServe Open Inference Protocol v2 and its binary tensor data extension, as Triton 2.51 and tritonclient 2.73 write them.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.errors import BadInput, Unavailable
from control_plane.serving.inference import Generated, TensorAnswer

_NUMBERS = {"BOOL": "?", "INT32": "i", "INT64": "q", "FP32": "f"}
_FIRST_SHAPE = re.compile(rb'"shape"\s*:\s*\[\s*(\d{1,9})')
_MOST_TENSORS = 64
_MOST_AXES = 8
_LONGEST_ID = 128


@dataclass(frozen=True)
class Values:
    """One small tensor with its elements in order: text as str, a file as bytes, numbers as int or float, BOOL as bool."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: tuple[Any, ...]


@dataclass(frozen=True)
class Wanted:
    """What a request asks of its answer. names: empty means every output. is_binary: by output, the default under None."""

    names: tuple[str, ...]
    is_binary: Mapping[str | None, bool]
    id: str = ""


def parse_request(
    header: Mapping[str, Any], binary: bytes, offered: Collection[str] | None = None, files: Collection[str] = ()
) -> tuple[tuple[Values, ...], Wanted]:
    """Inputs and what is wanted of the answer. Raises BadInput naming the tensor.

    offered: the outputs there are, so that asking for another is refused before anything is computed; None: not known here.
    files: the inputs whose BYTES are no text.
    """
    for name in header:
        if name not in ("id", "inputs", "outputs", "parameters"):
            raise BadInput("body", "only id, inputs, outputs and parameters", _key(name), code="unknown_parameter")
    inputs = header.get("inputs")
    if not isinstance(inputs, list) or not 0 < len(inputs) <= _MOST_TENSORS:
        raise BadInput("inputs", f"a list of 1 to {_MOST_TENSORS} tensors", type(inputs).__name__)
    values: list[Values] = []
    place = 0
    for record in inputs:
        tensor, used = _input(record, binary[place:], files)
        place += used
        if any(tensor.name == other.name for other in values):
            raise BadInput("inputs", "each tensor once", tensor.name)
        values.append(tensor)
    if place != len(binary):
        raise BadInput("body", f"{place} bytes of binary tensors after the header", f"{len(binary)} bytes")
    wanted = _wanted(header)
    if offered is not None:
        _check_offered(wanted, offered)
    return tuple(values), wanted


def _wanted(header: Mapping[str, Any]) -> Wanted:
    parameters = header.get("parameters", {})
    outputs = header.get("outputs", [])
    if not isinstance(parameters, dict):
        raise BadInput("parameters", "an object", type(parameters).__name__)
    if not isinstance(outputs, list) or len(outputs) > _MOST_TENSORS:
        raise BadInput("outputs", f"a list of at most {_MOST_TENSORS} tensors", "something else")
    is_binary: dict[str | None, bool] = {None: _flag(parameters, "binary_data_output", "parameters")}
    names: dict[str, None] = {}
    for record in outputs:
        if not isinstance(record, dict) or not isinstance(record.get("name"), str):
            raise BadInput("outputs", "objects with a name", type(record).__name__)
        name, asked = record["name"], record.get("parameters", {})
        if name in names:
            raise BadInput("outputs", "each tensor once", _key(name))
        if not isinstance(asked, dict):
            raise BadInput("outputs", "parameters an object", type(asked).__name__)
        names[name] = None
        # As Triton 2.51 does: an output that is listed is binary only where it says so itself.
        is_binary[name] = _flag(asked, "binary_data", f"outputs.{_key(name)}.parameters")
    return Wanted(tuple(names), is_binary, _id(header.get("id", "")))


def _flag(record: Mapping[str, Any], name: str, where: str) -> bool:
    value = record.get(name, False)
    if not isinstance(value, bool):
        raise BadInput(f"{where}.{name}", "true or false", type(value).__name__)
    return value


def _id(value: object) -> str:
    """The request's own name, which its answer repeats; JSON can write halves of characters that UTF-8 cannot."""
    if isinstance(value, str) and len(value) <= _LONGEST_ID and not any("\ud800" <= letter <= "\udfff" for letter in value):
        return value
    raise BadInput("id", f"a text of at most {_LONGEST_ID} characters that UTF-8 can hold", type(value).__name__)


def _check_offered(wanted: Wanted, offered: Collection[str]) -> None:
    for name in wanted.names:
        if name not in offered:
            raise BadInput("outputs", f"names among {', '.join(offered)}", _key(name))


def _input(record: object, binary: bytes, files: Collection[str]) -> tuple[Values, int]:
    """One input, and how many bytes of `binary` are its own."""
    if not isinstance(record, dict) or not isinstance(record.get("name"), str):
        raise BadInput("inputs", "objects with name, datatype, shape, and data or a binary size", type(record).__name__)
    name, dtype, shape = _key(record["name"]), record.get("datatype"), record.get("shape")
    if not isinstance(dtype, str) or (dtype != "BYTES" and dtype not in _NUMBERS):
        found = _key(dtype) if isinstance(dtype, str) else type(dtype).__name__
        raise BadInput(f"inputs.{name}.datatype", f"one of BYTES, {', '.join(_NUMBERS)}", found)
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_AXES
        or not all(type(each) is int and 0 <= each <= 1 << 20 for each in shape)
    ):
        raise BadInput(f"inputs.{name}.shape", f"a list of at most {_MOST_AXES} axis lengths", "something else")
    count = 1
    for length in shape:
        count *= length
    parameters = record.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadInput(f"inputs.{name}.parameters", "an object", type(parameters).__name__)
    size = parameters.get("binary_data_size")
    if size is None:
        elements = _flat(record.get("data"), name)
        used = 0
        if not all(_is_element(dtype, element) for element in elements):
            raise BadInput(f"inputs.{name}.data", f"elements of {dtype}", "another kind")
    else:
        if type(size) is not int or not 0 <= size <= len(binary):
            raise BadInput(f"inputs.{name}.parameters.binary_data_size", f"at most the {len(binary)} bytes that follow", size)
        elements, used = _unpack(name, dtype, binary[:size], is_text=name not in files), size
    if len(elements) != count:
        raise BadInput(f"inputs.{name}", f"{count} elements, as its shape says", f"{len(elements)}")
    return Values(name, dtype, tuple(shape), elements), used


def _is_element(dtype: str, element: object) -> bool:
    if dtype == "BYTES":
        return isinstance(element, str)
    if dtype == "BOOL":
        return isinstance(element, bool)
    if dtype == "FP32":
        return isinstance(element, int | float) and not isinstance(element, bool)
    return type(element) is int


def _flat(data: object, name: str, depth: int = 0) -> tuple[Any, ...]:
    if not isinstance(data, list) or depth > 8:
        raise BadInput(f"inputs.{name}.data", "a list, nested at most 8 deep", type(data).__name__)
    if any(isinstance(each, list) for each in data):
        return tuple(element for each in data for element in _flat(each, name, depth + 1))
    return tuple(data)


def _unpack(name: str, dtype: str, raw: bytes, is_text: bool) -> tuple[Any, ...]:
    if dtype == "BYTES":
        try:
            return tuple(item.decode("utf-8") if is_text else item for item in _split_items(raw))
        except (UnicodeDecodeError, ValueError) as error:
            raise BadInput(
                f"inputs.{name}", "UTF-8 texts, each behind its length in 4 bytes", f"{len(raw)} bytes that are not"
            ) from error
    if len(raw) % struct.calcsize("<" + _NUMBERS[dtype]):
        raise BadInput(f"inputs.{name}", f"whole elements of {dtype}", f"{len(raw)} bytes")
    return tuple(element for (element,) in struct.iter_unpack("<" + _NUMBERS[dtype], raw))


def _split_items(raw: bytes) -> Iterable[bytes]:
    place = 0
    while place < len(raw):
        end = place + 4 + int.from_bytes(raw[place : place + 4], "little")
        if place + 4 > len(raw) or end > len(raw):
            raise ValueError("a length that is longer than what follows")
        yield raw[place + 4 : end]
        place = end


def pack(dtype: str, elements: Sequence[Any]) -> bytes:
    """Elements as the binary extension has them: little-endian, texts behind their length in 4 bytes."""
    if dtype == "BYTES":
        encoded = [element if isinstance(element, bytes) else element.encode("utf-8") for element in elements]
        return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
    return struct.pack(f"<{len(elements)}{_NUMBERS[dtype]}", *elements)


def write_request(inputs: Sequence[Values], outputs: Sequence[str] = ()) -> tuple[bytes, int]:
    """A request with binary inputs that asks for binary outputs, and its header's length. outputs: none means all there are."""
    packed = [pack(tensor.dtype, tensor.elements) for tensor in inputs]
    records = [
        {"name": tensor.name, "datatype": tensor.dtype, "shape": tensor.shape, "parameters": {"binary_data_size": len(raw)}}
        for tensor, raw in zip(inputs, packed, strict=True)
    ]
    asked: dict[str, Any] = {"inputs": records, "parameters": {"binary_data_output": True}}
    if outputs:
        # Triton 2.51 forgets `binary_data_output` where outputs are listed: each must say it itself.
        asked["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    header = json.dumps(asked, separators=(",", ":")).encode()
    return header + b"".join(packed), len(header)


def write_answer(model: str, outputs: Sequence[Values], wanted: Wanted) -> TensorAnswer:
    """The wanted outputs, each in JSON or binary as asked. Raises BadInput for an output that does not exist."""
    offered = {tensor.name: tensor for tensor in outputs}
    _check_offered(wanted, offered)
    records, packed = [], []
    for name in wanted.names or tuple(offered):
        tensor = offered[name]
        record: dict[str, Any] = {"name": name, "datatype": tensor.dtype, "shape": tensor.shape}
        if wanted.is_binary.get(name, wanted.is_binary[None]):
            packed.append(pack(tensor.dtype, tensor.elements))
            record["parameters"] = {"binary_data_size": len(packed[-1])}
        else:
            record["data"] = list(tensor.elements)
        records.append(record)
    answer = {"model_name": model, "model_version": "1", "outputs": records} | ({"id": wanted.id} if wanted.id else {})
    header = json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()
    return TensorAnswer(header + b"".join(packed), len(header) if packed else None)


@dataclass(frozen=True)
class RawTensor:
    """One output as it came: dtype, shape and little-endian bytes."""

    dtype: str
    shape: tuple[int, ...]
    raw: bytes


def read_answer(answer: TensorAnswer) -> dict[str, RawTensor]:
    """Outputs by name, from an answer whose outputs are all binary. Raises Unavailable when it has another form."""
    try:
        place = len(answer.body) if answer.header_length is None else answer.header_length
        header = json.loads(answer.body[:place])
        outputs: dict[str, RawTensor] = {}
        for record in header["outputs"]:
            size = record["parameters"]["binary_data_size"]
            raw = answer.body[place : place + size]
            outputs[record["name"]] = RawTensor(record["datatype"], tuple(record["shape"]), raw)
            place += size
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable("the inference server gave an answer that is not binary tensors", code="strange_answer") from error
    return outputs


def numbers(tensor: RawTensor) -> tuple[Any, ...]:
    return tuple(element for (element,) in struct.iter_unpack("<" + _NUMBERS[tensor.dtype], tensor.raw))


def items(tensor: RawTensor) -> tuple[bytes, ...]:
    """The elements of a BYTES tensor. Raises Unavailable when it is not one."""
    try:
        if tensor.dtype != "BYTES":
            raise ValueError(f"{tensor.dtype} where BYTES was expected")
        return tuple(_split_items(tensor.raw))
    except ValueError as error:
        raise Unavailable("the inference server gave a tensor that is not BYTES", code="strange_answer") from error


FINISHED: Mapping[str | None, str] = {"stop": "stop", "length": "length", None: ""}
"""`Generated.finish_reason` as the generate backend writes it."""


def generated_tensors(made: Generated) -> tuple[Values, ...]:
    """A generation as the tensors it came from, in the order of the entry's outputs (`converters/tasks/generation.py`)."""
    return (
        Values("text_output", "BYTES", (1,), (made.text,)),
        Values("token_ids", "INT32", (len(made.token_ids),), made.token_ids),
        Values("prompt_tokens", "INT32", (1,), (made.prompt_tokens,)),
        Values("completion_tokens", "INT32", (1,), (made.completion_tokens,)),
        Values("finish_reason", "BYTES", (1,), (FINISHED.get(made.finish_reason, ""),)),
        Values("token_logprobs", "FP32", (len(made.token_logprobs),), made.token_logprobs),
        Values("token_texts", "BYTES", (len(made.token_texts),), made.token_texts),
    )


def count_items(answer: TensorAnswer) -> int:
    """Length of the first axis of the first output, found without parsing; 1 where there is none.

    In the header it is always written before any data, and inside a text its quotes would be escaped.
    """
    found = _FIRST_SHAPE.search(answer.body, 0, answer.header_length or len(answer.body))
    return int(found[1]) if found else 1


def _key(name: str) -> str:
    """A name that a stranger chose, as an error may show it."""
    return name if name.isidentifier() and len(name) <= 64 else "a strange name"
