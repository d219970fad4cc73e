"""Text comes whole: no half characters, no stop strings, however the tokens divide it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from generate.detokenise import StopFinder, TextStream

ALPHABET = "aé€😀 \n\u0301한"


def byte_tokenizer() -> Tokenizer:
    """Every byte is one token, so every character of several bytes is divided."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def fallback_tokenizer() -> Tokenizer:
    """As sentencepiece models write: a space before each word, unknown characters as bytes."""
    vocabulary = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3, **{f"<0x{byte:02X}>": 4 + byte for byte in range(256)}}
    made = Tokenizer(models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


BYTES, FALLBACK = byte_tokenizer(), fallback_tokenizer()


def streamed(tokenizer: Tokenizer, prompt: list[int], tokens: list[int]) -> list[str]:
    stream = TextStream(tokenizer.decode, prompt)
    return [*(stream.add(token) for token in tokens), stream.end()]


@given(st.text(ALPHABET, max_size=40), st.text(ALPHABET, max_size=10))
def test_the_pieces_together_are_the_text(text: str, prompt: str) -> None:
    pieces = streamed(BYTES, BYTES.encode(prompt).ids, BYTES.encode(text).ids)
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


@given(st.lists(st.integers(0, 255), max_size=60))
def test_bytes_that_are_no_characters_come_as_the_decoder_shows_them(tokens: list[int]) -> None:
    assert "".join(streamed(BYTES, [], tokens)) == BYTES.decode(tokens)


def test_a_character_comes_with_its_last_byte() -> None:
    assert streamed(BYTES, [], BYTES.encode("é😀").ids) == ["", "é", "", "", "", "😀", ""]


def test_a_character_that_is_cut_off_shows_as_replacement_at_the_end() -> None:
    assert streamed(BYTES, [], BYTES.encode("a😀").ids[:-1]) == ["a", "", "", "", "\ufffd"]


def test_a_replacement_character_of_the_model_itself_comes_through() -> None:
    assert "".join(streamed(BYTES, [], BYTES.encode("a\ufffdb").ids)) == "a\ufffdb"


def test_the_space_before_the_first_word_is_kept_after_a_prompt() -> None:
    prompt, completion = FALLBACK.encode("a").ids, FALLBACK.encode("a").ids
    assert "".join(streamed(FALLBACK, prompt, completion)) == " a"


@given(st.text("a€😀", max_size=60))
def test_characters_written_as_byte_tokens_come_whole(text: str) -> None:
    tokens = FALLBACK.encode("a " + text).ids
    pieces = streamed(FALLBACK, tokens[:2], tokens[2:])
    assert "\ufffd" not in "".join(pieces)
    assert FALLBACK.decode(tokens[:2]) + "".join(pieces) == FALLBACK.decode(tokens)


stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(edges)]


def let_through(stop_texts: list[str], pieces: list[str]) -> tuple[str, bool]:
    finder, released = StopFinder(stop_texts), ""
    for piece in pieces:
        text, is_stopped = finder.add(piece)
        released += text
        if is_stopped:
            return released, True
    return released + finder.end(), False


@given(stops, st.text("abc", max_size=40), st.lists(st.integers(0, 100), max_size=20))
def test_how_the_tokens_divide_the_text_changes_nothing(stop_texts: list[str], text: str, places: list[int]) -> None:
    assert let_through(stop_texts, cut(text, places)) == let_through(stop_texts, [text])


@given(stops, st.text("abc", max_size=40), st.lists(st.integers(0, 100), max_size=20))
def test_no_stop_text_is_let_through_and_nothing_else_is_lost(stop_texts: list[str], text: str, places: list[int]) -> None:
    released, is_stopped = let_through(stop_texts, cut(text, places))
    assert text.startswith(released)
    assert not any(stop in released for stop in stop_texts)
    assert is_stopped == any(stop in text for stop in stop_texts)
    assert is_stopped or released == text


@pytest.mark.parametrize(
    ("stop_texts", "pieces", "released"),
    [
        (["\n\n"], ["one\n", "\ntwo"], "one"),
        (["END"], ["x E", "N", "D y"], "x "),
        (["END"], ["x E", "N", "d y"], "x ENd y"),
        (["b", "abc"], ["abc"], "a"),
        (["abc", "bc"], ["zabc"], "z"),
    ],
)
def test_a_stop_text_over_token_borders_is_found(stop_texts: list[str], pieces: list[str], released: str) -> None:
    assert let_through(stop_texts, pieces)[0] == released


def test_what_cannot_begin_a_stop_text_is_not_held_back() -> None:
    finder = StopFinder(["<end>"])
    assert finder.add("a <b") == ("a <b", False)
    assert finder.add(" <e") == (" ", False)
    assert finder.add("nx") == ("<enx", False)
