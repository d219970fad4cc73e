"""What a Hugging Face client sends, as the tensors of the model's task.

In: a request's bytes and content type, a task. Out: tensors by name, and parameters. This module must never know one task from
another beyond the tensors it takes (but for feature extraction, whose clients have shapes of their own), and never show a text in
an error.

Source: `huggingface_hub` 0.36.2, provider `hf-inference`: `inputs` and `parameters` in JSON; files as the whole body, or in base64
where there are parameters beside them; the parameters of feature extraction stand beside `inputs`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.errors import BadInput
from control_plane.fields import Kind, Table, flag, is_text, kind_of, only, parse_fields, safe_name
from control_plane.serving import oip
from control_plane.web.body import parse_object
from converters.tasks.task import FILES, Task

_FILE_TYPES = ("image/", "audio/")
_RAW = ("application/octet-stream", "")
_KNOWN = ("inputs", "parameters", "options", "stream")
_SIMILARITY = {"source_sentence", "sentences"}
_LABELS = "candidate_labels"
_BESIDE = ("feature-extraction",)
"""Tasks whose parameters may stand beside `inputs`."""

OPTIONS: Table = {
    "use_cache": flag("true or false; nothing is answered from a cache"),
    "wait_for_model": only((False,), "waiting for a model"),
}


@dataclass(frozen=True)
class Question:
    """inputs: of any JSON kind, or a file's bytes. parameters: null is left out."""

    inputs: Any
    parameters: dict[str, Any]
    is_streamed: bool = False


@dataclass(frozen=True)
class Asked:
    """The elements of each tensor. is_list: whether several answers are expected, whatever their number.

    is_similarity: the first text is to be compared with the others.
    """

    tensors: dict[str, list[str | bytes]]
    is_list: bool
    is_similarity: bool = False

    def values(self, parameters: bytes | None) -> list[oip.Values]:
        found = [oip.Values(name, "BYTES", (len(each),), tuple(each)) for name, each in self.tensors.items()]
        return found if parameters is None else [*found, oip.Values("parameters", "BYTES", (1,), (parameters,))]


def read_question(task: Task, content_type: str, body: bytes) -> Question:
    """Raises BadInput, with status 415 for a content type that the task does not take."""
    if content_type != "application/json":
        if not _file_of(task):
            raise BadInput("Content-Type", "application/json", content_type or "none", status=415, code="wrong_content_type")
        if not content_type.startswith(_FILE_TYPES) and content_type not in _RAW:
            expected = "application/json, image/*, audio/* or application/octet-stream"
            raise BadInput("Content-Type", expected, content_type, status=415, code="wrong_content_type")
        if not body:
            raise BadInput("body", "a file that is not empty", Kind("0 bytes"))
        return Question(body, {})
    record = parse_object(body)
    if "inputs" not in record:
        raise BadInput("inputs", "the model's input", Kind("nothing"), code="missing_parameter")
    beside = {name: value for name, value in record.items() if name not in _KNOWN}
    if task.name not in _BESIDE and beside:
        name, value = next(iter(beside.items()))
        expected = f"no such field; known are {', '.join(_KNOWN)}"
        raise BadInput(safe_name(name), expected, kind_of(value), code="unknown_parameter")
    parse_fields(_object(record, "options"), OPTIONS)
    streamed = record.get("stream")
    if not (streamed is None or isinstance(streamed, bool)):
        raise BadInput("stream", "true or false", kind_of(streamed))
    parameters = _merged(beside, _object(record, "parameters"), "parameters")
    return Question(record["inputs"], {name: value for name, value in parameters.items() if value is not None}, bool(streamed))


