"""Tiny models: what a folder holds, that it is the same each time, and that it answers differently to different inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.coverage.heads import TRIED, heads, model_types
from converters.coverage.shapes import PARAMETERS, NotBuilt, build
from converters.tasks import TASKS


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_type_that_transformers_knows_is_tried_with_tasks_of_ours() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert set(model_types()) == set(CONFIG_MAPPING_NAMES)
    tried = {name: heads(name) for name in model_types()}
    assert all(head.task in TASKS for offered in tried.values() for head in offered)
    assert all(len(offered) <= TRIED for offered in tried.values())
    assert [name for name, offered in tried.items() if not offered] == []


def test_a_type_is_tried_with_what_it_is_used_for_first() -> None:
    first = {name: heads(name)[0].task for name in ("gpt2", "bert", "t5", "vit", "whisper", "wav2vec2", "clip", "detr", "clap")}
    assert first == {
        "gpt2": "text-generation",
        "bert": "fill-mask",
        "t5": "text2text-generation",
        "vit": "image-classification",
        "whisper": "speech-to-text",
        "wav2vec2": "automatic-speech-recognition",
        "clip": "zero-shot-image-classification",
        "detr": "object-detection",
        "clap": "tensors",
    }


@pytest.mark.parametrize("model_type", ["llama", "t5", "vit", "wav2vec2"])
def test_a_model_has_the_files_of_a_published_one_and_the_same_bytes_each_time(model_type: str, tmp_path: Path) -> None:
    built = build(model_type, tmp_path / "one")
    files = _files(built.folder)
    expected = {
        "llama": {"tokenizer.json", "tokenizer_config.json", "generation_config.json"},
        "t5": {"tokenizer.json", "tokenizer_config.json", "generation_config.json"},
        "vit": {"preprocessor_config.json"},
        "wav2vec2": {"vocab.json", "tokenizer_config.json", "preprocessor_config.json"},
    }[model_type]
    assert set(files) == expected | {"config.json", "model.safetensors", "README.md"}
    assert json.loads(files["config.json"])["model_type"] == model_type
    assert 0 < built.parameters <= PARAMETERS
    assert _files(build(model_type, tmp_path / "two").folder) == files


def test_another_seed_gives_other_weights_of_the_same_shape(tmp_path: Path) -> None:
    one, two = (build("bert", tmp_path / str(seed), seed=seed).folder / "model.safetensors" for seed in (1, 2))
    assert one.stat().st_size == two.stat().st_size
    assert one.read_bytes() != two.read_bytes()


def test_a_configuration_that_another_class_reads_keeps_the_name_of_its_type(tmp_path: Path) -> None:
    config = json.loads((build("code_llama", tmp_path / "model").folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("code_llama", ["LlamaForCausalLM"])


def test_a_model_tells_its_inputs_apart(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = build("gpt2", tmp_path / "model").folder
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        one, two = (model(torch.tensor([ids])).logits[0, -1] for ids in ([40, 50, 60], [41, 50, 60]))
    assert float((one - two).abs().max()) > 0.05
    best = one.topk(2).values
    assert float(best[0] - best[1]) > 1e-4


def test_a_task_that_the_type_has_no_class_for_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="vit: expected a task that transformers has a class for, found 'fill-mask'"):
        build("vit", tmp_path / "model", "fill-mask")


def test_a_type_that_needs_a_missing_library_says_which(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="timm"):
        build("timm_wrapper", tmp_path / "model")
