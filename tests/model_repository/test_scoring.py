"""A given text is scored as transformers scores it, whatever else is computed, and nothing else is told."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generate.call import Call, read_call
from generate.engine import Engine
from generate.generation import Generation, Piece
from generate.model_rows import rows_of
from generate.scoring import Scoring
from generate.shared import PART
from opening.entry import OpenEntry, open_entry
from opening.refusal import Refused
from tests.fixtures_triton import Converted, convert_model, tiny_gpt2
from tests.model_repository.calls import CACHE_BYTES, scored, scored_call

__all__ = ["tiny_gpt2"]

FP32_BOUND = 1e-4
"""Nats a token of a mean loss. Measured: 4e-7 on the small model."""
INT8_BOUND = 0.1
"""Nats a token. Measured on the small model: 1.2e-03; its eight-bit weights do that, not the scoring."""
TEXTS = (
    "The market",
    "A buyer pays, calls, and",
    "Ünïcödé 😀",
    "the log remembers every call, and anyone may check it.",
)


def losses(model: Path, texts: list[str] | tuple[str, ...]) -> list[float]:
    """Mean loss of each text, as transformers computes it."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    reference = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            found.append(float(reference(input_ids=ids, labels=ids).loss))
    return found


def loss_of(piece: Piece) -> float:
    return -float(np.mean(piece.logprobs[1:]))


def numbered(*prompt: int) -> Call:
    return scored_call(prompt)


def decode(tokens: list[int]) -> str:
    return "".join(f"<{token}>" for token in tokens)


def scores_of(tokens: int, vocabulary: int = 5) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 2, (tokens, vocabulary)).astype(np.float32)


@pytest.mark.parametrize("parts", [(4,), (1, 3), (3, 1), (1, 1, 1, 1)])
def test_parts_of_a_text_give_what_the_whole_gives(parts: tuple[int, ...]) -> None:
    scoring, scores = Scoring(numbered(1, 4, 0, 2), decode), scores_of(4)
    pieces, begin = [], 0
    for size in parts:
        assert not scoring.is_finished
        pieces.append(scoring.take(scores[begin : begin + size]))
        begin += size
    assert scoring.is_finished and pieces[:-1] == [None] * (len(parts) - 1)
    piece = pieces[-1]
    assert piece is not None
    wide = scores.astype(np.float64)
    expected = [wide[at, token] - np.log(np.exp(wide[at]).sum()) for at, token in ((0, 4), (1, 0), (2, 2))]
    np.testing.assert_allclose(piece.logprobs, [0.0, *expected], atol=1e-6)
    assert (piece.text, piece.token_ids, piece.token_texts) == ("", (1, 4, 0, 2), ("<1>", "<4>", "<0>", "<2>"))
    assert (piece.completion_tokens, piece.finish_reason) == (0, "length")


def test_one_token_has_nothing_before_it() -> None:
    piece = Scoring(numbered(3), decode).take(scores_of(1))
    assert piece is not None and piece.logprobs == (0.0,)


def test_what_comes_after_the_text_changes_nothing() -> None:
    scores = scores_of(3)
    others = np.concatenate([scores[:2], scores_of(1) * 7])
    assert Scoring(numbered(1, 2, 3), decode).take(scores) == Scoring(numbered(1, 2, 3), decode).take(others)


@pytest.mark.parametrize("broken", [np.nan, -np.inf])
def test_a_score_that_is_no_number_is_an_error_and_no_answer(broken: float) -> None:
    scores = scores_of(2)
    scores[0, 2] = broken
    with pytest.raises(ValueError, match="no number"):
        Scoring(numbered(1, 2), decode).take(scores)


def asked(entry: OpenEntry, text: str, **tensors: Any) -> Call:
    given = {"text_input": np.array([text.encode()], object), "score": np.array([True])}
    return read_call({**given, **{name: np.array([value]) for name, value in tensors.items()}}, entry)


