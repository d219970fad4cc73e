"""The derived configuration, read back with Triton's own schema."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from converters.entry import Entry, ModelDigest
from converters.errors import EntryBroken
from converters.pbtxt import Hardware, config_pbtxt
from converters.tasks import TASKS, offered_inputs, offered_outputs, outputs_of

DIGEST = ModelDigest("0x" + "5a" * 32)

DETAILS = {"dimensions": 384, "labels": ["no", "yes"]}


def entry_for(task: str) -> Entry:
    row = TASKS[task]
    return Entry("tiny", row.name, row.backend, "X", "fp32", row.inputs, outputs_of(row, DETAILS))


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("task", [name for name in TASKS if name != "tensors"])
def test_triton_reads_the_entrys_tensors_as_the_entry_states_them(task: str) -> None:
    entry = entry_for(task)
    config = parsed(config_pbtxt(entry, "m-5a5a", DIGEST))
    kinds = {name: f"TYPE_{name}" for name in ("BOOL", "INT32", "INT64", "FP32")} | {"BYTES": "TYPE_STRING"}
    for tensors, stated in ((config.input, entry.inputs), (config.output, entry.outputs)):
        found = [(tensor.name, model_config_pb2.DataType.Name(tensor.data_type), tuple(tensor.dims)) for tensor in tensors]
        assert found == [(tensor.name, kinds[tensor.dtype], tensor.shape) for tensor in stated]
    assert [tensor.optional for tensor in config.input] == [tensor.is_optional for tensor in entry.inputs]
    assert (config.name, config.backend, config.max_batch_size) == ("m-5a5a", entry.backend, 0)
    assert config.model_transaction_policy.decoupled is (entry.backend == "generate")
    assert [(group.kind, group.count) for group in config.instance_group] == [(model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)]
    assert {key: value.string_value for key, value in config.parameters.items()} == {"model_digest": DIGEST, "entry_name": "tiny"}


def test_a_generating_entry_from_before_an_input_of_its_backend_takes_it_too() -> None:
    """config.pbtxt is never hashed: what is the backend's own is written from this release, not from the entry's."""
    entry = entry_for("text-generation")
    before = replace(entry, inputs=entry.inputs[:6], outputs=entry.outputs[:5])
    assert {"min_p", "logprobs"}.isdisjoint(tensor.name for tensor in before.inputs)
    assert config_pbtxt(before, "m", DIGEST) == config_pbtxt(entry, "m", DIGEST)
    assert offered_inputs(before) == entry.inputs and offered_outputs(before) == entry.outputs


def test_an_entry_that_predicts_offers_what_it_states() -> None:
    entry = entry_for("text-classification")
    fewer = replace(entry, inputs=entry.inputs[:1], outputs=entry.outputs[:1])
    assert (offered_inputs(fewer), offered_outputs(fewer)) == (fewer.inputs, fewer.outputs)


def test_the_same_entry_always_gives_the_same_text() -> None:
    assert config_pbtxt(entry_for("text-generation"), "m", DIGEST) == config_pbtxt(entry_for("text-generation"), "m", DIGEST)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_no_name_breaks_out_of_its_quotes(name: str) -> None:
    config = parsed(config_pbtxt(replace(entry_for("text-generation"), name=name), "m", DIGEST))
    assert config.parameters["entry_name"].string_value == name
    assert config.backend == "generate"


@pytest.mark.parametrize("backend", ["python", "onnxruntime", "", 'generate" backend: "python'])
def test_an_entry_cannot_choose_a_backend_that_is_not_ours(backend: str) -> None:
    with pytest.raises(EntryBroken, match="backend"):
        config_pbtxt(replace(entry_for("text-generation"), backend=backend), "m", DIGEST)


def parameters_of(hardware: Hardware, **details: Any) -> tuple[Any, dict[str, str]]:
    entry = replace(entry_for("text-generation"), precision="fp16", details={**DETAILS, **details})
    config = parsed(config_pbtxt(entry, "m", DIGEST, hardware))
    return config, {key: value.string_value for key, value in config.parameters.items()}


def test_a_gpu_is_asked_for_by_its_number_and_the_backend_is_told_the_providers() -> None:
    config, parameters = parameters_of(Hardware(providers=("cuda", "cpu"), device=3))
    assert [(one.kind, list(one.gpus)) for one in config.instance_group] == [(model_config_pb2.ModelInstanceGroup.KIND_GPU, [3])]
    assert (parameters["providers"], parameters["device"]) == ("cuda,cpu", "3")
    assert not any(key.startswith("engine") for key in parameters)


def test_tensorrt_gets_a_cache_of_the_entrys_own_its_precision_and_its_profiles() -> None:
    graph = {
        "context_length": 64,
        "layers": [],
        "graph_inputs": [{"name": "input_ids", "dtype": "INT64", "axes": ["batch_size", "sequence_length"]}],
    }
    _, parameters = parameters_of(Hardware(("tensorrt", "cuda", "cpu"), Path("/engines"), most_batch=4), **graph)
    assert parameters["providers"] == "tensorrt,cuda,cpu"
    assert parameters["engine_cache"] == f"/engines/{DIGEST[2:18]}"
    assert parameters["engine_precision"] == "fp16"
    assert [parameters[f"engine_{which}"] for which in ("least", "usual", "most")] == [
        "input_ids:1x1",
        "input_ids:2x64",
        "input_ids:4x64",
    ]


def test_an_axis_that_the_entry_does_not_say_leaves_the_shapes_to_the_provider() -> None:
    graph = {"graph_inputs": [{"name": "pixel_values", "dtype": "FP32", "axes": ["batch_size", 3, "height", "width"]}]}
    _, parameters = parameters_of(Hardware(("tensorrt", "cuda", "cpu"), Path("/engines")), **graph)
    assert "engine_cache" in parameters and "engine_least" not in parameters


@pytest.mark.parametrize(
    ("providers", "cache"),
    [(("cpu", "cuda"), None), (("cuda",), None), ((), None), (("rocm", "cpu"), None), (("tensorrt", "cpu"), None)],
)
def test_providers_that_make_no_sense_are_refused(providers: tuple[str, ...], cache: Path | None) -> None:
    with pytest.raises(EntryBroken, match="providers"):
        Hardware(providers, cache)
