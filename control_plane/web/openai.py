"""`/v1/models`, `/v1/completions`, `/v1/embeddings`: OpenAI's API; `model` is a DID.

In: OpenAI's JSON. Out: OpenAI's JSON and events, with receipts. This module must never drop a parameter in silence.

Source: OpenAI's API reference for completions and embeddings, as `openai` 3.54 speaks it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request

from control_plane.did import Did, parse_did
from control_plane.errors import Unavailable
from control_plane.flows.call import Admitted, Answer, Piece, admit
from control_plane.flows.services import Services
from control_plane.receipts.store import Issued
from control_plane.serving import oip
from control_plane.serving.access import on_sale_only
from control_plane.serving.inference import Generated
from control_plane.serving.listing import Listing
from control_plane.web.answers import Answering, event
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_object
from control_plane.web.fields import Field, Table, listed, only, parse_fields, text, texts
from control_plane.web.generation import EMBEDDING, TEXT_TO_TEXT, backend_fields, must_serve, renamed, sampling
from control_plane.web.journal import Journal

_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
MOST_INPUTS = 2048
"""OpenAI's own limit of one embeddings request."""
_STREAM_OPTIONS = ("include_usage", "include_obfuscation")


def _is_stream_options(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(name in _STREAM_OPTIONS and isinstance(each, bool) for name, each in value.items())
        and not value.get("include_obfuscation", False)
    )


def _is_one_prompt(value: Any) -> bool:
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    return text("").is_right(one)


def completion_table(max_new_tokens: int) -> Table:
    prompt = "a text that is not empty, or a list with one (token ids and several prompts are not supported)"
    options = "include_usage true or false (include_obfuscation only false)"
    return {
        "model": text("the DID of a model", is_required=True),
        "prompt": Field(prompt, _is_one_prompt, {"type": ["string", "array"]}, is_required=True),
        **sampling(max_new_tokens),
        "stream_options": Field(options, _is_stream_options, {"type": "object"}),
        "user": Field("a text", lambda value: isinstance(value, str), {"type": "string"}),
        "n": only((1,), "more than one completion"),
        "best_of": only((1,), "choosing among several"),
        "echo": only((False,), "repeating the prompt"),
        "suffix": only(("",), "filling in the middle"),
        "logprobs": only((), "returning probabilities, which give weights away,"),
        "logit_bias": Field(
            "nothing: biasing tokens is not supported", lambda value: value == {}, {"type": "object", "maxProperties": 0}
        ),
    }


EMBEDDINGS: Table = {
    "model": text("the DID of a model", is_required=True),
    "input": texts(f"a text, or a list of 1 to {MOST_INPUTS} texts, none empty", MOST_INPUTS, is_required=True),
    "encoding_format": Field("float or base64", lambda value: value in ("float", "base64"), {"enum": ["float", "base64"]}, "float"),
    "dimensions": only((), "cutting embeddings short"),
    "user": Field("a text", lambda value: isinstance(value, str), {"type": "string"}),
}


