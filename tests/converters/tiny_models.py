"""Tiny models with random weights, one folder each, as a publisher would have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters.coverage.vocabulary import WORDS, write_byte_pairs

_SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_GPT2 = {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("GPT2", _GPT2),
    "gptj": ("GPTJ", {**_GPT2, "rotary_dim": 4}),
    "gpt_neo": (
        "GPTNeo",
        {
            "vocab_size": 320,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 8,
            "max_position_embeddings": 64,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    "gpt_neox": ("GPTNeoX", {**_SHAPE, **_ENDS, "max_position_embeddings": 64}),
    "opt": (
        "OPT",
        {
            **_ENDS,
            "vocab_size": 320,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    "llama": ("Llama", {**_SHAPE, **_ENDS, "num_key_value_heads": 2, "max_position_embeddings": 64}),
    "qwen2": ("Qwen2", {**_SHAPE, **_ENDS, "num_key_value_heads": 2, "max_position_embeddings": 64}),
    "mistral": ("Mistral", {**_SHAPE, **_ENDS, "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": None}),
    "bert": ("Bert", {**_SHAPE, "max_position_embeddings": 64, "pad_token_id": 1}),
    "roberta": ("Roberta", {**_SHAPE, "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": 320,
            "dim": 32,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 1,
        },
    ),
}
"""Folder name -> transformers' class prefix, and the configuration's arguments."""


def tiny_model(folder: Path, family: str, head: str, *, seed: int = 0, words: bool = False, **overrides: Any) -> Path:
    """Save a model, a tokenizer and a README into `folder`. head: the class name's ending, such as `LMHeadModel`.

    words: a tokenizer like BERT's, with a mask and special tokens around a pair, instead of bytes.
    """
    import torch
    import transformers

    prefix, arguments = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{prefix}Config")(**{**arguments, **overrides})
    model = getattr(transformers, prefix + head)(config)
    model.save_pretrained(folder, safe_serialization=True)
    (write_wordpiece if words else write_tokenizer)(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    return folder


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 320 tokens at most, `<end>` is 0 and `<pad>` is 1."""
    named = {"bos_token": "<end>", "eos_token": "<end>", "pad_token": "<pad>"}
    write_byte_pairs(folder, ("<end>", "<pad>"), named, longest=64)


def write_wordpiece(folder: Path) -> None:
    """A WordPiece of 320 tokens at most that knows words, pairs and a mask; `[PAD]` is 0 and `[MASK]` is 4."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator([WORDS], trainers.WordPieceTrainer(vocab_size=320, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
