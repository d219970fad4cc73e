"""A model's folder, opened for training, and written again with other weights.

In: `weights/`: config.json, tokenizer files, safetensors. Out: a model in float32 and its tokenizer; a folder of the same form.
This module must never run a model's own code, open a pickle, or ask a hub.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from c2d_adapter.algorithms.objectives import Objective, objective_of
from c2d_adapter.job_io import JobFailed

_KEPT = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "LICENSE*"),
)
"""What goes along unchanged, but for the type of numbers in config.json."""
_NUMBERS = "float32"
"""Steps are smaller than half precision tells apart; what is trained further again must not lose them."""
_SHARD = "4GB"


def open_model(weights: Path) -> tuple[Any, Any, Objective]:
    """The model in float32 on the processor, its tokenizer, and what it can learn.

    Raises JobFailed unless it is a language model of transformers whose weights are all there.
    """
    config = AutoConfig.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    objective = objective_of(config)
    model, told = objective.opens.from_pretrained(
        weights,
        config=config,
        dtype=_NUMBERS,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        output_loading_info=True,
    )
    if told["missing_keys"] or told["mismatched_keys"]:
        lacking = len(told["missing_keys"]) + len(told["mismatched_keys"])
        raise JobFailed(
            "unsupported_model", f"{lacking} of the model's tensors are missing from its weights or have another shape."
        )
    tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    return model, tokenizer, objective


def context_of(model: Any) -> int | None:
    """The longest sequence the model can read; None when it has no limit."""
    # BERT's relatives that count positions from their padding token's number on have places that no text can fill.
    lengths = [
        module.weight.shape[0] - module.padding_idx - 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    text = model.config.get_text_config(decoder=not model.config.is_encoder_decoder)
    writes = getattr(text, "max_decoder_position_embeddings", None)
    if isinstance(writes, int):  # LED's decoder, which writes the second half of a sequence
        lengths.append(2 * writes)
    for name in ("max_position_embeddings", "max_encoder_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        found = getattr(text, name, None)
        if isinstance(found, int) and found > 0:
            lengths.append(found)
            break
    return min(lengths, default=None)


def export(model: Any, weights: Path, out: Path) -> None:
    """Write the model as a folder like `weights`. Again: replaces it; `out` is whole or not there."""
    scratch = out.with_name(f"{out.name}.new")
    for folder in (scratch, out):
        shutil.rmtree(folder, ignore_errors=True)
    model.generation_config = GenerationConfig()  # a publisher's own may be one that transformers refuses to write
    model.save_pretrained(scratch, safe_serialization=True, max_shard_size=_SHARD)
    for path in scratch.glob("*.json"):
        if path.name != "model.safetensors.index.json":
            path.unlink()
    for pattern in _KEPT:
        for path in weights.glob(pattern):
            shutil.copyfile(path, scratch / path.name)
    config = json.loads((scratch / "config.json").read_text(encoding="utf-8"))
    config.pop("torch_dtype", None)
    (scratch / "config.json").write_text(json.dumps({**config, "dtype": _NUMBERS}, indent=2) + "\n", encoding="utf-8")
    scratch.replace(out)