def blueprint(services: Services, journal: Journal) -> Blueprint:
    pages = Blueprint("openai", __name__)
    table = completion_table(services.settings.max_new_tokens)
    completing = Answering(services, journal, "completions")
    embedding = Answering(services, journal, "embeddings")

    @pages.get("/v1/models")
    def models() -> Response:
        listings = services.catalogue.listings()
        return jsonify(object="list", data=[_model(listing) for listing in listings if listing.state == "on_sale"])

    @pages.get("/v1/models/<did>")
    def model(did: str) -> Response:
        return jsonify(_model(services.catalogue.find(parse_did(did, "model"))))

    @pages.get("/v1/models/<did>/entry")
    def entry(did: str) -> Response:
        listing = services.catalogue.find(parse_did(did, "model"))
        on_sale_only(listing).enforce()  # an entry that does not verify would be hashed again for every stranger who asks
        return jsonify(services.catalogue.entry(listing).to_json())

    @pages.post("/v1/completions")
    def completions() -> Response:
        session = bearer_session(services.sessions)
        body, record = read_object()
        fields = parse_fields(record, table)
        did = parse_did(fields["model"], "model")
        admitted = admit(services, session, did)
        must_serve(admitted.listing, TEXT_TO_TEXT, "this path is for")
        prompt = fields["prompt"][0] if isinstance(fields["prompt"], list) else fields["prompt"]
        inputs = backend_fields({"text_input": prompt}, fields)
        entry, created = admitted.listing.entry_name, int(services.clock())
        if not fields["stream"]:

            def ask(call_id: str) -> Answer:
                with renamed({"text_input": "prompt"}):
                    made = services.server.generate(entry, inputs, session.wallet)
                answer = _completion(call_id, created, did, [_choice(made)]) | {"usage": _usage(made)}
                return Answer(_dump(answer), made.prompt_tokens, made.completion_tokens)

            return completing.whole(admitted, body, ask)
        has_usage = bool((fields["stream_options"] or {}).get("include_usage"))

        def ask_streaming(call_id: str) -> Iterator[Piece]:
            return _pieces(services, admitted, inputs, _completion(call_id, created, did, []), has_usage)

        def last(call_id: str, issued: Issued) -> bytes:
            chunk = _completion(call_id, created, did, [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}])
            return event(_text(chunk | {"receipt": issued.to_json()})) + b"data: [DONE]\n\n"

        return completing.stream(admitted, body, ask_streaming, last, request.path)

    @pages.post("/v1/embeddings")
    def embeddings() -> Response:
        session = bearer_session(services.sessions)
        body, record = read_object()
        fields = parse_fields(record, EMBEDDINGS)
        did = parse_did(fields["model"], "model")
        admitted = admit(services, session, did)
        must_serve(admitted.listing, EMBEDDING, "this path is for")
        inputs = listed(fields["input"])
        asked, header_length = oip.write_request([oip.Values("text_input", "BYTES", (len(inputs),), tuple(inputs))])

        def ask(_call_id: str) -> Answer:
            with renamed({"text_input": "input"}):
                outputs = oip.read_answer(services.server.infer(admitted.listing.entry_name, asked, header_length))
            vectors, tokens = outputs.get("embedding"), outputs.get("prompt_tokens")
            if vectors is None or tokens is None or len(vectors.shape) != 2 or vectors.shape[0] != len(inputs):
                raise Unavailable("the inference server gave an answer that is not one embedding a text", code="strange_answer")
            count = sum(oip.numbers(tokens))
            answer = {
                "object": "list",
                "data": _vectors(vectors, fields["encoding_format"] == "base64"),
                "model": did,
                "usage": {"prompt_tokens": count, "total_tokens": count},
            }
            return Answer(_dump(answer), count, len(inputs))

        return embedding.whole(admitted, body, ask)

    return pages


def _pieces(
    services: Services, admitted: Admitted, inputs: dict[str, Any], chunk: dict[str, Any], has_usage: bool
) -> Iterator[Piece]:
    """One event a piece of text; closing this closes the server's stream, which stops the computation."""
    with renamed({"text_input": "prompt"}):
        stream = services.server.generate_stream(admitted.listing.entry_name, inputs, admitted.session.wallet)
    try:
        piece = None
        with renamed({"text_input": "prompt"}):
            for piece in stream:
                record = chunk | {"choices": [_choice(piece)]} | ({"usage": None} if has_usage else {})
                yield Piece(event(_text(record)), piece.prompt_tokens, piece.completion_tokens)
        if piece is None:
            raise Unavailable("the inference server ended a stream that had not begun", code="strange_answer")
        if has_usage:
            record = chunk | {"choices": [], "usage": _usage(piece)}
            yield Piece(event(_text(record)), piece.prompt_tokens, piece.completion_tokens)
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def _completion(call_id: str, created: int, did: Did, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"cmpl-{call_id}", "object": "text_completion", "created": created, "model": did, "choices": choices}


def _choice(made: Generated) -> dict[str, Any]:
    return {"index": 0, "text": made.text, "logprobs": None, "finish_reason": made.finish_reason}


def _usage(made: Generated) -> dict[str, int]:
    return {
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "total_tokens": made.prompt_tokens + made.completion_tokens,
    }


def _vectors(vectors: oip.RawTensor, is_base64: bool) -> list[dict[str, Any]]:
    width = vectors.shape[1]
    rows = [vectors.raw[start : start + 4 * width] for start in range(0, len(vectors.raw), 4 * width)]
    return [
        {
            "object": "embedding",
            "index": index,
            "embedding": b64encode(row).decode("ascii") if is_base64 else list(oip.numbers(oip.RawTensor("FP32", (width,), row))),
        }
        for index, row in enumerate(rows)
    ]


def _model(listing: Listing) -> dict[str, Any]:
    return {
        "id": listing.did,
        "object": "model",
        "created": int(listing.published_at),
        "owned_by": listing.publisher,
        "name": listing.name,
        "task": listing.task,
        "state": listing.state,
        "reason": listing.reason,
        "model_digest": listing.model_digest,
        "chain_id": listing.chain_id,
        "nft": listing.nft,
        "datatoken": listing.datatoken,
        "parity": json.loads(listing.parity),
    }


def _dump(record: dict[str, Any]) -> bytes:
    return _text(record).encode("utf-8")
