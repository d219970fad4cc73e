"""What `predict` answers to texts, against transformers' own pipelines, and parsed as the stock client does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import transformers
from huggingface_hub import (
    FillMaskOutputElement,
    QuestionAnsweringOutputElement,
    TextClassificationOutputElement,
    TokenClassificationOutputElement,
    ZeroShotClassificationOutputElement,
)

from converters.probes import Difference
from opening.entry import open_entry
from opening.refusal import Refused
from predict.passes import Passes
from predict.task import Task
from predict.tasks import task_of
from tests.fixtures_triton import Converted
from tests.model_repository.mixing import answered, answered_together, are_same, call_of
from tests.model_repository.replaying import replayed
from tests.model_repository.text_entries import HEADS, result_of

pytestmark = pytest.mark.slow

Entries = Callable[[str], Converted]
MIXES = 30
"""Of six calls, for each task: 210 together."""
SENTENCES = [
    "The market sells what a model says.",
    "A buyer pays, calls, and keeps the receipt.",
    "Anyone may check 42.",
    "An owner publishes once; the log remembers every call (and numbers like 456).",
]


def opened(entries: Entries, task: str) -> Task:
    return task_of(open_entry(entries(task).entry))


def asked(task: Task, parameters: dict[str, Any] | None = None, **inputs: list[str]) -> dict[str, np.ndarray]:
    tensors = {name: np.array([text.encode() for text in texts], object) for name, texts in inputs.items()}
    if parameters is not None:
        tensors["parameters"] = np.array([json.dumps(parameters).encode()], object)
    return task.answer(tensors, {"result"})


def results(task: Task, parameters: dict[str, Any] | None = None, **inputs: list[str]) -> list[Any]:
    return [result_of(item) for item in asked(task, parameters, **inputs)["result"]]


def pipeline(entries: Entries, task: str, **settings: Any) -> Any:
    return transformers.pipeline(task, model=str(entries(task).model), device="cpu", **settings)


@pytest.mark.parametrize("task", sorted(HEADS))
def test_an_entrys_probes_hold(text_entry: Entries, task: str) -> None:
    told = replayed(text_entry(task).entry)
    assert len(told) >= 3
    batches = {probe.inputs[1 if task == "multiple-choice" else 0].shape[0] for probe, _ in told}
    assert len(batches) >= 3
    worst: list[Difference] = [difference for _, differences in told for difference in differences]
    assert all(difference.is_within for difference in worst), [difference for difference in worst if not difference.is_within]
    assert {difference.output for difference in worst} > {"prompt_tokens"}


@pytest.mark.parametrize("task", sorted(HEADS))
def test_an_answer_is_the_same_to_the_last_bit_alone_and_among_others(
    text_entry: Entries, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    computed = Passes._computed

    def slowly(self: Passes[Any], shares: dict[Any, list[int]]) -> dict[Any, Any]:
        time.sleep(0.002)  # a model of this size is done before the next call has come
        together.append(len(shares))
        return computed(self, shares)

    task_opened, chances = opened(text_entry, task), np.random.default_rng(len(task))
    monkeypatch.setattr(Passes, "_computed", slowly)
    for _ in range(MIXES):
        calls = [call_of(task, chances) for _ in range(6)]
        alone = [answered(task_opened, one) for one in calls]
        assert all(map(are_same, answered_together(task_opened, calls), alone))
    assert sum(count > 1 for count in together) >= MIXES, together


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none", None])
def test_labels_are_those_of_the_pipeline(text_entry: Entries, function: str | None) -> None:
    parameters = {} if function is None else {"function_to_apply": function}
    found = results(opened(text_entry, "text-classification"), parameters, text_input=SENTENCES)
    expected = pipeline(text_entry, "text-classification")(SENTENCES, top_k=None, **parameters)
    for item, wanted in zip(found, expected, strict=True):
        assert [one["label"] for one in item] == [one["label"] for one in wanted]
        assert [one["score"] for one in item] == pytest.approx([one["score"] for one in wanted], rel=1e-4, abs=1e-6)
        assert isinstance(TextClassificationOutputElement.parse_obj_as_list(item)[0].score, float)


def test_the_caller_may_have_fewer_labels(text_entry: Entries) -> None:
    found = results(opened(text_entry, "text-classification"), {"top_k": 1}, text_input=SENTENCES)
    assert [len(item) for item in found] == [1] * len(SENTENCES)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"multi_label": True}, {"hypothesis_template": "It is about {}."}],
)
def test_zero_shot_labels_are_those_of_the_pipeline(text_entry: Entries, parameters: dict[str, Any]) -> None:
    labels = ["market", "model", "receipt"]
    task = opened(text_entry, "zero-shot-classification")
    found = results(task, parameters, text_input=SENTENCES, candidate_labels=labels)
    expected = pipeline(text_entry, "zero-shot-classification")(SENTENCES, labels, **parameters)
    for item, wanted in zip(found, expected, strict=True):
        assert item["sequence"] == wanted["sequence"] and item["labels"] == wanted["labels"]
        assert item["scores"] == pytest.approx(wanted["scores"], rel=1e-3, abs=1e-5)
        pair = {"label": item["labels"][0], "score": item["scores"][0]}
        assert ZeroShotClassificationOutputElement.parse_obj_as_instance(pair).label in labels


def test_one_candidate_label_is_true_or_not(text_entry: Entries) -> None:
    found = results(opened(text_entry, "zero-shot-classification"), text_input=SENTENCES[:1], candidate_labels=["market"])
    expected = pipeline(text_entry, "zero-shot-classification")(SENTENCES[0], ["market"])
    assert found[0]["scores"] == pytest.approx(expected["scores"], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("ignored", [["O"], ["PER", "I-LOC"]])
def test_entities_are_those_of_the_pipeline(text_entry: Entries, strategy: str, ignored: list[str]) -> None:
    parameters = {"aggregation_strategy": strategy, "ignore_labels": ignored}
    found = results(opened(text_entry, "token-classification"), parameters, text_input=SENTENCES)
    expected = [pipeline(text_entry, "token-classification", **parameters)(sentence) for sentence in SENTENCES]
    assert any(expected), "a model that finds nothing proves nothing"
    for text, item, wanted in zip(SENTENCES, found, expected, strict=True):
        assert [{**one, "score": 0} for one in item] == [{**one, "score": 0} for one in wanted]
        assert [one["score"] for one in item] == pytest.approx([float(one["score"]) for one in wanted], rel=1e-4)
        for one in TokenClassificationOutputElement.parse_obj_as_list(item):
            assert text[one.start : one.end] and (one.entity or one.entity_group)


def test_entities_are_grouped_when_the_caller_does_not_say(text_entry: Entries) -> None:
    task = opened(text_entry, "token-classification")
    simple = results(task, {"aggregation_strategy": "simple"}, text_input=SENTENCES)
    assert results(task, text_input=SENTENCES) == simple and all("entity_group" in one for item in simple for one in item)


@pytest.mark.parametrize("parameters", [{}, {"top_k": 2}, {"top_k": 100}, {"targets": ["market", "the"]}])
def test_words_behind_a_mask_are_those_of_the_pipeline(text_entry: Entries, parameters: dict[str, Any]) -> None:
    texts = ["The [MASK] sells.", "A buyer pays, and keeps the [MASK]", "[MASK] may check [MASK] call"]
    found = results(opened(text_entry, "fill-mask"), parameters, text_input=texts)
    for item, text in zip(found, texts, strict=True):
        wanted = pipeline(text_entry, "fill-mask")(text, **parameters)
        rows = zip(item, wanted, strict=True) if text.count("[MASK]") > 1 else [(item, wanted)]
        for one, other in rows:
            assert len(one) == (2 if "targets" in parameters else parameters.get("top_k", 5))
            assert [filled["token"] for filled in one] == [filled["token"] for filled in other]
            assert [filled["sequence"] for filled in one] == [filled["sequence"] for filled in other]
            assert [filled["token_str"] for filled in one] == [filled["token_str"] for filled in other]
            assert [filled["score"] for filled in one] == pytest.approx([filled["score"] for filled in other], rel=1e-3)
            assert FillMaskOutputElement.parse_obj_as_list(one)[0].token == one[0]["token"]


@pytest.mark.parametrize(
    "parameters",
    [{}, {"align_to_words": False}, {"top_k": 3, "align_to_words": False}, {"top_k": 4}, {"handle_impossible_answer": True}],
)
def test_answers_are_those_of_the_pipeline(text_entry: Entries, parameters: dict[str, Any]) -> None:
    questions = ["What does the market sell?", "Who pays?", "Who may check it?"]
    contexts = [SENTENCES[0], " ".join(SENTENCES[:2]), SENTENCES[1]]
    found = results(opened(text_entry, "question-answering"), parameters, question=questions, context=contexts)
    for item, question, context in zip(found, questions, contexts, strict=True):
        wanted = pipeline(text_entry, "question-answering")(question=question, context=context, max_seq_len=64, **parameters)
        is_list = parameters.get("top_k", 1) > 1
        assert isinstance(item, list) is is_list
        answers, expected = (item, wanted) if is_list else ([item], [wanted])
        for one, other in zip(answers, expected, strict=True):
            assert (one["answer"], one["start"], one["end"]) == (other["answer"], other["start"], other["end"])
            assert one["score"] == pytest.approx(other["score"], rel=1e-3)
            assert context[one["start"] : one["end"]] == one["answer"]
            assert isinstance(QuestionAnsweringOutputElement.parse_obj(one), QuestionAnsweringOutputElement)


def test_a_choice_is_scored_as_the_model_does(text_entry: Entries) -> None:
    import torch

    converted, choices = text_entry("multiple-choice"), ["keeps the receipt", "sells", "once; (and) 42", "calls"]
    (found,) = results(opened(text_entry, "multiple-choice"), text_input=SENTENCES[:1], choices=choices)
    tokenizer = transformers.AutoTokenizer.from_pretrained(converted.model)
    model = transformers.AutoModelForMultipleChoice.from_pretrained(converted.model).eval()
    inputs = tokenizer([SENTENCES[0]] * len(choices), choices, return_tensors="pt", padding=True)
    with torch.inference_mode():
        scores = model(**{name: value[None] for name, value in inputs.items()}).logits[0].softmax(-1).tolist()
    told = {one["label"]: one["score"] for one in found}
    assert [told[choice] for choice in choices] == pytest.approx(scores, rel=1e-4)
    assert [one["score"] for one in found] == sorted(told.values(), reverse=True)


def test_an_embedding_can_be_had_unnormalised(text_entry: Entries) -> None:
    task = opened(text_entry, "feature-extraction")
    plain, normal = (asked(task, {"normalize": normalize}, text_input=SENTENCES) for normalize in (False, True))
    lengths = np.linalg.norm(plain["embedding"], axis=1)
    np.testing.assert_allclose(plain["embedding"] / lengths[:, None], normal["embedding"], atol=1e-6)
    assert np.abs(lengths - 1).max() > 0.1
    assert [result_of(item) for item in plain["result"]] == [pytest.approx(row) for row in plain["embedding"].tolist()]


def test_what_is_not_asked_for_is_not_made(text_entry: Entries) -> None:
    task = opened(text_entry, "text-classification")
    tensors = {"text_input": np.array([SENTENCES[0].encode()], object)}
    assert "result" not in task.answer(tensors, {"scores"}) and "result" in task.answer(tensors, {"scores", "result"})


@pytest.mark.parametrize(
    ("task", "inputs", "parameters", "field"),
    [
        ("feature-extraction", {"text_input": ["a"]}, {"truncate": True}, "parameters.truncate"),
        ("feature-extraction", {"text_input": ["a"]}, {"normalize": 1}, "parameters.normalize"),
        ("text-classification", {"text_input": ["a"]}, {"top_k": 0}, "parameters.top_k"),
        ("text-classification", {"text_input": ["a"]}, {"function_to_apply": "relu"}, "parameters.function_to_apply"),
        ("zero-shot-classification", {"text_input": ["a"], "candidate_labels": []}, {}, "candidate_labels"),
        ("zero-shot-classification", {"text_input": ["a"]}, {}, "candidate_labels"),
        (
            "zero-shot-classification",
            {"text_input": ["a"], "candidate_labels": ["b"]},
            {"hypothesis_template": "{0.__class__}"},
            "parameters.hypothesis_template",
        ),
        ("token-classification", {"text_input": ["a"]}, {"aggregation_strategy": "some"}, "parameters.aggregation_strategy"),
        ("token-classification", {"text_input": ["a"]}, {"stride": 3}, "parameters.stride"),
        ("fill-mask", {"text_input": ["no mask here"]}, {}, "text_input"),
        ("fill-mask", {"text_input": ["[MASK]"]}, {"top_k": 101}, "parameters.top_k"),
        ("fill-mask", {"text_input": ["[MASK]"]}, {"targets": ["the market"]}, "parameters.targets"),
        ("fill-mask", {"text_input": ["[MASK]"]}, {"targets": []}, "parameters.targets"),
        ("question-answering", {"question": ["a", "b"], "context": ["c"]}, {}, "context"),
        ("question-answering", {"question": ["a"], "context": ["c"]}, {"max_seq_len": 5}, "parameters.max_seq_len"),
        ("multiple-choice", {"text_input": ["a"], "choices": ["b"]}, {"top_k": 1}, "parameters.top_k"),
        ("multiple-choice", {"text_input": ["a"]}, {}, "choices"),
    ],
)
def test_what_a_task_does_not_take_is_refused_by_name(
    text_entry: Entries, task: str, inputs: dict[str, list[str]], parameters: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refused) as refused:
        asked(opened(text_entry, task), parameters, **inputs)
    assert refused.value.field == field and refused.value.expected and refused.value.found is not None


def test_masks_and_candidates_may_not_multiply_without_end(text_entry: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    task, texts = opened(text_entry, "fill-mask"), ["the [MASK] sells [MASK]"]
    tokens = int(asked(task, {"top_k": 1}, text_input=texts)["prompt_tokens"][0])
    monkeypatch.setattr("predict.tokens.MAX_WRITTEN", 2 * 3 * tokens)
    assert len(results(task, {"top_k": 3}, text_input=texts)[0][1]) == 3
    with pytest.raises(Refused, match=str(2 * 4 * tokens)):
        results(task, {"top_k": 4}, text_input=texts)
