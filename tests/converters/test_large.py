"""A model too large for memory: read tensor by tensor, it becomes the entry that it would have become whole."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest

from converters.entry import read_entry
from converters.errors import ModelRefused, ParityFailed
from converters.locate import Located
from converters.offline import go_offline
from converters.pipeline import Converted, convert
from converters.room import Way
from converters.source import Source, stage
from converters.tasks import TASKS
from tests.converters.tiny_models import FAMILIES, tiny_model

CAUSAL = {"gpt2": "LMHeadModel", "gptj": "ForCausalLM", "gpt_neo": "ForCausalLM", "llama": "ForCausalLM", "opt": "ForCausalLM"}
TASK = TASKS["text-generation"]


@pytest.fixture(params=sorted(CAUSAL))
def staged(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    go_offline()
    folder = tiny_model(tmp_path / "model", request.param, CAUSAL[request.param])
    return stage(Located(folder, "tiny", None), tmp_path / "staged")


def test_a_model_that_reads_its_layers_computes_what_a_loaded_one_does(staged: Source) -> None:
    import torch

    from converters.export.load import load_model
    from converters.export.streamed import open_streamed

    ids = torch.arange(9)[None]
    streamed = open_streamed(staged, TASK)
    with torch.inference_mode():
        expected = load_model(staged, TASK)(ids).logits
        with streamed.reading() as model:
            assert torch.equal(model(ids).logits, expected)
        assert not torch.allclose(streamed.model(ids).logits, expected), "after the block no weight is left in the model"
    taken = {id(weight): weight.untyped_storage().nbytes() for weight in streamed.model.parameters()}
    assert max(taken.values()) == 4, "weights take no memory of their own"


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from converters.export.streamed import open_streamed

    folder = tiny_model(tmp_path / "model", "gptj", "ForCausalLM")
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.fc_in.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match=r"fc_in\.weight"):
        open_streamed(stage(Located(folder, "tiny", None), tmp_path / "staged"), TASK)


@pytest.fixture
def small_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every model is too large, and every weight goes beside its graph."""
    monkeypatch.setattr("converters.pipeline.way_for", lambda *_given: Way.STREAMED)
    monkeypatch.setattr("converters.precision.weights.INLINE_BYTES", 0)
    monkeypatch.setattr("converters.export.large_route._SMALL", 1024)


@pytest.mark.slow
@pytest.mark.usefixtures("small_room")
@pytest.mark.parametrize(
    ("family", "precision"), [pytest.param("gptj", "fp16", marks=pytest.mark.long), ("gpt2", "fp16"), ("llama", "fp32")]
)
def test_it_becomes_an_entry_with_the_same_contract(family: str, precision: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", family, CAUSAL[family])
    made = convert(str(folder), tmp_path / "out", precision=precision)
    entry = read_entry(made.folder)
    assert (entry.precision, entry.export["route"], entry.details["precision"]) == (precision, "streamed", precision.upper())
    assert [line["output"] for line in entry.parity] == ["logits", "greedy"]
    assert json.loads((made.folder / "probes.json").read_text())["probes"]
    _uses_only_its_data(made)
    with pytest.MonkeyPatch.context() as whole:
        whole.setattr("converters.pipeline.way_for", lambda *_given: Way.ORDINARY)
        other = convert(str(folder), tmp_path / "whole", precision=precision, kv_cache="grown").entry
    for key in ("layers", "kv_heads", "head_size", "vocabulary", "context_length", "eos_token_ids", "precision"):
        assert entry.details[key] == other.details[key], key
    assert [one["name"] for one in entry.details["graph_inputs"]] == [one["name"] for one in other.details["graph_inputs"]]


def _uses_only_its_data(made: Converted) -> None:
    graph = onnx.load(str(made.folder / "1" / "model.onnx"), load_external_data=False).graph
    outside = {line.value for tensor in graph.initializer for line in tensor.external_data if line.key == "location"}
    assert outside == {"model.onnx_data"}
    assert sorted(path.name for path in (made.folder / "1").iterdir()) == ["model.onnx", "model.onnx_data", "tokenizer.json"]


@pytest.fixture
def exported(staged: Source, tmp_path: Path) -> tuple[Any, Path, dict[str, Any]]:
    """The streamed model, its fp32 graph, and what a comparison needs of the details."""
    from converters.export.large_route import trace
    from converters.export.streamed import open_streamed
    from converters.graph import graph_tensors
    from converters.kinds.causal import Causal
    from converters.large import _write

    folder = tmp_path / "entry"
    (folder / "1").mkdir(parents=True)
    kind = Causal(staged, TASK, folder)
    streamed = open_streamed(staged, TASK)
    kind.adjust(streamed.model)
    path = folder / "1" / "model.onnx"
    _write(trace(streamed, TASK, staged.model_type, tmp_path / "export"), path)
    from converters.export.graphs import Exported, Graph

    details = kind.describe(streamed.model, Exported("", "", {"model": Graph(path, *graph_tensors(path))}))
    return streamed, path, details


@pytest.mark.slow
def test_parts_give_what_the_whole_graph_gives_and_a_changed_weight_is_found(exported: tuple[Any, Path, dict[str, Any]]) -> None:
    from converters.parity.large import check_large
    from converters.parity.parted import PartedSession
    from converters.parity.session import Session
    from converters.parity.texts import batch_of

    streamed, path, details = exported
    feeds = batch_of(details, (3, 8), numpy.random.default_rng(1))
    axes = {tensor["name"]: tensor["axes"] for tensor in details["graph_inputs"]}
    for layer in details["layers"]:
        for name in (layer["past_key"], layer["past_value"]):
            feeds[name] = numpy.zeros((3, axes[name][1], 0, axes[name][3]), numpy.float32)
    parted = PartedSession(path, part_parameters=5000)
    assert parted.parts > 3
    whole, parts = Session(path).run(feeds), parted.run(feeds)
    assert set(whole) == set(parts)
    for name, value in whole.items():
        numpy.testing.assert_allclose(parts[name], value, rtol=1e-4, atol=1e-5)
    lines = check_large(streamed.reading, path, details, 1e-4)
    assert all(line["worst_relative"] <= line["bound"] for line in lines)

    @contextmanager
    def another() -> Any:
        with streamed.reading() as model:
            scale = model.get_input_embeddings().register_forward_hook(lambda _module, _given, value: value * 1.05)
            yield model
            scale.remove()

    with pytest.raises(ParityFailed, match="logits"):
        check_large(another, path, details, 1e-4)


def test_only_what_can_be_compared_is_streamed(staged: Source, tmp_path: Path) -> None:
    from converters.large import make_large

    for task, precision in (("text-generation", "int4"), ("text-generation", "bf16"), ("feature-extraction", "fp16")):
        with pytest.raises(ModelRefused, match="precision"):
            make_large(staged, TASKS[task], precision, tmp_path, tmp_path, lambda _stage: pytest.fail("nothing starts"))


def test_every_family_here_is_one_that_the_tests_can_make() -> None:
    assert set(CAUSAL) <= set(FAMILIES)
