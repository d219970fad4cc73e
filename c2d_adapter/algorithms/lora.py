"""Low-rank adapters (Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models"), by the library `peft`.

In: a model. Out: the same with adapters on every linear layer but the last, and in the end the plain model with the adapters'
work in its weights. This module must never change a weight that is not a linear layer's.
"""

from __future__ import annotations

import warnings
from typing import Any

from c2d_adapter.job_io import JobFailed

_NOT_BESIDE = {
    # Their weights are read without being called, where an adapter has no effect; peft 0.21 refuses these.
    **dict.fromkeys(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), ("out_proj",)),
    # It answers with more than a product.
    **dict.fromkeys(("llama4", "llama4_text"), ("router",)),
}
"""Linear layers that take no adapter, by model type."""


def attach(model: Any, rank: int, seed: int) -> Any:
    """Freeze the model and put adapters beside its linear layers; their first product is zero, so nothing changes yet.

    seed: of the adapters' first values. Again with the same seed: the same. Raises JobFailed for a model that takes none.
    """
    # Imported here: a full training need not wait for it.
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    # As wide a scale as the paper's: alpha is twice the rank, so that the learning rate need not follow the rank.
    chosen = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        exclude_modules=[*_NOT_BESIDE.get(model.config.model_type, ())] or None,
    )
    with warnings.catch_warnings():
        # GPT-2 keeps its weights transposed; peft sees that, and says that it does.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        try:
            return get_peft_model(model, chosen)
        except (AttributeError, ValueError) as error:
            raise JobFailed("unsupported_model", "The model's layers take no adapters: train it in full.") from error


def merge(model: Any) -> Any:
    """The plain model, with what the adapters learned added to the linear layers' weights."""
    return model.merge_and_unload()
