"""A tokenizer for tiny models, trained here, of the size and with the special tokens that `shrinking` gives every configuration.

In: a folder. Out: `tokenizer.json` and `tokenizer_config.json` in it. This module must never read a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

WORDS = (
    "The market sells what a model says. A buyer pays, calls, and keeps the receipt. "
    "An owner publishes once; the log remembers every call, and anyone may check it. "
    "Numbers like 1, 23 and 456 appear, as do commas; semicolons: and (parentheses)."
)
SIZE = 320
END, PAD, MASK, UNKNOWN, FIRST, SEPARATOR = range(6)
"""Ids of the special tokens; those from `FREE` on are for whatever a type calls an image, a video or a sound."""
FREE = 6
_FREE_TOKENS = 26
SPECIAL = ("<end>", "<pad>", "<mask>", "<unk>", "<cls>", "<sep>", *(f"<extra{number}>" for number in range(_FREE_TOKENS)))


LETTERS = ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
"""What a model of speech writes, in the order of wav2vec 2.0's published vocabularies; the padding is also the blank."""


def write_letters(folder: Path) -> None:
    """The vocabulary of a model that writes letters: `vocab.json` and its class. Again: the same bytes."""
    known = {letter: number for number, letter in enumerate(LETTERS)}
    (folder / "vocab.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    described = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "word_delimiter_token": "|",
        "do_lower_case": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, longest: int) -> None:
    """A byte-level BPE of 320 tokens. longest: the model's context in tokens. Again: the same bytes."""
    named = {
        "bos_token": SPECIAL[END],
        "eos_token": SPECIAL[END],
        "pad_token": SPECIAL[PAD],
        "mask_token": SPECIAL[MASK],
        "unk_token": SPECIAL[UNKNOWN],
        "cls_token": SPECIAL[FIRST],
        "sep_token": SPECIAL[SEPARATOR],
    }
    write_byte_pairs(folder, SPECIAL, named, longest)


def write_byte_pairs(folder: Path, special: Sequence[str], named: Mapping[str, str], longest: int) -> None:
    """A byte-level BPE of `SIZE` tokens at most. special: of the first ids. named: what tokenizer_config.json calls them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
