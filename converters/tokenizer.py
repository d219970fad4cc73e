"""An entry's tokenizer: one `tokenizer.json` that gives what transformers gives.

In: a staged model. Out: the file, and what an entry says about it. This module must never run a tokenizer written in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer

from converters.errors import ConversionFailed, ModelRefused

_UNLIMITED = 10**9
"""transformers writes 10**30 for "no limit"; no model has a context of a thousand million tokens."""
_SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two  spaces,\ttabs\nand a new line ",
    "Ünïcödé, 日本語, العربية, emoji 🙂, numbers 3.14159 and 1,000,000",
    "def area(radius): return 3.14 * radius ** 2  # code_with_snake_case",
    "a",
)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer ready for an entry.

    length_limit: most tokens of a sequence, special ones counted, or None where the model does not say.
    pad_token_id, eos_token_id: null where the model has none.
    """

    length_limit: int | None
    pad_token_id: int | None
    eos_token_id: int | None
    padding_side: str


def load_tokenizer(folder: Path) -> Any:
    """The staged model's fast tokenizer, as transformers loads it; raises ModelRefused when there is only a slow one."""
    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, use_fast=True)
    # The library raises whatever a stranger's file provokes, `pyo3`'s bare Exception among it.
    except Exception as error:
        raise ModelRefused(f"tokenizer: expected one that transformers can load, found {type(error).__name__}: {error}") from error
    if not loaded.is_fast:
        raise ModelRefused(f"tokenizer: expected a fast tokenizer, found {type(loaded).__name__}, which is Python code")
    return loaded


def write_tokenizer(loaded: Any, path: Path) -> Tokenizer:
    """Write `tokenizer.json` without truncation and padding, and check that it gives what transformers gives.

    A file that truncates (all-MiniLM-L6-v2's cuts at 128 tokens) would answer for half a text without saying so.
    Raises ConversionFailed when the file alone tokenises differently. Again: replaces the file.
    """
    # Not verbose: a sample longer than a small model's context is no fault.
    expected = [loaded(text, verbose=False)["input_ids"] for text in _SAMPLES]
    backend = tokenizers.Tokenizer.from_str(loaded.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(path), pretty=False)
    written = tokenizers.Tokenizer.from_file(str(path))
    for text, ids in zip(_SAMPLES, expected, strict=True):
        found = written.encode(text, add_special_tokens=True).ids
        if found != ids:
            raise ConversionFailed(f"tokenizer.json: expected {ids} for {text!r}, as transformers gives; found {found}")
    limit = int(loaded.model_max_length)
    return Tokenizer(
        length_limit=limit if 0 < limit < _UNLIMITED else None,
        pad_token_id=loaded.pad_token_id,
        eos_token_id=loaded.eos_token_id,
        padding_side=str(loaded.padding_side),
    )
