"""`POST /models/<did>`: the Hugging Face inference API for one model, as the stock `InferenceClient` calls it by URL.

In: `{"inputs", "parameters"}` in JSON, or a file. Out: the JSON of the model's task, or events, with receipts. This module must
never shape an answer that the model's backend shapes: what a `predict` entry gives as `result` is passed on as it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from operator import mul
from typing import Any

from flask import Blueprint, Response

from control_plane.did import parse_did
from control_plane.errors import BadInput, Unavailable
from control_plane.fields import Kind
from control_plane.flows.call import Admitted, Answer, Piece, admit
from control_plane.flows.services import Services
from control_plane.receipts.store import Issued
from control_plane.serving import oip
from control_plane.serving.inference import TensorAnswer
from control_plane.web.answers import Answering
from control_plane.web.bearer import bearer_session
from control_plane.web.body import read_body
from control_plane.web.choices import Choices, choices
from control_plane.web.generation import generating_tasks, renamed
from control_plane.web.hugging_face_generation import (
    answer,
    generation_fields,
    generation_names,
    last_event,
    parameter_table,
    pieces,
    read_parameters,
)
from control_plane.web.hugging_face_inputs import Question, callers_names, read_inputs, read_question
from control_plane.web.journal import Journal
from control_plane.web.sent import sent
from converters.tasks import TASKS
from converters.tasks.task import RESULT, Task

_LISTED_ALWAYS = ("text-classification",)
"""Tasks that answer a list of items even where one was asked."""


def blueprint(services: Services, journal: Journal) -> Blueprint:
    pages = Blueprint("hugging_face", __name__)
    answering = Answering(services, journal, "hugging_face")
    tables = {name: parameter_table(TASKS[name], services.settings.max_new_tokens) for name in generating_tasks()}
    names = {name: generation_names(task) if name in tables else callers_names(task) for name, task in TASKS.items()}

    @pages.post("/models/<did>")
    def model(did: str) -> Response:
        admitted = admit(services, bearer_session(services.sessions), parse_did(did, "model"))
        task = TASKS[admitted.listing.task]
        body = read_body()
        if not any(tensor == RESULT for tensor in services.catalogue.entry(admitted.listing).outputs) and task.name not in tables:
            raise BadInput(
                "model", "a model whose task has a shape here; ask /v2 for its tensors", Kind(task.name), code="wrong_task"
            )
        question = read_question(task, sent().mimetype, body)
        if task.name in tables:
            return generated(admitted, task, body, question)
        if question.is_streamed:
            raise BadInput("stream", "false: this model answers at once", True)
        return predicted(admitted, task, body, question)

    def predicted(admitted: Admitted, task: Task, body: bytes, question: Question) -> Response:
        asked, left = read_inputs(task, question)
        parameters = json.dumps(left).encode() if left else None
        output = "embedding" if asked.is_similarity else RESULT.name
        written, length = oip.write_request(asked.values(parameters), [output])
        count = len(next(iter(asked.tensors.values())))

        def ask(_call_id: str) -> Answer:
            with renamed(names[task.name]):
                for name, items in asked.tensors.items():
                    texts = [item for item in items if isinstance(item, str)]
                    services.prompts.check_texts(admitted.listing, name, texts, is_alone=len(asked.tensors) == 1)
                given = services.server.infer(admitted.listing.entry_name, written, length)
            if asked.is_similarity:
                return Answer(_similarities(given, count), count, count - 1)
            results = oip.items(_output(given, output))
            is_list = asked.is_list or task.name in _LISTED_ALWAYS
            if len(results) != count:
                raise Unavailable("the inference server gave another number of results than was asked", code="strange_answer")
            return Answer(b"[" + b",".join(results) + b"]" if is_list else results[0], count, len(results))

        return answering.whole(admitted, body, ask)

    def generated(admitted: Admitted, task: Task, body: bytes, question: Question) -> Response:
        fields = read_parameters(question.parameters, tables[task.name])
        asked, _ = read_inputs(task, Question(question.inputs, {}))
        if asked.is_list:
            raise BadInput("inputs", "one input: a generation is one call", Kind("a list"))
        inputs = generation_fields({name: items[0] for name, items in asked.tensors.items()}, fields)
        given, only = asked.tensors.get("text_input", [""])[0], choices(services, admitted, inputs)
        prompt = given if isinstance(given, str) else ""
        ends = frozenset(services.catalogue.entry(admitted.listing).details.get("eos_token_ids", ()))
        if question.is_streamed:

            def last(_call_id: str, issued: Issued) -> bytes:
                return last_event(issued)

            return answering.stream(
                admitted,
                body,
                lambda _id: _in_callers_words(names[task.name], _stream(only, prompt, fields, ends)),
                last,
                sent().path,
            )

        def ask(_call_id: str) -> Answer:
            with renamed(names[task.name]):
                (made,) = only.whole()
            return Answer(answer(task, prompt, made, fields, ends), made.prompt_tokens, made.completion_tokens)

        return answering.whole(admitted, body, ask)

    return pages


def _stream(asked: Choices, prompt: str, fields: dict[str, Any], ends: frozenset[int]) -> Iterator[Piece]:
    """Closing this stops the computation."""
    with closing(asked.pieces()) as found:
        yield from pieces((made for _, made in found), prompt, fields, ends)


def _in_callers_words(theirs: Mapping[str, str], found: Iterator[Piece]) -> Iterator[Piece]:
    with renamed(theirs):
        yield from found


def _output(given: TensorAnswer, name: str) -> oip.RawTensor:
    found = oip.read_answer(given).get(name)
    if found is None:
        raise Unavailable(f"the inference server gave no {name}", code="strange_answer")
    return found


def _similarities(given: TensorAnswer, count: int) -> bytes:
    """Cosines of the first embedding with each other one, as a JSON list; 0 for an embedding of length 0."""
    embedding = _output(given, "embedding")
    is_matrix = embedding.dtype == "FP32" and len(embedding.shape) == 2 and embedding.shape[0] == count and embedding.shape[1] > 0
    if not is_matrix or len(embedding.raw) != 4 * count * embedding.shape[1]:
        raise Unavailable("the inference server gave an answer that is not one embedding a text", code="strange_answer")
    numbers, width = oip.numbers(embedding), embedding.shape[1]
    rows = [numbers[start : start + width] for start in range(0, len(numbers), width)]
    lengths = [math.sqrt(sum(map(mul, row, row))) for row in rows]
    cosines = [
        sum(map(mul, rows[0], row)) / (lengths[0] * length) if lengths[0] * length else 0.0
        for row, length in zip(rows[1:], lengths[1:], strict=True)
    ]
    if not all(map(math.isfinite, cosines)):
        raise Unavailable("the inference server gave an embedding that is no number", code="strange_answer")
    return json.dumps(cosines).encode()
