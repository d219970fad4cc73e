"""What an entry of a model that reads texts says, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import transformers

from converters.errors import ConversionFailed, ModelRefused, ParityFailed
from converters.kinds.facts import entailment_of, labels_of, mask_of, vocabulary_of
from converters.parity.compare import BOUNDS, LEAST_SPREAD, Spread, Worst
from converters.parity.prompts import fitting, tokens_in
from converters.parity.texts import batch_of
from converters.pipeline import convert
from converters.probes import read_probes
from tests.converters.tiny_models import tiny_model

DETAILS = {"pad_token_id": 1, "vocabulary": 50, "padding_side": "right"}


@pytest.mark.parametrize(
    ("labels", "entailment", "contradiction"),
    [
        (["contradiction", "neutral", "entailment"], 2, 0),
        (["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], 0, 2),
        (["neutral", "contradiction", "entailment"], 2, 1),
        (["entailment", "not_entailment"], 0, 1),
        (["not_entailment", "entailment"], 1, 0),
        (["entails", "neutral", "other"], 0, 2),
    ],
)
def test_labels_say_what_follows_and_what_contradicts(labels: list[str], entailment: int, contradiction: int) -> None:
    assert entailment_of(dict(enumerate(labels))) == {"entailment": entailment, "contradiction": contradiction}


def test_a_label_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(ModelRefused, match="plain characters"):
        labels_of({0: "good", 1: "\ud800"})


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["not_entailment", "neutral"], ["entailment"]])
def test_labels_without_entailment_are_refused(labels: list[str]) -> None:
    with pytest.raises(ModelRefused, match="'entail'"):
        entailment_of(dict(enumerate(labels)))


@pytest.mark.parametrize(("token", "number"), [(None, None), ("<mask>", None), ("<mask>", 50), ("<mask>", -1)])
def test_a_tokenizer_without_a_mask_in_the_models_vocabulary_is_refused(token: str | None, number: int | None) -> None:
    with pytest.raises(ModelRefused, match="mask token below 50"):
        mask_of(SimpleNamespace(mask_token=token, mask_token_id=number), 50)


@pytest.mark.parametrize("table", [torch.nn.Embedding(7, 2), SimpleNamespace(weight=torch.zeros(7, 2)), torch.zeros(3, 2)])
def test_the_vocabulary_is_the_tables_and_config_jsons_where_there_is_none(table: Any) -> None:
    assert vocabulary_of(SimpleNamespace(get_input_embeddings=lambda: table, config=SimpleNamespace(vocab_size=7))) == 7


def test_a_model_without_a_table_of_words_or_a_count_of_them_is_refused() -> None:
    letters = transformers.CanineModel(
        transformers.CanineConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    with pytest.raises(ModelRefused, match="expected a table of words or a vocab_size, found neither in CanineModel"):
        vocabulary_of(letters)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_has_full_shorter_and_shortest_rows_and_padding_only_outside_them(side: str) -> None:
    feeds = batch_of({**DETAILS, "padding_side": side}, (7, 12), numpy.random.default_rng(0))
    mask, ids = feeds["attention_mask"], feeds["input_ids"]
    assert mask.sum(axis=1).tolist() == [12, 8, 1, 12, 8, 1, 12]
    assert ((ids == 1) == (mask == 0)).all() and ids.max() < 50
    assert (mask[1:3, -1 if side == "left" else 0] == 1).all()


class Spaces:
    """A tokenizer of words, each a token, with one special token at each end."""

    def __call__(self, *texts: str, verbose: bool) -> dict[str, list[int]]:
        return {"input_ids": [0] * (2 + sum(len(text.split()) for text in texts))}


@pytest.mark.parametrize("room", [3, 4, 9, 100])
def test_a_prompt_fits_its_room(room: int) -> None:
    text = fitting(Spaces(), numpy.random.default_rng(1), 40, room)
    assert tokens_in(Spaces(), text) <= room and (room < 100 or len(text.split()) == 40)


def test_the_same_infinity_is_no_difference_and_another_is() -> None:
    expected = numpy.array([1.0, -numpy.inf], numpy.float32)
    worst = Worst("scores", BOUNDS["fp32"])
    worst.compare(expected.copy(), expected, (1, 2))
    assert worst.relative == 0
    for found in ([1.0, numpy.inf], [1.0, -3e38], [-numpy.inf, 1.0], [numpy.nan, -numpy.inf]):
        with pytest.raises(ParityFailed, match="scores"):
            worst.compare(numpy.array(found, numpy.float32), expected, (1, 2))


@pytest.mark.parametrize("apart", [0.0, 0.9 * LEAST_SPREAD])
def test_answers_that_lie_as_good_as_together_prove_nothing(apart: float) -> None:
    spread = Spread("scores")
    spread.note(numpy.array([[2.0, -numpy.inf], [2.0 - 2 * apart, -numpy.inf]]))
    with pytest.raises(ParityFailed, match=r"'scores' within .* alike for different texts: expected them to lie 1\.0e-03 apart"):
        spread.refuse_alike("texts")
    spread.note(numpy.array([[2.0, -numpy.inf], [2.0 - 2.2 * LEAST_SPREAD, -numpy.inf]]))
    spread.refuse_alike("texts")


@pytest.mark.slow
def test_a_model_that_says_the_same_of_every_text_is_refused(tmp_path: Path) -> None:
    """It would agree with any graph and any tokenizer."""
    folder = tiny_model(tmp_path / "model", "bert", "ForSequenceClassification")
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.normal_(model.classifier.bias)
    model.save_pretrained(folder)
    with pytest.raises(ConversionFailed, match="alike for different texts"):
        convert(str(folder), tmp_path / "out")


@pytest.mark.slow
def test_zero_shot_needs_a_model_that_was_trained_on_entailment(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "bert", "ForSequenceClassification", words=True, pad_token_id=0)
    with pytest.raises(ModelRefused, match="'entail'"):
        convert(str(folder), tmp_path / "out", task="zero-shot-classification")


@pytest.mark.slow
def test_fill_mask_needs_a_mask(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "bert", "ForMaskedLM")
    with pytest.raises(ModelRefused, match="mask token"):
        convert(str(folder), tmp_path / "out")


@pytest.mark.slow
def test_probes_are_the_same_again_and_leave_out_what_is_not_certain(tmp_path: Path) -> None:
    spread = {"words": True, "pad_token_id": 0}
    clear = tiny_model(tmp_path / "clear", "bert", "ForMaskedLM", initializer_range=0.5, **spread)
    found = read_probes(convert(str(clear), tmp_path / "out").folder)
    assert found == read_probes(convert(str(clear), tmp_path / "again").folder)
    assert all("token_ids" in {tensor.name for tensor in probe.outputs} for probe in found)
    even = tiny_model(tmp_path / "even", "bert", "ForMaskedLM", initializer_range=2e-5, **spread)
    for probe in read_probes(convert(str(even), tmp_path / "out").folder):
        assert {tensor.name for tensor in probe.outputs} == {"item", "scores", "prompt_tokens"}


@pytest.mark.slow
def test_a_token_of_which_pytorch_is_not_certain_is_in_no_probe(tmp_path: Path) -> None:
    even = tiny_model(tmp_path / "even", "gpt2", "LMHeadModel", initializer_range=0.0)
    found = read_probes(convert(str(even), tmp_path / "out").folder)
    assert len(found) == 3
    for probe in found:
        counts = {tensor.name: int.from_bytes(tensor.raw, "little") for tensor in probe.outputs}
        assert set(counts) == {"prompt_tokens", "completion_tokens"} and counts["completion_tokens"] == 1


@pytest.mark.slow
def test_greedy_probes_reach_32_tokens_and_end_at_the_context_or_an_end_token(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llama", "ForCausalLM", initializer_range=0.5)
    converted = convert(str(folder), tmp_path / "out")
    ends = set(converted.entry.details["eos_token_ids"])
    counts = []
    for probe in read_probes(converted.folder):
        told = {tensor.name: numpy.frombuffer(tensor.raw, "<i4").tolist() for tensor in probe.outputs}
        tokens, (count,), (length,) = told["token_ids"], told["completion_tokens"], told["prompt_tokens"]
        assert len(tokens) == count <= 32 and length + count <= 64 and not ends & set(tokens[:-1])
        asked = next(tensor for tensor in probe.inputs if tensor.name == "max_tokens")
        assert numpy.frombuffer(asked.raw, "<i4").tolist() == [count]
        counts.append(count)
    assert max(counts) == 32 and len({tensor.raw for probe in read_probes(converted.folder) for tensor in probe.inputs[:1]}) == 3


@pytest.mark.slow
def test_another_models_weights_do_not_pass_for_any_text_task(tmp_path: Path) -> None:
    from converters.export.load import load_model
    from converters.locate import locate
    from converters.parity.text import check_text
    from converters.source import stage
    from converters.tasks import TASKS

    for head, name in (("ForTokenClassification", "token-classification"), ("ForMultipleChoice", "multiple-choice")):
        one, other = (
            tiny_model(tmp_path / f"{name}-{seed}", "bert", head, seed=seed, words=True, pad_token_id=0) for seed in (0, 1)
        )
        converted = convert(str(one), tmp_path / "out")
        source = stage(locate(str(other), None, tmp_path / "cache"), tmp_path / f"staged-{name}")
        model = load_model(source, TASKS[name])
        with pytest.raises(ParityFailed, match="logits"):
            check_text(model, converted.folder / "1" / "model.onnx", TASKS[name], converted.entry.details, BOUNDS["fp32"])
        shutil.rmtree(converted.folder)
