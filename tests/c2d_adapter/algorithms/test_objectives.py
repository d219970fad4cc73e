"""Models that hide words or write texts learn too: what they are asked for, and that it follows from seed and step alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartConfig, LEDConfig

from c2d_adapter.algorithms import checkpoint, train
from c2d_adapter.algorithms.objectives import CONTINUATION, MASKED_TOKENS, NEXT_TOKEN, Lesson, lesson_of, objective_of
from c2d_adapter.algorithms.plain_model import context_of, open_model
from c2d_adapter.job_io import FAILED, JobFailed, Place
from tests.c2d_adapter.jobs import job_folder, said, tensors, widest_difference
from tests.converters.seq2seq_models import tiny_seq2seq
from tests.converters.tiny_models import tiny_model, write_tokenizer

QUICK = {"steps": 40, "batch_size": 4, "sequence_length": 32, "learning_rate": 3e-3}
HIDDEN = -100


def test_a_sequence_is_no_longer_than_twice_what_a_decoder_of_its_own_length_can_write() -> None:
    config = LEDConfig(max_encoder_position_embeddings=16_384, max_decoder_position_embeddings=1_024)
    assert context_of(SimpleNamespace(config=config, named_modules=list)) == 2_048
    assert context_of(SimpleNamespace(config=BartConfig(), named_modules=list)) == 1_024


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seq2seq(tmp_path_factory.mktemp("models") / "tiny-t5", "t5")


@pytest.fixture(scope="module")
def tiny_bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_seq2seq(tmp_path_factory.mktemp("models") / "tiny-bart", "bart", init_std=0.02)


@pytest.fixture(scope="module")
def wide_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Far enough from saying nothing that adapters have something to learn: they leave its table of words as it is."""
    folder = tmp_path_factory.mktemp("models") / "wide-bert"
    return tiny_model(folder, "bert", "ForMaskedLM", words=True, initializer_range=0.3)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("family", "objective"), [("wide_bert", "masked_tokens"), ("tiny_t5", "continuation"), ("tiny_bart", "continuation")]
)
def test_a_model_of_each_kind_learns_what_it_reads(
    family: str, objective: str, method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    asked = {**QUICK, "learning_rate": 1e-2, "steps": 80} if method == "lora" else QUICK
    folder = job_folder(tmp_path / "job", request.getfixturevalue(family), **asked, method=method)
    assert train.main(folder, Place()) == 0
    result = said(folder, "result")
    assert result["objective"] == objective
    assert result["last_loss"] < result["first_loss"] - (0.1 if method == "full" else 0.03)
    before, after = tensors(folder.weights), tensors(folder.out)
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in before.items()}
    assert {path.name for path in folder.out.iterdir()} == {path.name for path in folder.weights.iterdir()}


class _Killed(BaseException):
    """Past every handler, as a signal would be."""


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_t5"])
def test_a_training_of_each_kind_that_was_cut_off_ends_as_an_undisturbed_one(
    family: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, folder = (
        job_folder(tmp_path / name, request.getfixturevalue(family), **{**QUICK, "steps": 12}) for name in ("one", "two")
    )
    assert train.main(undisturbed, Place()) == 0
    real = checkpoint.save

    def save_and_die(into: Path, step: int, state: dict[str, Any]) -> None:
        real(into, step, state)
        if step == 7:
            raise _Killed

    monkeypatch.setattr(checkpoint, "save", save_and_die)
    with pytest.raises(_Killed):
        train.main(folder, Place(checkpoint_s=0))
    assert checkpoint.newest_step(folder.checkpoints) == 7
    assert train.main(folder, Place(checkpoint_s=0)) == 0
    assert widest_difference(undisturbed.out, folder.out) == 0.0


def masking(**changes: Any) -> Lesson:
    plain: dict[str, Any] = {
        "vocabulary": 1000,
        "before": (2,),
        "after": (3,),
        "special": (0, 1, 2, 3, 4),
        "start": None,
        "mask": 4,
    }
    return Lesson(**{"objective": MASKED_TOKENS, **plain, "extras": {}, **changes})


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(1, 40), st.integers(0, 10**6))
def test_each_sequence_hides_as_many_words_and_no_special_token(seed: int, step: int, length: int, content: int) -> None:
    blocks = numpy.random.default_rng(content).integers(0, 1000, (3, length))
    blocks[:, 0] = 17  # a word at least
    inputs, labels = masking().given(blocks, seed, step)
    shown, asked = inputs["input_ids"][:, 1:-1], labels[:, 1:-1]
    assert inputs["input_ids"].dtype == labels.dtype == numpy.int64
    assert (inputs["input_ids"][:, 0] == 2).all() and (inputs["input_ids"][:, -1] == 3).all()
    assert (labels[:, [0, -1]] == HIDDEN).all()
    assert ((asked != HIDDEN).sum(1) == max(1, round(0.15 * length))).all()
    assert (asked[asked != HIDDEN] == blocks[asked != HIDDEN]).all()
    assert (shown[asked == HIDDEN] == blocks[asked == HIDDEN]).all()
    for row, was in zip(asked, blocks, strict=True):
        words = (was > 4).sum()
        assert (row[row != HIDDEN] <= 4).sum() == max(0, max(1, round(0.15 * length)) - words)
    again = masking().given(blocks, seed, step)
    assert (again[0]["input_ids"] == inputs["input_ids"]).all() and (again[1] == labels).all()


