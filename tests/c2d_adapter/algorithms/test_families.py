"""Families of language models, tiny and random: each is trained, in full and with adapters, and is itself again afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from c2d_adapter.algorithms import train
from c2d_adapter.algorithms.plain_model import open_model
from c2d_adapter.job_io import FAILED, Place
from control_plane.jobs.architectures import UNTRAINABLE
from converters.coverage.shapes import build
from tests.c2d_adapter.jobs import job_folder, said, tensors

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:Moving the following attributes in the config"),  # of transformers, to who saves a BART
]

DECODERS = (
    *("gpt2", "gptj", "gpt_neo", "gpt_neox", "gpt_bigcode", "opt", "bloom", "codegen", "mpt", "xglm", "biogpt", "ctrl"),
    *("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "falcon"),
    *("stablelm", "starcoder2", "olmo2", "granite", "cohere", "deepseek_v3", "gpt_oss", "llama4_text", "smollm3", "persimmon"),
    *("mamba", "mamba2", "falcon_mamba", "falcon_h1", "jamba", "rwkv", "bert-generation", "bart", "marian", "pegasus"),
)
BOTH = ("t5", "mt5", "longt5", "switch_transformers", "bart", "mbart", "marian", "pegasus", "m2m_100", "led", "blenderbot", "fsmt")
ENCODERS = ("bert", "roberta", "distilbert", "albert", "electra", "deberta-v2", "mpnet", "modernbert", "xlm-roberta", "longformer")
FAMILIES = (
    *(("text-generation", family) for family in DECODERS),
    *(("text2text-generation", family) for family in BOTH),
    *(("fill-mask", family) for family in ENCODERS),
)
UNTRAINED = {
    "mllama": ("text-generation", "MllamaForCausalLM"),
    "perceiver": ("fill-mask", "PerceiverForMaskedLM"),
    "recurrent_gemma": ("text-generation", "RecurrentGemmaForCausalLM"),
    "reformer": ("text-generation", "ReformerModelWithLMHead"),
    "speech_to_text_2": ("text-generation", "Speech2Text2ForCausalLM"),
    "transfo-xl": ("text-generation", "TransfoXLLMHeadModel"),
    "xlstm": ("text-generation", "xLSTMForCausalLM"),
}
SHORT = {"steps": 2, "batch_size": 2, "sequence_length": 16, "learning_rate": 1e-3}


@pytest.mark.parametrize(("task", "family"), FAMILIES)
def test_a_family_is_trained_in_full_and_with_adapters_and_can_be_opened_again(task: str, family: str, tmp_path: Path) -> None:
    built = build(family, tmp_path / "model", task)
    for method in ("full", "lora"):
        folder = job_folder(tmp_path / method, built.folder, **SHORT, method=method)
        assert train.main(folder, Place()) == 0, said(folder, "failure")
        before, after = tensors(folder.weights), tensors(folder.out)
        assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
        assert any((before[name] != after[name]).any() for name in before), "nothing was learned"
        assert type(open_model(folder.out)[0]).__name__ == built.class_name


@pytest.mark.parametrize("family", UNTRAINED)
def test_an_architecture_of_which_no_training_is_sold_cannot_be_trained(family: str, tmp_path: Path) -> None:
    """Once it can, it is to be taken from the list."""
    task, architecture = UNTRAINED[family]
    built = build(family, tmp_path / "model", task)
    assert built.class_name == architecture
    folder = job_folder(tmp_path / "job", built.folder, **SHORT)
    assert train.main(folder, Place()) == FAILED
    assert not (folder.path / "result.json").exists()


def test_every_architecture_of_which_no_training_is_sold_was_tried() -> None:
    assert {architecture for _, architecture in UNTRAINED.values()} == set(UNTRAINABLE)


@pytest.mark.parametrize("family", ["xlnet", "xlm", "mega", "cpmant"])
def test_a_family_that_cannot_learn_from_what_it_is_asked_is_refused(family: str, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", build(family, tmp_path / "model", "text-generation").folder, **SHORT)
    assert train.main(folder, Place()) == FAILED
    told = said(folder, "failure")
    assert told["code"] == "unsupported_model" and "depends on later ones" in told["sentence"]


def test_a_model_whose_layers_take_no_adapters_says_so(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", build("zamba2", tmp_path / "model", "text-generation").folder, **SHORT, method="lora")
    assert train.main(folder, Place()) == FAILED
    assert said(folder, "failure")["sentence"] == "The model's layers take no adapters: train it in full."
