"""Train the demo's tiny GPT-2 on text of our own, so that the demo needs no download.

In: `corpus.txt`. Out: a model folder as transformers writes it (safetensors, tokenizer.json). This module must never be imported by
another one: it loads PyTorch, so it runs as a process of its own (`python -m deploy.demo.tiny_model OUT`).

About 0.5 million parameters: 2 layers, 128 wide, 4 heads, context 128, a byte-level BPE of 1,000 tokens. It learns to put English
words in a likely order, and no more; it is there to be sold, called and checked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

CORPUS = Path(__file__).parent / "corpus.txt"
END = "<|endoftext|>"
VOCABULARY = 1000
CONTEXT = 128
LAYERS, WIDTH, HEADS = 2, 128, 4
STEPS, BATCH = 300, 8
LEARNING_RATE = 3e-3
SEED = 20
_REPORT_EVERY = 50


def train_tokenizer(text: Path) -> PreTrainedTokenizerFast:
    learner = ByteLevelBPETokenizer()
    learner.train([str(text)], vocab_size=VOCABULARY, min_frequency=2, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=learner._tokenizer, bos_token=END, eos_token=END, model_max_length=CONTEXT)


def train_model(tokens: torch.Tensor, steps: int) -> GPT2LMHeadModel:
    """Train on `tokens`: int64 [token]; pieces of one context length are drawn by chance, with a fixed seed."""
    torch.manual_seed(SEED)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=0.1,
            embd_pdrop=0.1,
            attn_pdrop=0.1,
        )
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps, pct_start=0.1)
    began = time.monotonic()
    for step in range(1, steps + 1):
        starts = torch.randint(0, len(tokens) - CONTEXT, (BATCH,)).tolist()
        batch = torch.stack([tokens[start : start + CONTEXT] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % _REPORT_EVERY == 0 or step == steps:
            seconds = time.monotonic() - began
            print(f"step {step} of {steps}: loss {loss.item():.2f}, {seconds:.0f} s", file=sys.stderr, flush=True)
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the demo's tiny GPT-2 and write its folder.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(2)
    tokenizer = train_tokenizer(CORPUS)
    text = CORPUS.read_text(encoding="utf-8")
    tokens = torch.tensor(tokenizer(f"{END}{text}{END}", verbose=False)["input_ids"])
    model = train_model(tokens, chosen.steps)
    chosen.out.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(do_sample=False)
    model.save_pretrained(chosen.out, safe_serialization=True)
    tokenizer.save_pretrained(chosen.out)
    print(json.dumps({"folder": str(chosen.out), "tokens": len(tokens), "parameters": model.num_parameters()}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
