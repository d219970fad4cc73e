"""`/v1/chat/completions`, and the same under `/models/<did>`: OpenAI's chat API.

In: a conversation. Out: OpenAI's JSON and chunks, with receipts. This module must never render a template, for the model's backend
makes the prompt, and never drop a parameter in silence.

Source: OpenAI's API reference for chat completions, as `openai` 3.54 and `huggingface_hub` 0.36 speak it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from control_plane.did import Did, parse_did
from control_plane.errors import BadInput
from control_plane.fields import Field, Kind, Table, only, parse_fields
from control_plane.flows.call import Answer, Piece, admit
from control_plane.flows.services import Services
from control_plane.receipts.store import Issued
from control_plane.serving.inference import Generated
from control_plane.serving.sessions import Session
from control_plane.web.answers import Answering, event
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_object
from control_plane.web.chat_messages import MESSAGES, conversation
from control_plane.web.choices import Choices, choices, units_in, units_out
from control_plane.web.generation import CHATTING, backend_fields, must_serve, sampling
from control_plane.web.journal import Journal
from control_plane.web.openai import DONE, dump, encode, has_usage, shared_table, template_of, usage
from control_plane.web.sent import sent

NAMES_OF_NO_MODEL = ("tgi", "dummy")
"""What Hugging Face's clients write into a body whose URL names the model."""


def chat_table(max_new_tokens: int) -> Table:
    most = replace(sampling(max_new_tokens)["max_tokens"], default=None)
    return {
        **shared_table(max_new_tokens),
        "messages": MESSAGES,
        "max_tokens": most,
        "max_completion_tokens": most,
        "top_logprobs": only((0,), "returning probabilities of other tokens, which give weights away,"),
        "tools": only(([],), "calling tools"),
        "tool_choice": only(("none", "auto"), "calling tools"),
        "parallel_tool_calls": only((False, True), "calling tools"),
        "response_format": only(({"type": "text"},), "an answer in another form than text"),
        "modalities": only((["text"],), "answering with anything but text"),
        "audio": only((), "answering with sound"),
        "prediction": only((), "a predicted answer"),
        "reasoning_effort": only((), "choosing how long to think"),
        "store": only((False,), "keeping an answer"),
    }


def by_url(table: Table) -> Table:
    """The same, where the path names the model."""
    expected = f"the DID in the path, or one of {', '.join(NAMES_OF_NO_MODEL)}, or nothing"
    schema = {"type": "string", "enum": list(NAMES_OF_NO_MODEL), "description": "or the DID in the path"}
    return {**table, "model": Field(expected, lambda value: isinstance(value, str), schema)}