def test_of_ten_hidden_words_eight_are_the_mask_one_another_and_one_itself_and_each_step_hides_others() -> None:
    blocks = numpy.random.default_rng(0).integers(5, 1000, (400, 100))
    inputs, labels = masking().given(blocks, 0, 0)
    shown, asked = inputs["input_ids"][:, 1:-1], labels[:, 1:-1]
    is_hidden = asked != HIDDEN
    shares = [(shown[is_hidden] == 4).mean(), (shown[is_hidden] == blocks[is_hidden]).mean()]
    # 6,000 words: four standard deviations are 0.021 and 0.016; one word in a thousand of another is itself, or the mask.
    assert shares[0] == pytest.approx(0.8, abs=0.022) and shares[1] == pytest.approx(0.1, abs=0.017)
    for seed, step in ((0, 1), (1, 0)):
        other = masking().given(blocks, seed, step)[1][:, 1:-1] != HIDDEN
        assert (other & is_hidden).sum() / is_hidden.sum() == pytest.approx(0.15, abs=0.02)  # as chance has it


def test_an_encoder_reads_the_first_half_and_its_decoder_writes_the_second() -> None:
    lesson = masking(objective=CONTINUATION, before=(), start=9)
    inputs, labels = lesson.given(numpy.array([[11, 12, 13, 14, 15]]), 0, 0)
    assert inputs["input_ids"].tolist() == [[11, 12, 3]]
    assert inputs["decoder_input_ids"].tolist() == [[9, 13, 14]]
    assert labels.tolist() == [[13, 14, 15]]


def test_what_stands_around_a_text_is_what_its_tokenizer_puts_there(tiny_bert: Path, tiny_gpt2: Path) -> None:
    model, tokenizer, objective = open_model(tiny_bert)
    lesson = lesson_of(objective, model, tokenizer)
    assert (lesson.before, lesson.after, lesson.mask, lesson.block_length(32)) == ((2,), (3,), 4, 30)
    model, tokenizer, objective = open_model(tiny_gpt2)
    lesson = lesson_of(objective, model, tokenizer)
    assert (objective, lesson.before, lesson.after, lesson.block_length(32)) == (NEXT_TOKEN, (), (), 32)


def test_the_loss_of_a_decoder_is_the_one_its_own_class_states_where_that_is_right(tiny_gpt2: Path) -> None:
    model, tokenizer, objective = open_model(tiny_gpt2)
    blocks = numpy.random.default_rng(0).integers(5, 300, (3, 24))
    lesson, ids = lesson_of(objective, model, tokenizer), torch.from_numpy(blocks)
    inputs, labels = lesson.given(blocks, 0, 0)
    found = lesson.loss(model.eval(), {"input_ids": ids}, torch.from_numpy(labels))
    assert list(inputs) == ["input_ids"] and (inputs["input_ids"] == blocks).all()
    assert found.detach() == model(input_ids=ids, labels=ids, use_cache=False).loss.detach()


def test_a_decoder_whose_own_loss_compares_a_token_with_itself_is_asked_for_the_next(tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    shape = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "dropout": 0.0}
    config = transformers.BartConfig(vocab_size=320, max_position_embeddings=64, is_decoder=True, is_encoder_decoder=False, **shape)
    model = transformers.BartForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    opened, tokenizer, objective = open_model(tmp_path)
    blocks = numpy.random.default_rng(0).integers(5, 300, (2, 16))
    ids, lesson = torch.from_numpy(blocks), lesson_of(objective, opened, tokenizer)
    logits = model(input_ids=ids).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 320), ids[:, 1:].reshape(-1))
    found = lesson.loss(opened.eval(), {"input_ids": ids}, torch.from_numpy(lesson.given(blocks, 0, 0)[1]))
    assert objective is NEXT_TOKEN and abs(float(found.detach()) - float(expected.detach())) < 1e-6


def test_a_decoder_whose_answers_depend_on_later_tokens_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", tiny_bert, **QUICK)
    path = folder.weights / "config.json"
    path.chmod(0o644)
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["BertLMHeadModel"]}))
    assert train.main(folder, Place()) == FAILED
    told = said(folder, "failure")
    assert told["code"] == "unsupported_model" and "later ones" in told["sentence"]


def config_of(model_type: str, *architectures: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, architectures=list(architectures) or None)


def test_the_architecture_says_what_is_learned() -> None:
    found = {
        name: objective_of(config_of(*name.split())).name
        for name in (
            *("gpt2 GPT2LMHeadModel", "gpt2", "bert BertForMaskedLM", "bert BertLMHeadModel"),
            *("t5 T5ForConditionalGeneration", "bart BartForConditionalGeneration", "bart BartForCausalLM", "distilbert"),
        )
    }
    assert list(found.values()) == [
        *("next_token", "next_token", "masked_tokens", "next_token"),
        *("continuation", "continuation", "next_token", "masked_tokens"),
    ]


@pytest.mark.parametrize(
    "named",
    ["vit ViTForImageClassification", "wav2vec2 Wav2Vec2ForCTC", "bert BertForSequenceClassification", "bert", "gpt2 GPT2Model"],
)
def test_a_model_of_another_kind_is_refused(named: str) -> None:
    with pytest.raises(JobFailed) as caught:
        objective_of(config_of(*named.split()))
    assert caught.value.code == "unsupported_model"


def test_a_model_that_lacks_a_mask_or_a_beginning_is_refused(tiny_bert: Path, tiny_t5: Path, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "bert", tiny_bert, **QUICK)
    path = folder.weights / "tokenizer_config.json"
    described = json.loads(path.read_text())
    described.pop("mask_token")
    path.chmod(0o644)
    path.write_text(json.dumps(described))
    assert train.main(folder, Place()) == FAILED
    assert said(folder, "failure")["code"] == "unsupported_model" and "hidden word" in said(folder, "failure")["sentence"]
    model, tokenizer, objective = open_model(tiny_t5)
    model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = None
    with pytest.raises(JobFailed, match="decoder begins"):
        lesson_of(objective, model, tokenizer)
