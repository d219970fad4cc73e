"""The probes of each task, asked of the real Triton."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import BadInput
from control_plane.serving.replay import replay
from converters.pipeline import convert
from converters.probes import Probe, infer_answer, infer_request, read_probes, texts
from tests.converters.tiny_models import tiny_model
from tests.fixtures_triton import Converted, TritonServer, tiny_gpt2, triton_server
from tests.model_repository import raw_entries
from tests.model_repository.text_entries import HEADS

__all__ = ["tiny_gpt2", "triton_server"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

Entries = Callable[[str], Converted]


def check(server: TritonServer, entry: Path, outputs: set[str]) -> None:
    name = server.install(entry)
    told = replay(server.client, name, entry)
    assert {line.output for line in told} >= outputs and len(read_probes(entry)) >= 3
    # What PyTorch and the served entry differ by is rounding, not luck below a wide bound.
    assert all(line.worst_relative <= line.bound / 5 for line in told), told
    server.client.unload(name)


OUTPUTS = {
    "feature-extraction": {"embedding"},
    "text-classification": {"scores", "label"},
    "zero-shot-classification": {"scores"},
    "token-classification": {"scores", "start", "end"},
    "fill-mask": {"item", "scores", "token_ids"},
    "question-answering": {"answer", "score", "start", "end"},
    "multiple-choice": {"scores"},
}


@pytest.mark.parametrize("task", sorted(HEADS))
def test_a_text_task_gives_pytorchs_answers_through_triton(triton_server: TritonServer, text_entry: Entries, task: str) -> None:
    check(triton_server, text_entry(task).entry, {*OUTPUTS[task], "prompt_tokens"})


def test_raw_tensors_pass_through_triton(triton_server: TritonServer, tmp_path: Path) -> None:
    check(triton_server, raw_entries.make_entry(tmp_path / "entry"), {"moved", "total", "others", "wholes"})


def test_a_model_without_a_wrapper_is_served_as_its_tensors(triton_server: TritonServer, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "bert", "Model", words=True, pad_token_id=0)
    check(triton_server, convert(str(model), tmp_path / "out", task="tensors").folder, {"last_hidden_state"})


def test_greedy_tokens_are_pytorchs_through_triton(triton_server: TritonServer, tiny_gpt2: Converted) -> None:
    check(triton_server, tiny_gpt2.entry, {"token_ids", "prompt_tokens", "completion_tokens"})


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_greedy_tokens_of_other_families_are_pytorchs_too(triton_server: TritonServer, family: str, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", family, "ForCausalLM", initializer_range=0.5)
    entry = convert(str(model), tmp_path / "out").folder
    counts = [int.from_bytes(probe.outputs[1].raw, "little") for probe in read_probes(entry)]
    assert max(counts) >= 16, "probes of a few tokens prove little"
    check(triton_server, entry, {"token_ids"})


def asked(server: TritonServer, name: str, wanted: list[str], **inputs: list[str]) -> dict[str, Any]:
    probe = Probe(tuple(texts(key, items) for key, items in inputs.items()), tuple(texts(key, []) for key in wanted), 0.0)
    answer = server.client.infer(name, *infer_request(probe))
    return infer_answer(answer.body, answer.header_length)


def test_a_result_is_json_and_a_wrong_parameter_is_the_callers_fault(triton_server: TritonServer, text_entry: Entries) -> None:
    name = triton_server.install(text_entry("text-classification").entry)
    found = asked(triton_server, name, ["result"], text_input=["The market", "A buyer"], parameters=['{"top_k": 2}'])
    assert set(found) == {"result"} and found["result"].shape == (2,)
    first = found["result"].raw[4 : 4 + int.from_bytes(found["result"].raw[:4], "little")]
    assert [set(one) for one in json.loads(first)] == [{"label", "score"}] * 2
    with pytest.raises(BadInput) as refused:
        asked(triton_server, name, ["result"], text_input=["The market"], parameters=['{"topk": 2}'])
    assert "topk" in str(refused.value)
    triton_server.client.unload(name)
