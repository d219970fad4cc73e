"""Our loop and our post-processing against transformers, on converted entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.coverage.vocabulary import WORDS
from generate.call import read_call
from generate.generation import Piece
from opening.entry import OpenEntry, open_entry
from predict.tasks import task_of
from tests.fixtures_triton import (
    Converted,
    convert_model,
    tiny_answerer,
    tiny_classifier,
    tiny_embedder,
    tiny_gpt2,
    tiny_model,
)
from tests.model_repository.calls import pieces_of

__all__ = ["tiny_answerer", "tiny_classifier", "tiny_embedder", "tiny_gpt2"]

pytestmark = pytest.mark.slow

PROMPTS = [
    "The market",
    "A buyer pays, calls, and",
    "42",
    "Ünïcödé 😀",
    "the log remembers every call, and anyone may check it. " * 2,
]


def run(entry: OpenEntry, prompt: str, max_tokens: int, **settings: Any) -> list[Piece]:
    kinds = {
        "temperature": np.float32,
        "top_p": np.float32,
        "min_p": np.float32,
        "seed": np.int64,
        "logprobs": bool,
        "stop": object,
    }
    kinds |= dict.fromkeys(("repetition_penalty", "frequency_penalty", "presence_penalty"), np.float32)
    tensors = {name: np.array([value], kinds.get(name, np.int32)) for name, value in {"temperature": 0, **settings}.items()}
    call = read_call({"text_input": np.array([prompt.encode()], object), "max_tokens": np.array([max_tokens]), **tensors}, entry)
    return pieces_of(entry, call)


def check_greedy(model: Path, entry: OpenEntry, prompts: list[str], wanted: int) -> None:
    import torch
    import transformers

    torch.set_num_threads(1)  # small steps: a second thread costs more than it brings
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    reference = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        length = inputs["input_ids"].shape[1]
        max_tokens = min(wanted, entry.detail("context_length") - length)
        with torch.inference_mode():
            expected = reference.generate(**inputs, do_sample=False, max_new_tokens=max_tokens, pad_token_id=0)[0][length:].tolist()
        pieces = run(entry, prompt, max_tokens)
        assert [token for piece in pieces for token in piece.token_ids] == expected, prompt
        assert pieces[-1].completion_tokens == len(expected)
        assert pieces[-1].finish_reason == ("stop" if expected[-1] in entry.detail("eos_token_ids") else "length")


def test_greedy_gives_the_tokens_that_transformers_gives(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    check_greedy(tiny_gpt2.model, entry, PROMPTS[:4], 48)
    tokens = {token for piece in run(entry, PROMPTS[0], 40) for token in piece.token_ids}
    assert len(tokens) > 8, "a model that repeats itself proves little"


def test_a_repetition_penalty_gives_transformers_tokens_and_each_comes_with_its_probability(tiny_gpt2: Converted) -> None:
    import torch
    import transformers

    entry = open_entry(tiny_gpt2.entry)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_gpt2.model)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2.model).eval()
    for prompt in PROMPTS[:3]:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        length = inputs["input_ids"].shape[1]
        asked = {"do_sample": False, "max_new_tokens": 40, "repetition_penalty": 1.5, "pad_token_id": 0}
        with torch.inference_mode():
            made = reference.generate(**inputs, **asked, output_logits=True, return_dict_in_generate=True)
        expected = made.sequences[0][length:].tolist()
        pieces = run(entry, prompt, 40, repetition_penalty=1.5, logprobs=True)
        assert [token for piece in pieces for token in piece.token_ids] == expected
        assert expected != [token for piece in run(entry, prompt, 40) for token in piece.token_ids]
        raw = [float(torch.log_softmax(scores[0], -1)[token]) for scores, token in zip(made.logits, expected, strict=True)]
        # the bound of a conversion is 1e-4 of the largest logit, and these are below 100
        np.testing.assert_allclose([value for piece in pieces for value in piece.logprobs], raw, atol=2e-2, rtol=0)


SETTINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 1.2, "seed": 9, "min_p": 0.02, "presence_penalty": 1.0},
    {"temperature": 1.2, "seed": 9, "top_k": 30, "top_p": 0.95, "repetition_penalty": 0.8},
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_stop_text_across_tokens_cuts_the_same_answer_with_everything_else_on(
    tiny_gpt2: Converted, settings: dict[str, Any]
) -> None:
    """Every place of the text is a stop text once; most begin and end inside of tokens."""
    entry = open_entry(tiny_gpt2.entry)
    whole = run(entry, "The market", 30, **settings)
    tokens = [token for piece in whole for token in piece.token_ids]
    text = "".join(piece.text for piece in whole)
    for at in range(0, len(text) - 4, 3):
        stop = text[at : at + 4]
        fields = {"logprobs": True, "stop": stop.encode(), **settings}
        pieces = run(entry, "The market", 30, **fields)
        assert "".join(piece.text for piece in pieces) == text[: text.index(stop)], stop
        assert pieces[-1].finish_reason == "stop"
        told = [token for piece in pieces for token in piece.token_ids]
        assert told == tokens[: len(told)], "asking for probabilities and stopping change no token"
        texts = "".join(one for piece in pieces for one in piece.token_texts)
        assert text.startswith(texts) and stop in texts
        assert [len(piece.logprobs) for piece in pieces] == [len(piece.token_ids) for piece in pieces]


@pytest.mark.parametrize("family", ["gptj", "llama", "opt"])
def test_greedy_equals_transformers_in_other_families(family: str, tmp_path: Path) -> None:
    head = "ForCausalLM"
    spread = {"init_std": 0.5} if family == "opt" else {"initializer_range": 0.5}
    model = tiny_model(tmp_path / "model", family, head, **spread)
    check_greedy(model, open_entry(convert_model(model, tmp_path / "out")), PROMPTS[:3], 32)


def test_greedy_equals_transformers_on_a_trained_model(test_data: Path, tmp_path: Path) -> None:
    model = test_data / "gpt2-wikitext-mini"
    if not model.is_dir():
        pytest.skip("no gpt2-wikitext-mini: run `POSTHUMAN_TEST_DATA=FOLDER make test`")
    entry = open_entry(convert_model(model, tmp_path / "out"))
    check_greedy(model, entry, ["The history of", "In 1998 , the", "Robert Boulter is an English film ,"], 120)


def test_the_same_seed_gives_the_same_text_and_another_seed_another(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    texts = [
        "".join(piece.text for piece in run(entry, "The market", 40, temperature=1.0, top_p=0.95, seed=seed)) for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_completion_is_the_text_of_its_tokens(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    pieces = run(entry, "The market", 50, temperature=2.0, seed=3)
    tokens = [token for piece in pieces for token in piece.token_ids]
    assert "".join(piece.text for piece in pieces) == entry.tokenizer.decode(tokens)


def test_a_call_for_more_than_the_room_left_ends_at_the_context(tiny_gpt2: Converted) -> None:
    entry = open_entry(tiny_gpt2.entry)
    length = len(entry.tokenizer.encode(PROMPTS[1]).ids)
    last = run(entry, PROMPTS[1], 64, temperature=1.0, seed=5)[-1]
    assert last.finish_reason == "stop" or (last.completion_tokens, last.finish_reason) == (64 - length, "length")


def texts(name: str, items: list[str]) -> dict[str, np.ndarray]:
    return {name: np.array([item.encode() for item in items], object)}


SENTENCES = ["The market sells.", "A buyer pays, calls, and keeps the receipt.", "42", "Ünïcödé 😀"]


def test_embeddings_equal_those_of_torch(tiny_embedder: Converted) -> None:
    import torch
    import transformers

    entry = open_entry(tiny_embedder.entry)
    found = task_of(entry).answer(texts("text_input", SENTENCES), {"result"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_embedder.model)
    model = transformers.AutoModel.from_pretrained(tiny_embedder.model).eval()
    for index, sentence in enumerate(SENTENCES):
        inputs = tokenizer(sentence, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0].numpy()
        pooled = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[entry.detail("pooling")]
        if entry.detail("normalize"):
            pooled /= np.linalg.norm(pooled)
        np.testing.assert_allclose(found["embedding"][index], pooled, rtol=1e-4, atol=1e-5)
        assert found["prompt_tokens"][index] == inputs["input_ids"].shape[1]


def test_classification_equals_the_pipeline_of_transformers(tiny_classifier: Converted) -> None:
    import transformers

    entry = open_entry(tiny_classifier.entry)
    found = task_of(entry).answer(texts("text_input", SENTENCES), {"result"})
    expected = transformers.pipeline("text-classification", model=str(tiny_classifier.model), top_k=None)(SENTENCES)
    for index, rows in enumerate(expected):
        scores = {row["label"]: row["score"] for row in rows}
        np.testing.assert_allclose(found["scores"][index], [scores[label] for label in entry.detail("labels")], atol=1e-5)
        assert found["label"][index].decode() == max(scores, key=lambda label: scores[label])


def test_answers_equal_the_pipeline_of_transformers(tiny_answerer: Converted) -> None:
    import transformers

    entry = open_entry(tiny_answerer.entry)
    context = WORDS[:80]
    questions = ["What does the market sell?", "Who pays?", "Who keeps it?"]
    found = task_of(entry).answer({**texts("question", questions), **texts("context", [context] * len(questions))}, {"result"})
    pipeline = transformers.pipeline("question-answering", model=str(tiny_answerer.model))
    for index, question in enumerate(questions):
        expected = pipeline(question=question, context=context)
        assert found["score"][index] == pytest.approx(expected["score"], rel=1e-3)
        start, end = found["start"][index], found["end"][index]
        assert found["answer"][index].decode() == context[start:end] == expected["answer"].strip()
