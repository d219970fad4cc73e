"""Texts are read a part at a time, so that one call cannot take the memory of all."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from opening.entry import open_entry
from opening.refusal import Refused, TooLate
from predict import encode
from predict.encode import Encoder
from tests.make_smoke_entry import FOLDER


class Recording:
    """The entry's own tokenizer; `asked` has the texts of each time it was asked."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.asked = tokenizer, list[list[Any]]()

    def encode_batch(self, texts: list[Any], **options: Any) -> Any:
        self.asked.append(texts)
        return self.tokenizer.encode_batch(texts, **options)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setattr(encode, "_PART_CHARACTERS", 20)
    monkeypatch.setattr(encode, "MAX_CHARACTERS", 200)
    made = Encoder(open_entry(FOLDER))
    made._tokenizer = Recording(made._tokenizer)  # type: ignore[assignment]  # it is asked for nothing else
    return made


def asked(encoder: Encoder) -> list[list[Any]]:
    return encoder._tokenizer.asked  # type: ignore[attr-defined, no-any-return]  # a Recording


def test_texts_in_parts_are_the_texts_at_once(encoder: Encoder) -> None:
    texts = ["hello", "a longer text, alone", "hello world", "hello", "a"]
    whole = Encoder(open_entry(FOLDER)).encode(texts, "text_input")
    assert [one.ids for one in encoder.encode(texts, "text_input")] == [one.ids for one in whole]
    assert asked(encoder) == [["hello"], ["a longer text, alone"], ["hello world", "hello", "a"]]


def test_after_a_text_that_is_too_long_no_further_one_is_read(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_context_length", 8)
    with pytest.raises(Refused, match="item 1"):
        encoder.encode(["hello", "a " * 20, *["hello world"] * 9], "text_input")
    assert asked(encoder) == [["hello"], ["a " * 20]]


def test_a_text_counts_with_each_label_that_it_is_read_with(encoder: Encoder) -> None:
    with pytest.raises(Refused, match="at most 200 characters"):
        encoder.encode([("hello world", "label")] * 13, "text_input")
    assert asked(encoder) == []
    assert len(encoder.encode([("hello world", "label")] * 12, "text_input")) == 12


def test_who_waits_too_long_for_another_calls_texts_is_told_so(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_MANY_CHARACTERS", 20)
    with encoder._turn(21, math.inf):
        with pytest.raises(TooLate):
            encoder.encode(["a " * 20], "text_input", time.monotonic() + 0.02)
        assert asked(encoder) == []
        assert len(encoder.encode(["a " * 10], "text_input", time.monotonic())) == 1, "few characters wait for nobody"
    assert len(encoder.encode(["a " * 20], "text_input", time.monotonic())) == 1, "nobody is to be waited for"
