"""What `transformers` answers greedily: the reference for the whole path.

In: a model folder, prompts as JSON on standard input. Out: token ids as JSON. This module must never be imported by another one: it
loads PyTorch, so it runs as a process of its own (`python -m deploy.demo.greedy FOLDER TOKENS`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(arguments: Sequence[str]) -> int:
    folder, count = arguments[0], int(arguments[1])
    prompts = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    answers = []
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            made = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        tokens = made[0, inputs["input_ids"].shape[1] :].tolist()
        ends = model.generation_config.eos_token_id
        if tokens and tokens[-1] in (ends if isinstance(ends, list) else [ends]):
            tokens.pop()  # the end is not text; the market does not send it either
        answers.append(tokens)
    print(json.dumps(answers))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