def blueprint(services: Services, journal: Journal) -> Blueprint:
    pages = Blueprint("chat", __name__)
    table = chat_table(services.settings.max_new_tokens)
    answering = Answering(services, journal, "chat")

    @pages.post("/v1/chat/completions")
    def chat() -> Response:
        session = bearer_session(services.sessions)
        body, record = read_object()
        fields = parse_fields(record, table)
        return completed(session, parse_did(fields["model"], "model"), body, fields)

    @pages.post("/models/<did>/v1/chat/completions")
    def chat_by_url(did: str) -> Response:
        session = bearer_session(services.sessions)
        named, (body, record) = parse_did(did, "model"), read_object()
        fields = parse_fields(record, by_url(table))
        if fields["model"] not in (None, named, *NAMES_OF_NO_MODEL):
            raise BadInput("model", by_url(table)["model"].expected, Kind("another"))
        return completed(session, named, body, fields)

    def completed(session: Session | None, did: Did, body: bytes, fields: Mapping[str, Any]) -> Response:
        asked = {"messages": conversation(fields["messages"])}
        admitted = admit(services, session, did)
        must_serve(admitted.listing, CHATTING, "this path is for")
        details = services.catalogue.entry(admitted.listing).details
        most = min(services.settings.max_new_tokens, int(details["context_length"]))
        inputs = backend_fields(asked, {**fields, "max_tokens": _most_tokens(fields, most)})
        asking = choices(services, admitted, inputs, fields["n"])
        frame = {
            "created": int(services.clock()),
            "model": did,
            "system_fingerprint": admitted.listing.model_digest,
            "chat_template": template_of(details),
        }

        def check() -> None:
            """The backend makes the prompt; what users say stands in it whole, but for white space around it."""
            said = [message["content"].strip() for message in json.loads(asked["messages"]) if message["role"] == "user"]
            services.prompts.check_texts(admitted.listing, "messages", said, is_alone=False)

        if not fields["stream"]:

            def ask(call_id: str) -> Answer:
                check()
                made = asking.whole()
                told = [_choice(index, one) for index, one in enumerate(made)]
                answer = _named(call_id, "chat.completion", frame) | {"choices": told, "usage": usage(made)}
                return Answer(dump(answer), units_in(made), units_out(made))

            return answering.whole(admitted, body, ask)

        def ask_streaming(call_id: str) -> Iterator[Piece]:
            check()
            chunk = _named(call_id, "chat.completion.chunk", frame)
            return _pieces(asking, chunk, has_usage(fields))

        def last(call_id: str, issued: Issued) -> bytes:
            chunk = _named(call_id, "chat.completion.chunk", frame) | {"choices": [_delta(0, {})]}
            return event(encode(chunk | {"receipt": issued.to_json()})) + DONE

        return answering.stream(admitted, body, ask_streaming, last, sent().path)

    return pages


def _most_tokens(fields: Mapping[str, Any], most: int) -> int:
    """As many as fit, where the call does not say: OpenAI's default for a conversation."""
    named = [name for name in ("max_tokens", "max_completion_tokens") if fields[name] is not None]
    if len(named) == 2:
        raise BadInput("max_completion_tokens", "either max_tokens or max_completion_tokens", Kind("both"))
    return int(fields[named[0]]) if named else most


def _pieces(asking: Choices, chunk: dict[str, Any], is_counted: bool) -> Iterator[Piece]:
    """Of each choice who speaks, one chunk a piece of text, how it ended; closing this stops the computation."""
    frame = chunk | ({"usage": None} if is_counted else {})
    last: dict[int, Generated] = {}
    with closing(asking.pieces()) as found:
        for index, piece in found:
            told = [] if index in last else [_delta(index, {"role": "assistant", "content": ""})]
            told += [_delta(index, {"content": piece.text}) | _logprobs(piece)] if piece.text or piece.token_logprobs else []
            told += [_delta(index, {}, piece.finish_reason)] if piece.finish_reason else []
            last[index] = piece
            events = b"".join(event(encode(frame | {"choices": [each]})) for each in told)
            if events:
                yield Piece(events, piece.prompt_tokens, units_out(last.values()))
    if is_counted:
        record = frame | {"choices": [], "usage": usage(last.values())}
        yield Piece(event(encode(record)), units_in(last.values()), units_out(last.values()))


def _named(call_id: str, kind: str, frame: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": f"chatcmpl-{call_id}", "object": kind, **frame}


def _choice(index: int, made: Generated) -> dict[str, Any]:
    message = {"role": "assistant", "content": made.text, "refusal": None}
    return {"index": index, "message": message, **_logprobs(made), "finish_reason": made.finish_reason}


def _logprobs(made: Generated) -> dict[str, Any]:
    """Of the chosen tokens, where the call asked for them; OpenAI's `bytes` are those of the token's text."""
    if not made.token_logprobs:
        return {"logprobs": None}
    told = zip(made.token_texts, made.token_logprobs, strict=True)
    content = [{"token": text, "logprob": value, "bytes": list(text.encode("utf-8")), "top_logprobs": []} for text, value in told]
    return {"logprobs": {"content": content, "refusal": None}}


def _delta(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
