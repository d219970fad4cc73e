"""Generation as a Hugging Face client asks for it and reads it: parameters, whole answers, events of a stream.

In: parameters, what the backend generated. Out: the backend's fields, JSON. This module must never drop a parameter in silence, and
never show a probability of a token that was not chosen: many of them give weights away.

Source: `huggingface_hub` 0.36.2 and the shapes of text-generation-inference that it parses.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from control_plane.errors import BadInput
from control_plane.fields import Field, Kind, Table, flag, only, parse_fields
from control_plane.flows.call import Piece
from control_plane.receipts.store import Issued
from control_plane.serving.inference import Generated
from control_plane.web.answers import event
from control_plane.web.generation import DRAWING, PENALTIES, backend_fields, sampling
from control_plane.web.hugging_face_inputs import callers_names, merged_parameters
from converters.tasks.task import Task

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_NESTED = ("generate_parameters", "generation_parameters", "generate_kwargs")
"""Objects that hold parameters of generation, by the task's own habit."""


def parameter_table(task: Task, max_new_tokens: int) -> Table:
    """No defaults: what a call does not say, the entry's own defaults say."""
    ours = sampling(max_new_tokens)
    drawn = {name: replace(ours[name], default=None) for name in (*DRAWING, *PENALTIES, "seed", "stop")}
    table: dict[str, Field] = {
        "max_new_tokens": replace(ours["max_tokens"], default=None),
        **drawn,
        "do_sample": Field("true or false", lambda value: isinstance(value, bool), {"type": "boolean"}),
        "num_beams": only((1,), "beam search"),
        "typical_p": only((1,), "typical decoding"),
        "use_cache": only((True,), "computing without a cache"),
    }
    if task.name == "text-generation":
        table |= {
            "return_full_text": flag("true or false"),
            "details": flag("true or false"),
            "best_of": only((1,), "choosing among several"),
            "decoder_input_details": only((False,), "returning the prompt's probabilities"),
            "top_n_tokens": only((0,), "returning other tokens"),
            "truncate": only((), "cutting a prompt"),
            "watermark": only((False,), "a watermark"),
            "grammar": only((), "a grammar"),
            "adapter_id": only((), "an adapter"),
        }
    if task.name == "text2text-generation":
        table |= {
            "src_lang": only((), "choosing a language"),
            "tgt_lang": only((), "choosing a language"),
            "clean_up_tokenization_spaces": only((), "choosing how spaces are cleaned"),
            "truncation": only(("do_not_truncate",), "cutting a text"),
        }
    if task.name == "speech-to-text":
        table |= {"return_timestamps": only((False,), "timestamps")}
    return table


def generation_names(task: Task) -> dict[str, str]:
    """As `callers_names`, with the parameters of generation."""
    beside = {name: f"parameters.{name}" for name in (*DRAWING, *PENALTIES, "seed", "stop")}
    return {**callers_names(task), "max_tokens": "parameters.max_new_tokens", **beside}


def read_parameters(parameters: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """The fields of the table. Raises BadInput naming the parameter."""
    try:
        fields = parse_fields(merged_parameters(parameters, _NESTED), table)
    except BadInput as error:
        field = error.field if error.field.startswith("parameters") else f"parameters.{error.field}"
        raise BadInput(field, error.expected, Kind(error.found.strip("'\"")), code=error.code) from error
    if fields["do_sample"] is False:
        for name in DRAWING:
            if fields[name] is not None:
                raise BadInput(f"parameters.{name}", "nothing where do_sample is false", fields[name])
    return fields


def generation_fields(asked: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The generate backend's inputs, by tensor name.

    Tokens are drawn where `do_sample`, `temperature`, `top_k` or `top_p` asks for it, else the likeliest is taken, as
    text-generation-inference does.
    """
    inputs = backend_fields(asked, {**fields, "max_tokens": fields["max_new_tokens"], "logprobs": fields.get("details")})
    if not fields["do_sample"] and all(fields[name] is None for name in DRAWING):
        inputs["temperature"] = 0
    return inputs


def answer(task: Task, prompt: str, made: Generated, fields: Mapping[str, Any], ends: Collection[int]) -> bytes:
    """The whole answer. ends: tokens that end a text."""
    if task.name == "text-generation":
        record: dict[str, Any] = {"generated_text": prompt + made.text if fields["return_full_text"] else made.text}
        if fields["details"]:
            told = zip(made.token_ids, made.token_texts, made.token_logprobs, strict=True)
            tokens = [{"id": token, "text": text, "logprob": value, "special": token in ends} for token, text, value in told]
            record["details"] = _details(made, ends, fields) | {"prefill": [], "tokens": tokens}
        return _dump([record])
    if task.name == "text2text-generation":
        # The path names a model and not a task: each task of the client finds the text under its own name.
        return _dump([dict.fromkeys(("generated_text", "summary_text", "translation_text"), made.text)])
    return _dump({"text": made.text} if task.name == "speech-to-text" else [{"generated_text": made.text}])


def pieces(stream: Iterator[Generated], prompt: str, fields: Mapping[str, Any], ends: Collection[int]) -> Iterator[Piece]:
    """One event a token: text that came with several stands in the last one's. The last of all has the whole text and its end."""
    text, count = prompt if fields.get("return_full_text") else "", 0
    for made in stream:
        text += made.text
        logprobs = made.token_logprobs or (None,) * len(made.token_ids)
        told: list[tuple[int | None, float | None]] = [*zip(made.token_ids, logprobs, strict=True)] or [(None, None)]
        records = [_event(count + place, *each, "") for place, each in enumerate(told, start=1)]
        records[-1] = _event(count + len(told), *told[-1], made.text)
        count += len(told)
        if made.finish_reason is not None:
            details = _details(made, ends, fields) | {"input_length": made.prompt_tokens}
            records[-1] |= {"generated_text": text, "details": details}
        yield Piece(b"".join(event(_encode(record)) for record in records), made.prompt_tokens, made.completion_tokens)


def last_event(issued: Issued) -> bytes:
    """The receipt, in an event of its own that adds no text: the client has it as `receipt` beside a special token."""
    return event(_encode(_event(0, None, None, "") | {"receipt": issued.to_json()}))


def _event(index: int, token: int | None, logprob: float | None, text: str) -> dict[str, Any]:
    # `special` is what a client may leave out of a text, so nothing with text is.
    one = {"id": token, "text": text, "logprob": logprob, "special": not text}
    return {"index": index, "token": one, "generated_text": None, "details": None}


def _details(made: Generated, ends: Collection[int], fields: Mapping[str, Any]) -> dict[str, Any]:
    ended = "eos_token" if made.token_ids and made.token_ids[-1] in ends else "stop_sequence"
    reason = "length" if made.finish_reason == "length" else ended
    return {"finish_reason": reason, "generated_tokens": made.completion_tokens, "seed": fields["seed"]}


def _dump(record: object) -> bytes:
    return _encode(record).encode("utf-8")
