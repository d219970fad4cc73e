"""The letters of a model that recognises speech frame by frame.

In: a staged source. Out: its tokenizer, which only decodes; `tokenizer.json` with a name for each token id. This module must never
encode a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from converters.errors import ModelRefused
from converters.source import Source

_CLASSES = (None, "Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
"""Whose decoding the backend repeats. Others put phonemes together, or need a language to be chosen."""


@dataclass(frozen=True)
class Letters:
    """tokenizer: transformers' own; what it makes of token ids is what the backend is compared with."""

    tokenizer: Any

    def facts(self) -> dict[str, Any]:
        """The keys of `tasks/audio.py` that say how token ids become a text."""
        return {
            "blank_token_id": int(self.tokenizer.pad_token_id),
            "word_delimiter": str(self.tokenizer.word_delimiter_token),
            "unknown": str(self.tokenizer.unk_token),
            "lowercase": bool(self.tokenizer.do_lower_case),
            "clean_up": bool(self.tokenizer.clean_up_tokenization_spaces),
        }

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=False))


def load_letters(source: Source) -> Letters:
    """Raises ModelRefused for a model without letters, or with a tokenizer that decodes in another way."""
    config = source.document("tokenizer_config.json")
    named = config.get("tokenizer_class")
    if named not in _CLASSES or "vocab.json" not in source.files:
        raise ModelRefused(
            f"tokenizer_config.json: expected Wav2Vec2CTCTokenizer and its vocab.json, found {named!r} and"
            f" {'a' if 'vocab.json' in source.files else 'no'} vocab.json"
        )
    try:
        tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(str(source.folder), local_files_only=True)
    # The library raises whatever a stranger's file provokes.
    except Exception as error:
        raise ModelRefused(f"vocab.json: expected the letters of a speech model, found {type(error).__name__}: {error}") from error
    if tokenizer.replace_word_delimiter_char != " ":
        raise ModelRefused(
            f"tokenizer_config.json: expected a space between words, found {tokenizer.replace_word_delimiter_char!r}"
        )
    if tokenizer.pad_token_id is None:
        raise ModelRefused("tokenizer_config.json: expected a pad_token, which is the blank between letters; found none")
    return Letters(tokenizer)


def write_letters(letters: Letters, path: Path) -> None:
    """Again: replaces the file, with the same bytes."""
    vocabulary = {str(token): int(place) for token, place in letters.tokenizer.get_vocab().items()}
    if len(set(vocabulary.values())) != len(vocabulary):
        raise ModelRefused("vocab.json: expected one letter for each token id, found two")
    named = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=str(letters.tokenizer.unk_token)))
    named.save(str(path))
