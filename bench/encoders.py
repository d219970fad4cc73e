"""Encoders with random weights, for benchmarks: right shapes, no download, same cost as trained ones.

In: a size. Out: a Hugging Face folder that `posthuman publish` takes. This module must never be imported by the project.
"""

from __future__ import annotations

import json
from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "deploy" / "demo" / "corpus.txt"


def encoder_folder(out: Path, *, layers: int, width: int, heads: int, labels: int = 0, seed: int = 7) -> Path:
    """A BERT encoder with mean pooling and its word-piece tokenizer of 2,000 tokens, context 128. Again: the same bytes.

    labels: of a classifier on top; 0 for none.
    """
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    out.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer(lowercase=True)
    pieces.train([str(CORPUS)], vocab_size=2_000, show_progress=False)
    pieces.save(str(out / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), model_max_length=128).save_pretrained(out)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=pieces.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=128,
        **({"num_labels": labels} if labels else {}),
    )
    (BertForSequenceClassification if labels else BertModel)(config).eval().save_pretrained(out, safe_serialization=True)
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (out / "1_Pooling").mkdir(exist_ok=True)
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (out / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (out / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights, for benchmarks.\n", encoding="utf-8")
    return out
