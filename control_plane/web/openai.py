"""`/v1/models`, `/v1/completions`, `/v1/embeddings`: OpenAI's API; `model` is a DID.

In: OpenAI's JSON. Out: OpenAI's JSON and events, with receipts. This module must never drop a parameter in silence.

Source: OpenAI's API reference for completions and embeddings, as `openai` 3.54 speaks it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from itertools import accumulate
from typing import Any

from flask import Blueprint, Response, jsonify

from control_plane.did import Did, parse_did
from control_plane.errors import Unavailable
from control_plane.fields import DID_PATTERN, Field, Table, listed, only, parse_fields, patterned, text, texts, whole
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
from control_plane.web.choices import MOST_CHOICES, Choices, choices, units_in, units_out
from control_plane.web.echo import echo_table, echoed, is_echo
from control_plane.web.generation import CHATTING, EMBEDDING, SCORING, TEXT_TO_TEXT, backend_fields, must_serve, renamed, sampling
from control_plane.web.journal import Journal
from control_plane.web.sent import sent
from converters.tasks.generation import SCORE

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
DONE = b"data: [DONE]\n\n"
MOST_INPUTS = 2048
"""OpenAI's own limit of one embeddings request."""
_STREAM_OPTIONS = ("include_usage", "include_obfuscation")
_STREAM_OPTIONS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"include_usage": {"type": "boolean"}, "include_obfuscation": {"enum": [False]}},
}
_PROMPT: Mapping[str, Any] = {"type": "string", "minLength": 1}
_ONE_PROMPT: Mapping[str, Any] = {"oneOf": [_PROMPT, {"type": "array", "items": _PROMPT, "minItems": 1, "maxItems": 1}]}


def _is_stream_options(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(name in _STREAM_OPTIONS and isinstance(each, bool) for name, each in value.items())
        and not value.get("include_obfuscation", False)
    )


def _is_one_prompt(value: Any) -> bool:
    one = value[0] if isinstance(value, list) and len(value) == 1 else value
    return text("").is_right(one)


def shared_table(max_new_tokens: int) -> Table:
    """Parameters of completions and of chat completions."""
    options = "include_usage true or false (include_obfuscation only false)"
    return {
        "model": patterned("the DID of a model", DID_PATTERN, is_required=True),
        **sampling(max_new_tokens),
        "stream_options": Field(options, _is_stream_options, _STREAM_OPTIONS_SCHEMA),
        "user": Field("a text", lambda value: isinstance(value, str), {"type": "string"}),
        "n": whole(f"a whole number from 1 to {MOST_CHOICES}", 1, MOST_CHOICES, 1),
        "logit_bias": Field(
            "nothing: biasing tokens is not supported", lambda value: value == {}, {"type": "object", "maxProperties": 0}
        ),
    }


def completion_table(max_new_tokens: int) -> Table:
    prompt = "a text that is not empty, or a list with one (token ids and several prompts are not supported)"
    return {
        **echo_table(shared_table(max_new_tokens), max_new_tokens),
        "prompt": Field(prompt, _is_one_prompt, _ONE_PROMPT, is_required=True),
        "best_of": only((1,), "choosing among several"),
        "suffix": only(("",), "filling in the middle"),
        "logprobs": Field(
            "0, which gives the logarithm of each chosen token's probability; those of other tokens would give weights away",
            lambda value: type(value) is int and value == 0,
            {"enum": [None, 0]},
        ),
    }


