"""A decoder with random weights, for benchmarks: right shape, no download, same cost as a trained one.

In: a size. Out: a Hugging Face folder that `posthuman publish` takes. This module must never be imported by the project.
"""

from __future__ import annotations

from pathlib import Path

from bench.encoders import CORPUS


def decoder_folder(
    out: Path, *, layers: int, width: int, heads: int, vocabulary: int = 16_000, seed: int = 7, spread: float = 0.1
) -> Path:
    """A GPT-2 with context 256, and a byte-level tokenizer of 2,000 tokens at most. Again: the same bytes.

    The embedding has `vocabulary` rows, as a trained model of that size would have; tokens past the tokenizer's are never written.
    spread: of the weights.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    out.mkdir(parents=True, exist_ok=True)
    pieces = ByteLevelBPETokenizer()
    pieces.train([str(CORPUS)], vocab_size=2_000, special_tokens=["<end>"], show_progress=False)
    pieces.save(str(out / "tokenizer.json"))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"), eos_token="<end>", model_max_length=256)
    fast.save_pretrained(out)
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
        # Weights with spread: a model whose tokens are all as likely has no clear answer to compare.
        initializer_range=spread,
    )
    GPT2LMHeadModel(config).eval().save_pretrained(out, safe_serialization=True)
    (out / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom weights, for benchmarks.\n", encoding="utf-8")
    return out
