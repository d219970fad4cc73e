"""Graphs that are served as they stand: every output compared at sizes other than the traced ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import transformers

from converters.entry import Entry, write_entry
from converters.errors import ModelRefused, ParityFailed
from converters.export import optimum_route
from converters.export.graphs import Exported, Graph
from converters.kinds.raw import Raw
from converters.parity.compare import BOUNDS
from converters.parity.tensors import Size, feeds_of, outputs_of, sizes_of
from converters.probes import write_probes
from converters.tasks import TASKS

TASK = TASKS["tensors"]
_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_SEEN = {**_SHAPE, "image_size": 32, "patch_size": 8}


def text_model() -> Any:
    return transformers.LayoutLMModel(transformers.LayoutLMConfig(vocab_size=320, max_position_embeddings=64, **_SHAPE))


def image_model() -> Any:
    return transformers.ResNetModel(transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1]))


def both_model() -> Any:
    words = transformers.CLIPTextConfig(vocab_size=320, max_position_embeddings=64, eos_token_id=319, **_SHAPE)
    return transformers.CLIPModel(transformers.CLIPConfig.from_text_vision_configs(words, transformers.CLIPVisionConfig(**_SEEN)))


def sound_model() -> Any:
    shape = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 32}
    return transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**shape, **_SHAPE))


MODELS = {
    "feature-extraction": (text_model, {"last_hidden_state"}),
    "image": (image_model, {"last_hidden_state"}),
    "zero-shot-image-classification": (both_model, {"logits_per_image", "logits_per_text", "text_embeds", "image_embeds"}),
    "sound": (sound_model, {"last_hidden_state"}),
}


def exported(model: Any, task: str, folder: Path) -> tuple[Raw, Exported, dict[str, Any]]:
    (folder / "entry" / "1").mkdir(parents=True)
    task = task if task in TASKS else "feature-extraction"
    graphs = optimum_route.export(model, dataclasses.replace(TASK, export_task=task), folder / "scratch", folder / "entry" / "1")
    made, kind = Exported("optimum", "", graphs), Raw(SimpleNamespace(), TASK, folder)  # type: ignore[arg-type] -- reads no source
    kind.adjust(model)
    return kind, made, kind.describe(model, made)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_output_is_compared_at_three_batches(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, outputs = MODELS[name]
    model = make().eval()
    kind, made, details = exported(model, name, tmp_path)
    lines = kind.check(model, made, details, BOUNDS["fp32"])
    assert {line["output"] for line in lines} == outputs
    assert all({size[0] for size in line["sizes"]} == {1, 2, 3} for line in lines)
    assert all(line["worst_relative"] <= line["bound"] / 5 for line in lines)
    probes = kind.probes(model, details, BOUNDS["fp32"])
    assert len(probes) >= 3 and {tensor.name for tensor in probes[0].outputs} == outputs
    inputs = tuple(tensor["name"] for tensor in details["graph_inputs"])
    assert all(tuple(tensor.name for tensor in probe.inputs) == inputs for probe in probes)
    write_probes(tmp_path, probes)
    assert (tmp_path / "probes.json").stat().st_size < 400_000


@pytest.mark.slow
def test_another_models_graph_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = text_model().eval()
    kind, made, details = exported(model, "feature-extraction", tmp_path)
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight[1, 1] += 1.0
    with pytest.raises(ParityFailed, match="last_hidden_state"):
        kind.check(model, made, details, BOUNDS["fp32"])


@pytest.mark.slow
def test_a_model_that_draws_at_random_is_named_as_such(tmp_path: Path) -> None:
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**_SEEN)).eval()
    kind, made, details = exported(model, "feature-extraction", tmp_path)
    with pytest.raises(ParityFailed, match="random at inference"):
        kind.check(model, made, details, BOUNDS["fp32"])


def graph(**changed: Any) -> Exported:
    given = {"name": "pixel_values", "dtype": "FP32", "axes": ["batch_size", 3, "height", "width"], **changed}
    return Exported(
        "", "", {"model": Graph(Path("model.onnx"), [given], [{"name": "out", "dtype": "FP32", "axes": ["batch_size"]}])}
    )


def test_a_dtype_that_the_backend_cannot_pass_on_is_refused() -> None:
    kind = Raw(SimpleNamespace(), TASK, Path())  # type: ignore[arg-type] -- reads no source
    assert kind.describe(None, graph())["model"] == "1/model.onnx"
    with pytest.raises(ModelRefused, match=r"'pixel_values'.*BF16"):
        kind.describe(None, graph(dtype="BF16"))


def test_a_model_of_several_graphs_is_not_raw_tensors() -> None:
    kind = Raw(SimpleNamespace(), TASK, Path())  # type: ignore[arg-type] -- reads no source
    several = Exported("", "", {"encoder": graph().graphs["model"], "decoder": graph().graphs["model"]})
    with pytest.raises(ModelRefused, match="one graph"):
        kind.describe(None, several)


class Doubling(torch.nn.Module):
    """Gives a tensor, a list of tensors and a flag; refuses more than eight tokens."""

    config = SimpleNamespace(vocab_size=9, pad_token_id=0, max_position_embeddings=8)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        if input_ids.shape[1] > 8:
            raise IndexError("index out of range")
        return {"hidden": input_ids.float(), "states": (input_ids * 2.0, input_ids * 3.0), "is_long": attention_mask.sum() > 4}


INPUTS = [{"name": name, "dtype": "INT64", "axes": ["batch_size", "sequence_length"]} for name in ("input_ids", "attention_mask")]


def test_nested_outputs_have_the_names_of_their_places() -> None:
    feeds = feeds_of(Doubling(), INPUTS, Size(2, 5, (8, 8)), numpy.random.default_rng(0))
    assert feeds["input_ids"].shape == (2, 5) and 0 < feeds["input_ids"].min() <= feeds["input_ids"].max() < 9
    found = outputs_of(Doubling(), feeds, ["hidden", "states.1", "is_long"])
    assert found is not None and list(found) == ["hidden", "states.1", "is_long"]
    assert numpy.array_equal(found["states.1"], found["hidden"] * 3)
    with pytest.raises(ParityFailed, match="nobody"):
        outputs_of(Doubling(), feeds, ["hidden", "nobody"])


def test_a_size_that_pytorch_refuses_is_no_answer_and_lengths_keep_to_the_context() -> None:
    feeds = feeds_of(Doubling(), INPUTS, Size(1, 9, (8, 8)), numpy.random.default_rng(0))
    assert outputs_of(Doubling(), feeds, ["hidden"]) is None
    assert [size.length for size in sizes_of(Doubling(), INPUTS, 1, 0)][:2] == [7, 8]


def test_an_entry_offers_a_scalar_as_one_element(tmp_path: Path) -> None:
    from converters.tasks import inputs_of, outputs_of

    details = {"graph_inputs": INPUTS, "graph_outputs": [{"name": "scale", "dtype": "FP32", "axes": []}]}
    described = {"name": "raw", "task": "tensors", "backend": "predict", "architecture": "Any", "precision": "fp32"}
    write_entry(tmp_path, Entry(**described, inputs=inputs_of(TASK, details), outputs=outputs_of(TASK, details)))
    assert outputs_of(TASK, details)[0].shape == (1,)
