"""`/v2/*`: the Open Inference Protocol with Triton's generate extension; a model's name is its DID, its version is 1.

In: the protocol's requests, tensors in JSON or binary. Out: its answers, with receipts. This module must never read the tensors of
a call that Triton can answer as it stands.

A model that generates is asked through Triton's generate extension even for `infer`, which Triton refuses for models that can
stream (`DECISIONS.md`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from typing import Any

from flask import Blueprint, Response, jsonify

from control_plane.did import Did, parse_did
from control_plane.errors import BadInput, NotFound
from control_plane.fields import Kind, Table, parse_fields, safe_name
from control_plane.flows.call import Admitted, Answer, Piece, admit
from control_plane.flows.services import Services
from control_plane.receipts.store import Issued
from control_plane.serving import oip
from control_plane.serving.access import on_sale_only
from control_plane.serving.inference import Generated
from control_plane.serving.listing import Listing
from control_plane.web.answers import LENGTH_HEADER, Answering, event
from control_plane.web.bearer import bearer_session
from control_plane.web.body import check_nesting, parse_object, read_body, read_object
from control_plane.web.choices import Choices, choices
from control_plane.web.generation import (
    asked_for,
    backend_fields,
    generating_tasks,
    is_generating,
    must_serve,
    prompt,
    sampling,
    scoring,
)
from control_plane.web.journal import Journal
from control_plane.web.sent import sent
from converters.tasks import TASKS, offered_inputs, offered_outputs
from converters.tasks.task import FILES, Task

INFER_TYPES = ("application/json", "application/octet-stream", "")
"""What `infer` takes; none, since `tritonclient` names none."""
EXTENSIONS = ("binary_tensor_data", "generate")


def generate_table(max_new_tokens: int, task: str = "text-generation") -> Table:
    return {**prompt(TASKS[task]), **scoring(TASKS[task]), **sampling(max_new_tokens)}


def blueprint(services: Services, journal: Journal) -> Blueprint:
    pages = Blueprint("oip", __name__, url_prefix="/v2")
    tables = {task: generate_table(services.settings.max_new_tokens, task) for task in generating_tasks()}
    inferring, generating = Answering(services, journal, "infer"), Answering(services, journal, "generate")

    @pages.get("", strict_slashes=False)
    def server() -> Response:
        return jsonify(name="posthuman", version=version("posthuman"), extensions=EXTENSIONS)

    @pages.get("/health/live")
    def live() -> Response:
        return Response(status=200)

    @pages.get("/health/ready")
    def ready() -> Response:
        return Response(status=200 if services.server.is_ready() else 503)

    @pages.get("/models/<did>")
    @pages.get("/models/<did>/versions/<number>")
    def metadata(did: str, number: str = "1") -> Response:
        listing = _listing(services, did, number)
        on_sale_only(listing).enforce()  # an entry that does not verify would be hashed again for every stranger who asks
        entry = services.catalogue.entry(listing)
        tensors = {
            direction: [{"name": tensor.name, "datatype": tensor.dtype, "shape": tensor.shape} for tensor in tensors]
            for direction, tensors in (("inputs", offered_inputs(entry)), ("outputs", offered_outputs(entry)))
        }
        return jsonify(name=listing.did, versions=["1"], platform=f"posthuman_{entry.backend}", **tensors)

    @pages.get("/models/<did>/ready")
    @pages.get("/models/<did>/versions/<number>/ready")
    def model_ready(did: str, number: str = "1") -> Response:
        listing = _listing(services, did, number)
        is_ready = listing.state == "on_sale" and listing.entry_name in services.server.loaded()
        return Response(status=200 if is_ready else 503)

    @pages.post("/models/<did>/infer")
    @pages.post("/models/<did>/versions/<number>/infer")
    def infer(did: str, number: str = "1") -> Response:
        admitted = _admitted(services, did, number)
        mimetype = sent().mimetype
        if mimetype not in INFER_TYPES:
            expected = f"{' or '.join(each for each in INFER_TYPES if each)}, or none"
            raise BadInput("Content-Type", expected, mimetype, status=415, code="wrong_content_type")
        body = read_body()
        header_length = _header_length(len(body))
        length = len(body) if header_length is None else header_length
        check_nesting(body[:length])
        if not is_generating(admitted.listing):
            entry = admitted.listing.entry_name

            def ask(_call_id: str) -> Answer:
                answer = services.server.infer(entry, body, header_length)
                items = oip.count_items(answer)
                return Answer(answer.body, items, items, answer.header_length)

            return inferring.whole(admitted, body, ask)
        values, wanted = oip.parse_request(parse_object(body[:length]), body[length:], _OUTPUT_NAMES, FILES)
        inputs = _inputs_of(values, tables[admitted.listing.task], TASKS[admitted.listing.task])

        asked = choices(services, admitted, inputs)

        def ask_generate(_call_id: str) -> Answer:
            (made,) = asked.whole()
            answer = oip.write_answer(admitted.listing.did, oip.generated_tensors(made), wanted)
            return Answer(answer.body, made.prompt_tokens, made.completion_tokens, answer.header_length)

        return inferring.whole(admitted, body, ask_generate)

    @pages.post("/models/<did>/generate")
    @pages.post("/models/<did>/versions/<number>/generate")
    def generate(did: str, number: str = "1") -> Response:
        admitted = _admitted(services, did, number)
        body, inputs = _read_generate(admitted, tables, is_streaming=False)

        asked = choices(services, admitted, inputs)

        def ask(_call_id: str) -> Answer:
            (made,) = asked.whole()
            return Answer(_dump(_generated(admitted.listing.did, made)), made.prompt_tokens, made.completion_tokens)

        return generating.whole(admitted, body, ask)

    @pages.post("/models/<did>/generate_stream")
    @pages.post("/models/<did>/versions/<number>/generate_stream")
    def generate_stream(did: str, number: str = "1") -> Response:
        admitted = _admitted(services, did, number)
        body, inputs = _read_generate(admitted, tables, is_streaming=True)
        asked = choices(services, admitted, inputs)

        def last(_call_id: str, issued: Issued) -> bytes:
            record = {"model_name": admitted.listing.did, "model_version": "1", "text_output": "", "receipt": issued.to_json()}
            return event(json.dumps(record, separators=(",", ":")))

        return generating.stream(admitted, body, lambda _call_id: _pieces(asked, admitted.listing.did), last, sent().path)

    return pages


def _only_version(number: str) -> None:
    if number != "1":
        raise NotFound.named("version", "1, the only one of every model", Kind("another"), code="version_unknown")


def _listing(services: Services, did: str, number: str) -> Listing:
    _only_version(number)
    return services.catalogue.find(parse_did(did, "model"))


def _admitted(services: Services, did: str, number: str) -> Admitted:
    session = bearer_session(services.sessions)
    _only_version(number)
    return admit(services, session, parse_did(did, "model"))


def _header_length(body_length: int) -> int | None:
    told = sent().header(LENGTH_HEADER)
    if told is None:
        return None
    if not (told.isascii() and told.isdigit() and len(told) <= 12) or int(told) > body_length:
        raise BadInput(LENGTH_HEADER, f"a whole number up to the body's {body_length} bytes", told)
    return int(told)


def _read_generate(admitted: Admitted, tables: Mapping[str, Table], is_streaming: bool) -> tuple[bytes, dict[str, Any]]:
    """Parameters stand beside `text_input` or, as Triton's documentation has them, inside `parameters`."""
    must_serve(admitted.listing, tuple(tables), "this path is for; use infer")
    body, record = read_object()
    inner = record.pop("parameters", {})
    if not isinstance(inner, dict):
        raise BadInput("parameters", "an object", Kind(type(inner).__name__))
    for name in inner:
        if name in record:
            raise BadInput("parameters", "each parameter once", Kind("one inside and outside of it"))
    fields = parse_fields(record | inner, tables[admitted.listing.task])
    if fields["stream"] and not is_streaming:
        raise BadInput("stream", "false here; generate_stream streams", True)
    return body, backend_fields(asked_for(TASKS[admitted.listing.task], fields), fields)