EMBEDDINGS: Table = {
    "model": patterned("the DID of a model", DID_PATTERN, is_required=True),
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
        listing = services.catalogue.find(parse_did(did, "model"))
        record = _model(listing)
        if listing.task in CHATTING and listing.state == "on_sale":
            record["chat_template"] = template_of(services.catalogue.entry(listing).details)
        return jsonify(record)

    @pages.get("/v1/models/<did>/entry")
    def entry(did: str) -> Response:
        listing = services.catalogue.find(parse_did(did, "model"))
        on_sale_only(listing).enforce()  # an entry that does not verify would be hashed again for every stranger who asks
        return jsonify(services.catalogue.entry(listing).to_json())

    def score(body: bytes, admitted: Admitted, did: Did, prompt: str) -> Response:
        must_serve(admitted.listing, SCORING, "can score a text")
        asked, created = choices(services, admitted, {"text_input": prompt, SCORE: True}), int(services.clock())

        def ask(call_id: str) -> Answer:
            with renamed({"text_input": "prompt"}):
                made = asked.whole()
            answer = _completion(call_id, created, did, [echoed(prompt, made[0])]) | {"usage": usage(made)}
            return Answer(dump(answer), units_in(made), units_out(made))

        return completing.whole(admitted, body, ask)

    @pages.post("/v1/completions")
    def completions() -> Response:
        session = bearer_session(services.sessions)
        body, record = read_object()
        fields = parse_fields(record, table)
        did = parse_did(fields["model"], "model")
        admitted = admit(services, session, did)
        must_serve(admitted.listing, TEXT_TO_TEXT, "this path is for")
        prompt = fields["prompt"][0] if isinstance(fields["prompt"], list) else fields["prompt"]
        if is_echo(fields):
            return score(body, admitted, did, prompt)
        has_logprobs = fields["logprobs"] is not None
        inputs = backend_fields({"text_input": prompt}, {**fields, "logprobs": has_logprobs})
        asked, created = choices(services, admitted, inputs, fields["n"]), int(services.clock())
        if not fields["stream"]:

            def ask(call_id: str) -> Answer:
                with renamed({"text_input": "prompt"}):
                    made = asked.whole()
                told = [_choice(index, one, has_logprobs, 0) for index, one in enumerate(made)]
                answer = _completion(call_id, created, did, told) | {"usage": usage(made)}
                return Answer(dump(answer), units_in(made), units_out(made))

            return completing.whole(admitted, body, ask)

        def ask_streaming(call_id: str) -> Iterator[Piece]:
            return _pieces(asked, _completion(call_id, created, did, []), has_usage(fields), has_logprobs)

        def last(call_id: str, issued: Issued) -> bytes:
            chunk = _completion(call_id, created, did, [{"index": 0, "text": "", "logprobs": None, "finish_reason": None}])
            return event(encode(chunk | {"receipt": issued.to_json()})) + DONE

        return completing.stream(admitted, body, ask_streaming, last, sent().path)

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
                services.prompts.check_texts(admitted.listing, "text_input", inputs)
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
            return Answer(dump(answer), count, len(inputs))

        return embedding.whole(admitted, body, ask)

    return pages


def has_usage(fields: Mapping[str, Any]) -> bool:
    """Does a stream tell its usage at the end?"""
    return bool((fields["stream_options"] or {}).get("include_usage"))


def _pieces(asked: Choices, chunk: dict[str, Any], is_counted: bool, has_logprobs: bool) -> Iterator[Piece]:
    """One event a piece of text; closing this stops the computation."""
    frame = chunk | ({"usage": None} if is_counted else {})
    last: dict[int, Generated] = {}
    lengths = [0] * len(asked.inputs)
    with renamed({"text_input": "prompt"}), closing(asked.pieces()) as found:
        for index, piece in found:
            last[index] = piece
            told = _choice(index, piece, has_logprobs, lengths[index])
            lengths[index] += sum(map(len, piece.token_texts))
            yield Piece(event(encode(frame | {"choices": [told]})), piece.prompt_tokens, units_out(last.values()))
    if is_counted:
        record = frame | {"choices": [], "usage": usage(last.values())}
        yield Piece(event(encode(record)), units_in(last.values()), units_out(last.values()))


def template_of(details: Mapping[str, Any]) -> str:
    """Whose template makes a prompt of a conversation: the model's own, or the backend's plain one."""
    return "model" if (details.get("chat_template") or {}).get("file") else "plain"


def _completion(call_id: str, created: int, did: Did, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"cmpl-{call_id}", "object": "text_completion", "created": created, "model": did, "choices": choices}


def _choice(index: int, made: Generated, has_logprobs: bool, offset: int) -> dict[str, Any]:
    """offset: characters of the choice's tokens before these."""
    logprobs = _logprobs(made, offset) if has_logprobs else None
    return {"index": index, "text": made.text, "logprobs": logprobs, "finish_reason": made.finish_reason}


def _logprobs(made: Generated, offset: int) -> dict[str, Any]:
    """text_offset: where each token begins, in characters of all `tokens` joined: of the text, and of a stop text behind it."""
    ends = list(accumulate(map(len, made.token_texts), initial=offset))
    return {
        "tokens": made.token_texts,
        "token_logprobs": made.token_logprobs,
        "top_logprobs": None,
        "text_offset": ends[:-1],
    }


def usage(made: Collection[Generated]) -> dict[str, int]:
    """made: of each choice its whole answer, or its last piece."""
    asked, given = units_in(made), units_out(made)
    return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}


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
        "weights_digest": listing.weights_digest,
        "derivation": None if listing.statement is None else json.loads(listing.statement),
    }


def dump(record: dict[str, Any]) -> bytes:
    return encode(record).encode("utf-8")