def read_inputs(task: Task, question: Question) -> tuple[Asked, dict[str, Any]]:
    """The task's tensors, and the parameters that are left for its backend. Raises BadInput naming the field."""
    parameters = dict(question.parameters)
    inputs = question.inputs
    named = {tensor.name: tensor for tensor in task.main}
    beside = {_LABELS: _labels(parameters)} if _LABELS in named else {}
    main = [name for name in named if name not in beside]
    if task.name == "feature-extraction" and isinstance(inputs, dict) and set(inputs) == _SIMILARITY:
        source, others = inputs["source_sentence"], inputs["sentences"]
        if not isinstance(others, list) or not others:
            raise BadInput("inputs.sentences", "a list of texts", kind_of(others))
        texts = [_text("inputs.source_sentence", source), *(_text("inputs.sentences", each) for each in others)]
        return Asked({"text_input": texts}, is_list=True, is_similarity=True), parameters
    if len(main) == 1:
        read = _file if main[0] in FILES else _text
        is_list = isinstance(inputs, list)
        items = [read("inputs", each) for each in (inputs if is_list else [inputs])]
        if not items:
            raise BadInput("inputs", "at least one item", Kind("an empty list"))
        return Asked({main[0]: items, **beside}, is_list), parameters
    is_list = isinstance(inputs, list)
    records = inputs if isinstance(inputs, list) else [inputs]
    is_one = any(named[name].shape == (1,) for name in main)  # then another tensor may hold several texts for it
    tensors: dict[str, list[str | bytes]] = {name: [] for name in main}
    for record in records:
        if not isinstance(record, dict) or set(record) != set(main):
            raise BadInput("inputs", f"an object with {' and '.join(main)}, or a list of them", kind_of(record))
        for name in main:
            tensors[name] += _texts(f"inputs.{name}", record[name], takes_many=is_one and named[name].shape == (-1,))
    if not records or (len(records) > 1 and is_one):
        raise BadInput("inputs", "one object" if records else "at least one object", Kind(f"a list of {len(records)}"))
    return Asked({**tensors, **beside}, is_list), parameters


def callers_names(task: Task) -> dict[str, str]:
    """How a caller writes each input of the task, by tensor name: the backend's refusals name tensors."""
    main = [tensor.name for tensor in task.main if tensor.name != _LABELS]
    names = {main[0]: "inputs"} if len(main) == 1 else {name: f"inputs.{name}" for name in main}
    return {**names, _LABELS: f"parameters.{_LABELS}"}


def _file_of(task: Task) -> bool:
    return any(tensor.name in FILES for tensor in task.inputs)


def _object(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(name, "an object", kind_of(value))
    return value


def _merged(left: Mapping[str, Any], right: Mapping[str, Any], where: str) -> dict[str, Any]:
    if twice := sorted(set(left) & set(right)):
        raise BadInput(where, "each parameter once", Kind(f"{safe_name(twice[0])} twice"))
    return {**left, **right}


def merged_parameters(parameters: Mapping[str, Any], nested: tuple[str, ...]) -> dict[str, Any]:
    """The parameters with those that stand in an object of one of these names. Raises BadInput for one that stands twice."""
    found = {name: value for name, value in parameters.items() if name not in nested}
    for name in nested:
        inner = {key: value for key, value in _object(parameters, name).items() if value is not None}
        found = _merged(found, inner, name)
    return found


def _labels(parameters: dict[str, Any]) -> list[str | bytes]:
    """Taken out of the parameters: for Triton they are an input of their own. One text is a list with commas."""
    value = parameters.pop(_LABELS, None)
    listed = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise BadInput(f"parameters.{_LABELS}", "a list of texts, none empty", kind_of(value))
    return [_text(f"parameters.{_LABELS}", each) for each in listed]


def _texts(field: str, value: object, *, takes_many: bool) -> list[str | bytes]:
    if not takes_many or not isinstance(value, list):
        return [_text(field, value)]
    if not value:
        raise BadInput(field, "at least one text", Kind("an empty list"))
    return [_text(field, each) for each in value]


def _text(field: str, value: object) -> str | bytes:
    if not is_text(value):
        raise BadInput(field, "a text that is not empty", kind_of(value))
    assert isinstance(value, str)  # noqa: S101  # is_text said so
    return value


def _file(field: str, value: object) -> str | bytes:
    """A file's bytes, from base64 with or without `data:...;base64,` before it."""
    if isinstance(value, bytes):
        return value
    expected = "a file in base64"
    if not isinstance(value, str) or not value:
        raise BadInput(field, expected, kind_of(value))
    _, mark, rest = value.partition(";base64,")
    encoded = rest if value.startswith("data:") and mark else value
    try:
        file = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(field, expected, Kind("a text that is not")) from error
    if not file:
        raise BadInput(field, "a file that is not empty", Kind("0 bytes"))
    return file