def _inputs_of(values: tuple[oip.Values, ...], table: Table, task: Task) -> dict[str, Any]:
    """The generate backend's inputs from tensors, each of its declared type and checked like the same parameter in JSON."""
    record: dict[str, Any] = {}
    known = {tensor.name: tensor for tensor in task.inputs}
    for tensor in values:
        if tensor.name not in known:
            expected = f"no such tensor; known are {', '.join(known)}"
            raise BadInput(safe_name(tensor.name, "a tensor"), expected, Kind(f"one of {tensor.dtype}"), code="unknown_parameter")
        ours = known[tensor.name]
        if tensor.dtype != ours.dtype:
            raise BadInput(f"inputs.{tensor.name}.datatype", ours.dtype, Kind(tensor.dtype))
        if len(tensor.shape) != 1 or ours.shape[0] not in (-1, tensor.shape[0]):
            raise BadInput(f"inputs.{tensor.name}.shape", str(list(ours.shape)), list(tensor.shape))
        record[tensor.name] = (list(tensor.elements) or None) if ours.shape[0] == -1 else tensor.elements[0]
    fields = parse_fields(record, table)
    if fields["stream"]:
        raise BadInput("stream", "false here; generate_stream streams", True)
    return backend_fields(asked_for(task, fields), fields)


_OUTPUT_NAMES = tuple(tensor.name for tensor in oip.generated_tensors(Generated("", (), 0, 0, None)))


def _generated(did: Did, made: Generated) -> dict[str, Any]:
    """Triton's shape: a tensor of one element is a bare value."""
    tensors = {
        tensor.name: tensor.elements[0] if len(tensor.elements) == 1 else list(tensor.elements)
        for tensor in oip.generated_tensors(made)
    }
    return {"model_name": did, "model_version": "1", **tensors}


def _pieces(asked: Choices, did: Did) -> Iterator[Piece]:
    """Closing this stops the computation."""
    with closing(asked.pieces()) as found:
        for _, made in found:
            yield Piece(event(_dump(_generated(did, made)).decode()), made.prompt_tokens, made.completion_tokens)


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
