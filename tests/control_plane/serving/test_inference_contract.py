"""What the market relies on in an inference server: the same sentences about the simulator and about the real Triton."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_plane.did import Bytes32
from control_plane.errors import BadInput, NotFound, Unavailable
from control_plane.serving import oip
from control_plane.serving.catalogue import write_config
from control_plane.serving.inference import InferenceServer
from converters.entry import model_digest, triton_name
from tests.control_plane.serving.asking_triton import infer_body
from tests.fixtures_market import make_entry
from tests.fixtures_triton import SMOKE, tiny_gpt2, triton_server
from tests.simulators.inference import SimulatedServer

__all__ = ["tiny_gpt2", "triton_server"]

CONTEXT_LENGTH = 64
"""Of each entry that is served here."""


@dataclass(frozen=True)
class Served:
    """A server with two entries loaded: one that embeds, one that generates."""

    server: InferenceServer
    predictor: str
    generator: str

    def await_unloaded(self, name: str) -> None:
        until = time.monotonic() + 10
        while name in self.server.loaded():
            assert time.monotonic() < until, f"{name} is still loaded"
            time.sleep(0.02)


def simulated(folder: Path) -> Served:
    models = folder / "models"
    models.mkdir()
    digest = model_digest(SMOKE)
    predictor = triton_name(digest)
    shutil.copytree(SMOKE, models / predictor)
    write_config(models / predictor, predictor, Bytes32(digest))
    generator, made = make_entry(models, "text-generation", "gpt")
    write_config(models / generator, generator, Bytes32(made))
    server = SimulatedServer(models)
    server.load(predictor)
    server.load(generator)
    return Served(server, predictor, generator)


@pytest.fixture(params=[pytest.param("simulated"), pytest.param("triton", marks=pytest.mark.live)])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Served:
    if request.param == "simulated":
        return simulated(tmp_path)
    triton = request.getfixturevalue("triton_server")
    generator = triton.install(request.getfixturevalue("tiny_gpt2").entry)
    return Served(triton.client, triton.install(SMOKE), generator)


def asks(served: Served, predictor: str, generator: str) -> tuple[Callable[[], object], ...]:
    return (
        lambda: served.server.infer(predictor, infer_body("the model"), None),
        lambda: served.server.generate(generator, {"text_input": "the model"}),
        lambda: served.server.generate_stream(generator, {"text_input": "the model"}),
    )


def test_it_is_ready_and_says_what_is_loaded(served: Served) -> None:
    assert served.server.is_ready()
    assert {served.predictor, served.generator} <= served.server.loaded()


def test_an_entry_is_loaded_again_unloaded_twice_and_loaded_anew(served: Served) -> None:
    server = served.server
    server.load(served.predictor)
    assert served.predictor in server.loaded()
    server.unload(served.predictor)
    server.unload(served.predictor)
    served.await_unloaded(served.predictor)
    with pytest.raises(Unavailable, match="not loaded"):
        server.infer(served.predictor, infer_body("the model"), None)
    server.load(served.predictor)
    assert server.infer(served.predictor, infer_body("the model"), None).body


def test_an_entry_that_generates_is_unavailable_while_it_is_unloaded(served: Served) -> None:
    server = served.server
    server.unload(served.generator)
    served.await_unloaded(served.generator)
    for ask in asks(served, served.generator, served.generator)[1:]:
        with pytest.raises(Unavailable, match="not loaded"):
            ask()
    server.load(served.generator)
    assert server.generate(served.generator, {"text_input": "the model"}).completion_tokens


def test_a_name_that_nobody_has_is_not_found(served: Served) -> None:
    with pytest.raises(NotFound, match="m-0"):
        served.server.load("m-0")
    served.server.unload("m-0")
    for ask in asks(served, "m-0", "m-0"):
        with pytest.raises(NotFound, match="m-0"):
            ask()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.5, "seed": 4}])
def test_a_whole_answer_is_its_stream_joined(served: Served, settings: dict[str, Any]) -> None:
    call = {"text_input": "the model", "max_tokens": 12, **settings}
    whole, pieces = served.server.generate(served.generator, call), list(served.server.generate_stream(served.generator, call))
    assert whole == served.server.generate(served.generator, call)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == whole.token_ids
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (pieces[-1].finish_reason, pieces[-1].completion_tokens) == (whole.finish_reason, whole.completion_tokens)
    assert whole.completion_tokens == len(whole.token_ids) <= 12
    assert {piece.prompt_tokens for piece in pieces} == {whole.prompt_tokens}
    assert whole.prompt_tokens > 0


@pytest.mark.parametrize("settings", [{"temperature": 0.0, "repetition_penalty": 1.5}, {"min_p": 0.05, "seed": 4}])
def test_each_token_comes_with_its_probability_and_text_where_that_is_asked(served: Served, settings: dict[str, Any]) -> None:
    call = {"text_input": "the model", "max_tokens": 12, **settings}
    without, whole = (
        served.server.generate(served.generator, call),
        served.server.generate(served.generator, {**call, "logprobs": True}),
    )
    assert (without.token_logprobs, without.token_texts) == ((), ())
    assert (whole.text, whole.token_ids) == (without.text, without.token_ids), "asking changes nothing"
    assert len(whole.token_logprobs) == len(whole.token_ids) and all(each <= 0 for each in whole.token_logprobs)
    assert "".join(whole.token_texts) == whole.text
    pieces = list(served.server.generate_stream(served.generator, {**call, "logprobs": True}))
    assert tuple(each for piece in pieces for each in piece.token_logprobs) == whole.token_logprobs
    assert tuple(each for piece in pieces for each in piece.token_texts) == whole.token_texts
    one = served.server.generate(served.generator, {**call, "max_tokens": 1, "logprobs": True})
    assert one.token_logprobs == whole.token_logprobs[:1]


def test_a_stop_text_is_among_the_texts_of_the_tokens_that_made_it(served: Served) -> None:
    call = {"text_input": "the model", "max_tokens": 12, "temperature": 0.0, "logprobs": True}
    whole = served.server.generate(served.generator, call)
    stop = whole.text[len(whole.text) // 2 : len(whole.text) // 2 + 4]
    stopped = served.server.generate(served.generator, {**call, "stop": [stop]})
    assert "".join(stopped.token_texts).startswith(stopped.text + stop)
    assert whole.token_logprobs[: len(stopped.token_ids)] == stopped.token_logprobs


def test_a_text_is_scored_and_nothing_is_made(served: Served) -> None:
    text = "the model is what it is, and it is here"
    made = served.server.generate(served.generator, {"text_input": text, "score": True})
    assert (made.text, made.completion_tokens, made.finish_reason) == ("", 0, "length")
    assert len(made.token_ids) == len(made.token_logprobs) == made.prompt_tokens > 1
    assert "".join(made.token_texts) == text
    assert made.token_logprobs[0] == 0 and all(each < 0 for each in made.token_logprobs[1:])
    assert made == served.server.generate(served.generator, {"text_input": text, "score": True})
    shorter = served.server.generate(served.generator, {"text_input": "the model is what", "score": True})
    assert shorter.token_logprobs[:2] == pytest.approx(made.token_logprobs[:2], abs=1e-5), "what follows changes nothing"
    assert served.server.generate(served.generator, {"text_input": "the", "score": True}).token_logprobs[:1] == (0.0,)
    assert list(served.server.generate_stream(served.generator, {"text_input": text, "score": True})) == [made]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"text_input": "the " * (CONTEXT_LENGTH + 1)}, "text_input"),
        ({"text_input": ""}, "text_input"),
        ({"messages": '[{"role": "user", "content": "hello"}]'}, "score"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_its_name(served: Served, fields: dict[str, str], field: str) -> None:
    with pytest.raises(BadInput) as refused:
        served.server.generate(served.generator, {**fields, "score": True})
    assert refused.value.field == field


def test_nothing_said_means_sixteen_tokens_at_most(served: Served) -> None:
    assert 1 <= served.server.generate(served.generator, {"text_input": "the model"}).completion_tokens <= 16


def test_a_call_ends_where_the_context_ends(served: Served) -> None:
    call = {"text_input": "the model", "max_tokens": CONTEXT_LENGTH, "temperature": 0.0}
    made = served.server.generate(served.generator, call)
    assert made.prompt_tokens + made.completion_tokens <= CONTEXT_LENGTH
    assert made.finish_reason in ("length", "stop")


def test_a_stop_text_ends_the_answer_before_it(served: Served) -> None:
    call = {"text_input": "the model", "max_tokens": 12, "temperature": 0.0}
    text = served.server.generate(served.generator, call).text
    stop = text[len(text) // 2 : len(text) // 2 + 4]
    stopped = served.server.generate(served.generator, {**call, "stop": [stop, "never in it"]})
    assert stopped.finish_reason == "stop"
    assert stop not in stopped.text
    assert text.startswith(stopped.text)


def test_a_closed_stream_is_over_and_the_server_goes_on(served: Served) -> None:
    pieces: Any = served.server.generate_stream(served.generator, {"text_input": "the model", "max_tokens": 50, "seed": 1})
    assert next(pieces).finish_reason is None
    pieces.close()
    pieces.close()
    with pytest.raises(StopIteration):
        next(pieces)
    assert served.server.generate(served.generator, {"text_input": "the model", "max_tokens": 1}).completion_tokens == 1


TOO_MUCH: dict[tuple[str, str], tuple[int, str]] = {
    ("text_input", repr("the " * (CONTEXT_LENGTH + 1))): (422, "prompt_too_long"),
    ("max_tokens", repr(CONTEXT_LENGTH + 1)): (422, "max_tokens_too_large"),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_input", ""),
        ("text_input", "the " * (CONTEXT_LENGTH + 1)),
        ("text_input", 5),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", CONTEXT_LENGTH + 1),
        ("max_tokens", 2**31),
        ("max_tokens", True),
        ("temperature", -1.0),
        ("top_p", 0.0),
        ("top_k", -1),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("frequency_penalty", 3),
        ("presence_penalty", -3.0),
        ("logprobs", 1),
        ("seed", 2**63),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("beam", 2),
    ],
)
def test_a_wrong_field_is_refused_by_its_name_before_anything_is_streamed(served: Served, field: str, value: Any) -> None:
    call = {"text_input": "the model", field: value}
    for ask in (served.server.generate, served.server.generate_stream):
        with pytest.raises(BadInput) as refused:
            ask(served.generator, call)
        assert refused.value.field == field
        assert (refused.value.status, refused.value.code) == TOO_MUCH.get((field, repr(value)), (400, "bad_input"))
        assert refused.value.expected
        assert refused.value.found


def test_no_prompt_at_all_is_refused_by_its_name(served: Served) -> None:
    with pytest.raises(BadInput) as refused:
        served.server.generate(served.generator, {"max_tokens": 1})
    assert refused.value.field == "text_input"


def test_tensors_as_json_are_answered_in_json(served: Served) -> None:
    answer = served.server.infer(served.predictor, infer_body("the model", "a receipt"), None)
    assert answer.header_length is None
    record = json.loads(answer.body)
    assert record["model_name"] == served.predictor
    assert [output["name"] for output in record["outputs"]] == ["embedding", "prompt_tokens", "result"]
    assert [output["shape"] for output in record["outputs"]] == [[2, 8], [2], [2]]
    assert oip.count_items(answer) == 2


def test_tensors_as_bytes_are_answered_behind_a_header_of_the_length_that_is_told(served: Served) -> None:
    body, length = oip.write_request([oip.Values("text_input", "BYTES", (2,), ("the model", "a receipt"))])
    answer = served.server.infer(served.predictor, body, length)
    assert answer.header_length is not None
    record = json.loads(answer.body[: answer.header_length])
    sizes = [output["parameters"]["binary_data_size"] for output in record["outputs"]]
    assert sizes[:2] == [2 * 8 * 4, 2 * 4]
    assert answer.header_length + sum(sizes) == len(answer.body)
    assert oip.numbers(oip.read_answer(answer)["prompt_tokens"]) == (2, 2)
    assert oip.count_items(answer) == 2


def test_listed_outputs_alone_are_answered_and_binary_only_where_each_says_so(served: Served) -> None:
    texts = [oip.Values("text_input", "BYTES", (2,), ("the model", "a receipt"))]
    answer = served.server.infer(served.predictor, *oip.write_request(texts, ["result"]))
    outputs = oip.read_answer(answer)
    assert set(outputs) == {"result"}
    assert [len(json.loads(item)) for item in oip.items(outputs["result"])] == [8, 8]
    asked = {"outputs": [{"name": "result"}], "parameters": {"binary_data_output": True}}
    told = served.server.infer(served.predictor, infer_body("the model", **asked), None)
    assert told.header_length is None
    assert len(json.loads(told.body)["outputs"]) == 1


def test_a_parameter_that_the_task_does_not_have_is_refused_by_its_name(served: Served) -> None:
    values = [oip.Values("text_input", "BYTES", (1,), ("the model",)), oip.Values("parameters", "BYTES", (1,), ('{"beam": 1}',))]
    with pytest.raises(BadInput) as refused:
        served.server.infer(served.predictor, *oip.write_request(values, ["result"]))
    assert refused.value.field == "parameters.beam"


def test_bytes_in_and_json_out_is_what_the_request_asks_for(served: Served) -> None:
    body, length = oip.write_request([oip.Values("text_input", "BYTES", (1,), ("the model",))])
    header = json.loads(body[:length])
    del header["parameters"]
    asked = json.dumps(header).encode()
    answer = served.server.infer(served.predictor, asked + body[length:], len(asked))
    assert answer.header_length is None
    assert json.loads(answer.body)["outputs"][0]["shape"] == [1, 8]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([""], "0 bytes"),
        (["a", ""], "item 1"),
        (["a " * (CONTEXT_LENGTH + 1)], f"{CONTEXT_LENGTH + 1} tokens"),
        (["a"] * 257, "257"),
    ],
    ids=["an empty text", "an empty one among them", "longer than the context", "too many"],
)
def test_texts_that_cannot_be_taken_are_refused_by_field(served: Served, texts: list[str], found: str) -> None:
    with pytest.raises(BadInput) as refused:
        served.server.infer(served.predictor, infer_body(*texts), None)
    assert refused.value.field == "text_input"
    assert found in refused.value.found
    assert (refused.value.status == 422) == ("tokens" in found)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"inputs":[]}',
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}]}',
        b'{"inputs":[{"name":"text_input","shape":[1],"datatype":"INT64","data":[1]}]}',
        b'{"inputs":[{"name":"text_input","shape":[1],"datatype":"BYTES","data":[5]}]}',
        b'{"inputs":[{"name":"text_input","shape":[3],"datatype":"BYTES","data":["a"]}]}',
        b'{"inputs":[{"name":"text_input","shape":[1,1],"datatype":"BYTES","data":["a"]}]}',
        infer_body("a", outputs=[{"name": "nope"}]),
    ],
)
def test_a_broken_request_is_the_callers_fault(served: Served, body: bytes) -> None:
    with pytest.raises(BadInput):
        served.server.infer(served.predictor, body, None)
    assert served.server.infer(served.predictor, infer_body("a"), None).body, "the server lives on"


@pytest.mark.parametrize("length", [0, 5, 10_000, -1])
def test_a_wrong_header_length_is_the_callers_fault(served: Served, length: int) -> None:
    with pytest.raises(BadInput):
        served.server.infer(served.predictor, infer_body("a") + b"\xff\xff\xff\xff", length)


def test_each_entry_answers_only_its_own_kind_of_call(served: Served) -> None:
    with pytest.raises(BadInput):
        served.server.infer(served.generator, infer_body("a"), None)
