"""Which task a model's class names mean, and what each task offers."""

from __future__ import annotations

import pytest

from converters.errors import ModelRefused
from converters.tasks import ALIASES, TASKS, inputs_of, outputs_of, task_named, task_of

RAW = {
    "graph_inputs": [{"name": "pixel_values", "dtype": "FP32", "axes": ["batch_size", 3, "height", 0]}],
    "graph_outputs": [{"name": "pooled", "dtype": "FP16", "axes": ["batch_size", 8]}],
}


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("GPT2LMHeadModel", "text-generation"),
        ("GPTJForCausalLM", "text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("BertModel", "feature-extraction"),
        ("GPT2Model", "feature-extraction"),
        ("BertForSequenceClassification", "text-classification"),
        ("DistilBertForQuestionAnswering", "question-answering"),
        ("RobertaForMaskedLM", "fill-mask"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForMultipleChoice", "multiple-choice"),
        ("T5ForConditionalGeneration", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("ViTForImageClassification", "image-classification"),
        ("CLIPModel", "zero-shot-image-classification"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
    ],
)
def test_a_class_name_means_one_task(architecture: str, task: str) -> None:
    assert task_of((architecture,)).name == task


def test_a_head_that_no_task_has_is_served_as_its_tensors() -> None:
    assert task_of(("BertForNextSentencePrediction",)).name == "tensors"


def test_a_model_that_names_no_class_is_refused() -> None:
    with pytest.raises(ModelRefused, match="name the task yourself"):
        task_of(())


def test_an_unknown_task_is_refused_with_the_tasks_there_are() -> None:
    with pytest.raises(ModelRefused, match=r"text-generation.*question-answering.*found 'mind-reading'"):
        task_named("mind-reading")


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_an_alias_names_a_task_that_there_is(alias: str) -> None:
    assert alias not in TASKS and task_named(alias).name == ALIASES[alias]


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"tensors"}))
def test_every_task_offers_tensors_of_different_names(name: str) -> None:
    task = TASKS[name]
    for tensors in (inputs_of(task, {}), outputs_of(task, {})):
        assert tensors and len({tensor.name for tensor in tensors}) == len(tensors)
    if task.backend == "predict":
        assert inputs_of(task, {})[-1].name == "parameters" and outputs_of(task, {})[-1].name == "result"


def test_raw_tensors_are_offered_as_the_graph_has_them() -> None:
    (given,), (offered,) = inputs_of(TASKS["tensors"], RAW), outputs_of(TASKS["tensors"], RAW)
    assert (given.name, given.dtype, given.shape) == ("pixel_values", "FP32", (-1, 3, -1, -1))
    assert (offered.name, offered.dtype, offered.shape) == ("pooled", "FP16", (-1, 8))
