"""A text never has more tokens than its length allows: laws, held against the `tokenizers` library itself."""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from control_plane.serving.token_bounds import _LONGER, Bound, read_bound

EVERY_CHARACTER = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
CHANGING = [each for each in EVERY_CHARACTER if unicodedata.normalize("NFKD", each) != each or each.lower() != each]
"""By Python's own tables; the others stay as they are, or go, under every normaliser here."""
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
WITH_SPECIALS = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])


def numbered(*words: str) -> dict[str, int]:
    return {word: number for number, word in enumerate(dict.fromkeys(words))}


def byte_level(**prefix: bool) -> Tokenizer:
    made = Tokenizer(models.BPE(vocab=numbered(*BYTES), merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(**prefix)
    return made


def qwen() -> Tokenizer:
    made = byte_level(add_prefix_space=False)
    made.normalizer = normalizers.NFC()
    return made


def roberta() -> Tokenizer:
    made = byte_level(add_prefix_space=True)
    made.add_special_tokens(["<s>", "x"])
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return made


def bert(**given: bool) -> Tokenizer:
    made = Tokenizer(models.WordPiece(numbered("[CLS]", "[SEP]", "[UNK]", "a", "##a", "中", "##가"), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**given)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = WITH_SPECIALS
    return made


def llama() -> Tokenizer:
    """Bytes where a character is not known, as sentencepiece has them."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    made = Tokenizer(models.BPE(vocab=numbered("<unk>", *bytes_), merges=[], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(["<s>", "</s>"])
    return made


def metaspace() -> Tokenizer:
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *((f"<0x{byte:02X}>", -1.0) for byte in range(256))], 0, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return made


BOUNDED: dict[str, tuple[Tokenizer, Bound]] = {
    "gpt2": (byte_level(add_prefix_space=False), Bound(1, 1)),
    "qwen": (qwen(), Bound(3, 1)),
    "roberta": (roberta(), Bound(2, 4)),
    "bert, uncased": (bert(lowercase=True), Bound(1, 3)),
    "bert, cased": (bert(lowercase=False), Bound(1, 3)),
    "bert, lower case with accents": (bert(lowercase=True, strip_accents=False), Bound(2, 3)),
    "llama": (llama(), Bound(12, 1)),
    "metaspace": (metaspace(), Bound(88, 4)),
}


def bound_of(tokenizer: Tokenizer, folder: Path) -> Bound | None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    return read_bound(folder / "tokenizer.json")


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("is_pretty", [False, True])
def test_the_bound_is_read_from_what_stands_before_the_vocabulary(name: str, is_pretty: bool, tmp_path: Path) -> None:
    tokenizer, bound = BOUNDED[name]
    tokenizer.save(str(tmp_path / "tokenizer.json"), pretty=is_pretty)
    assert read_bound(tmp_path / "tokenizer.json") == bound


@pytest.mark.parametrize("name", BOUNDED)
@settings(max_examples=60)
@given(
    text=st.text(st.one_of(st.sampled_from(" ax<s>/▁\n가中ΐ\u0344\ufdfaİȺ\U0001d160"), st.characters(codec="utf-8")), max_size=40)
)
@example(text="x" * 30)
@example(text="<s>a" * 10)
@example(text="\ufdfa" * 10)
def test_no_text_has_more_tokens(name: str, text: str) -> None:
    tokenizer, bound = BOUNDED[name]
    assert len(tokenizer.encode(text, add_special_tokens=True)) <= bound.tokens(len(text.encode()))


@pytest.mark.parametrize("name", _LONGER)
def test_no_character_grows_by_more_than_its_normaliser_may(name: str) -> None:
    """Of every character there is; a text cannot grow by more than its characters do where each is normalised by itself first."""
    normaliser = getattr(normalizers, name)()
    mapped = EVERY_CHARACTER[:0x800] if name == "ByteLevel" else CHANGING
    worst = max(len(normaliser.normalize_str(each).encode()) / len(each.encode()) for each in mapped)
    assert worst <= _LONGER[name]


@pytest.mark.parametrize("given", [{"lowercase": True}, {"lowercase": True, "strip_accents": False}, {"lowercase": False}], ids=str)
def test_no_character_becomes_more_letters_than_berts_bound_says(given: dict[str, bool], tmp_path: Path) -> None:
    tokenizer = bert(**given)
    bound = bound_of(tokenizer, tmp_path)
    assert bound is not None
    worst = max(len(tokenizer.normalizer.normalize_str(each).replace(" ", "")) / len(each.encode()) for each in CHANGING)
    assert worst <= bound.each


def unbounded() -> dict[str, Tokenizer]:
    regex = byte_level()
    regex.normalizer = normalizers.Replace(tokenizers.Regex("a*"), "much longer")
    bytes_after_berts = byte_level()
    bytes_after_berts.normalizer = normalizers.BertNormalizer()
    return {"a pattern": regex, "letters counted where bytes are tokens": bytes_after_berts}


@pytest.mark.parametrize("name", unbounded())
def test_what_may_grow_by_any_amount_has_no_bound(name: str, tmp_path: Path) -> None:
    assert bound_of(unbounded()[name], tmp_path) is None


def changed(**members: Any) -> str:
    return json.dumps({**json.loads(byte_level().to_str()), **members})


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"model"', '{"version": "1.0", ]', "null", '{"a" "b"}'),
        changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        changed(normalizer={"type": "Something", "new": 1}),
        changed(normalizer={}),
        changed(pre_tokenizer={"type": "Delimiters"}),
        changed(post_processor={"type": "Something"}),
        changed(pre_tokenizer=["a"]),
    ],
)
def test_a_file_of_another_form_has_no_bound(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    assert read_bound(tmp_path / "tokenizer.json") is None
