"""Which task a model's class names mean."""

from __future__ import annotations

import pytest

from converters.errors import ModelRefused
from converters.tasks import task_named, task_of


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
    ],
)
def test_a_class_name_means_one_task(architecture: str, task: str) -> None:
    assert task_of((architecture,)).name == task


@pytest.mark.parametrize(
    "architectures", [(), ("BertForMaskedLM",), ("T5ForConditionalGeneration",), ("ViTForImageClassification",)]
)
def test_what_we_do_not_serve_is_refused_with_the_tasks_we_do(architectures: tuple[str, ...]) -> None:
    with pytest.raises(ModelRefused, match="question-answering"):
        task_of(architectures)


def test_an_unknown_task_is_refused_with_the_tasks_there_are() -> None:
    with pytest.raises(ModelRefused, match="text-generation"):
        task_named("translation")