@pytest.mark.slow
def test_the_loss_is_that_of_transformers(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    found = [loss_of(scored(entry, asked(entry, text))) for text in TEXTS]
    np.testing.assert_allclose(found, losses(tiny_gpt2.model, TEXTS), atol=FP32_BOUND, rtol=0)
    assert len({round(loss) for loss in found}) > 1, "texts that are all as likely prove little"


@pytest.mark.slow
def test_a_text_may_fill_the_whole_context_and_no_more(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    context, text = int(entry.detail("context_length")), "market "
    while len(entry.tokenizer.encode(text * 2).ids) <= context:
        text *= 2
    while len(entry.tokenizer.encode(text).ids) < context:
        text += "a "
    whole = scored(entry, asked(entry, text))
    assert len(whole.token_ids) == context
    np.testing.assert_allclose(loss_of(whole), losses(tiny_gpt2.model, [text])[0], atol=FP32_BOUND)
    with pytest.raises(Refused) as refused:
        asked(entry, text + " and one more")
    assert (refused.value.field, refused.value.code) == ("text_input", "prompt_too_long")


@pytest.mark.slow
def test_a_conversation_cannot_be_scored(tiny_gpt2: Converted) -> None:
    tensors = {"messages": np.array([b'[{"role": "user", "content": "hello"}]'], object), "score": np.array([True])}
    with pytest.raises(Refused, match="score"):
        read_call(tensors, open_entry(tiny_gpt2.entry))


@pytest.mark.slow
def test_the_texts_of_the_tokens_are_the_text(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    for text in TEXTS:
        assert "".join(scored(entry, asked(entry, text)).token_texts) == text


class Heard:
    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.error: BaseException | None = None
        self.is_over = threading.Event()

    def is_cancelled(self) -> bool:
        return False

    def deliver(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if piece.finish_reason:
            self.is_over.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.is_over.set()


@pytest.mark.slow
def test_scoring_and_generating_share_an_engine_and_change_nothing_of_each_other(tiny_gpt2: Converted) -> None:
    entry, chances = open_entry(tiny_gpt2.entry), np.random.default_rng(11)
    ends = frozenset(entry.detail("eos_token_ids"))
    vocabulary = int(entry.detail("vocabulary"))

    def work(number: int) -> Generation | Scoring:
        prompt = [int(token) for token in np.random.default_rng(number).integers(3, vocabulary, size=5 + 7 * (number % 6))]
        if number % 2:
            return Scoring(scored_call(prompt), entry.tokenizer.decode)
        drawn = {"max_tokens": 12, "temperature": 0.9, "seed": number}
        call = Call(tuple(prompt), len(prompt), {}, top_p=1.0, top_k=0, stops=(), is_streamed=True, has_logprobs=True, **drawn)
        return Generation(call, entry.tokenizer.decode, ends, seed=0)

    def told(numbers: list[int]) -> list[list[tuple[int, float]]]:
        engine = Engine(rows_of(entry, CACHE_BYTES), most_waiting=64)
        heard = [Heard() for _ in numbers]
        try:
            for number, each in zip(numbers, heard, strict=True):
                engine.add(work(number), each)
            assert all(each.is_over.wait(30) for each in heard)
            assert engine.counts().failed == 0
        finally:
            engine.close()
        return [[pair for piece in each.pieces for pair in zip(piece.token_ids, piece.logprobs, strict=True)] for each in heard]

    alone = [told([number])[0] for number in range(12)]
    assert all(alone)
    for _ in range(8):
        mix = [int(number) for number in chances.permutation(12)]
        assert told(mix) == [alone[number] for number in mix]


def long_texts(folder: Path) -> list[str]:
    """Paragraphs of more than two parts of a prompt, which the tokenizer cuts to fewer tokens than the context."""
    lines = (folder.parent / "wikitext-2" / "test.clean.txt").read_text(encoding="utf-8").split("\n")
    return [line.strip()[:600] for line in lines if len(line) > 700][:6]


def small_model(test_data: Path) -> Path:
    model = test_data / "gpt2-wikitext-mini"
    if not model.is_dir() or not (test_data / "wikitext-2").is_dir():
        pytest.skip("no gpt2-wikitext-mini and wikitext-2: run `POSTHUMAN_TEST_DATA=FOLDER make test`")
    return model


@pytest.mark.long
@pytest.mark.parametrize(("precision", "bound"), [("fp32", FP32_BOUND), ("int8", INT8_BOUND)])
def test_a_trained_models_loss_on_real_text_is_that_of_transformers(
    test_data: Path, tmp_path: Path, precision: str, bound: float
) -> None:
    model = small_model(test_data)
    entry = open_entry(convert_model(model, tmp_path / "out", "--precision", precision))
    texts = long_texts(model)
    pieces = [scored(entry, asked(entry, text)) for text in texts]
    assert max(len(piece.token_ids) for piece in pieces) > 2 * PART
    found, expected = [loss_of(piece) for piece in pieces], losses(model, texts)
    np.testing.assert_allclose(found, expected, atol=bound, rtol=0)
    assert 1 < np.mean(found) < 7, "it was trained on such text"


@pytest.mark.long
def test_a_cache_that_grows_gives_the_same_loss(tiny_gpt2: Converted, tmp_path: Path) -> None:
    entry = open_entry(convert_model(tiny_gpt2.model, tmp_path / "out", "--kv-cache", "grown"))
    found = [loss_of(scored(entry, asked(entry, text))) for text in TEXTS]
    np.testing.assert_allclose(found, losses(tiny_gpt2.model, TEXTS), atol=FP32_BOUND, rtol=0)
