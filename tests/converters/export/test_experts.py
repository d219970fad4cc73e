"""The traceable form of a mixture of experts computes what transformers' own does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from converters.export.experts import traceable_experts

_TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
_MODELS: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {"num_local_experts": 4},
    "Qwen2MoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "decoder_sparse_step": 1},
    "PhimoeForCausalLM": {"num_local_experts": 4},
    "GraniteMoeForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "JetMoeForCausalLM": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "kv_channels": 8,
        "num_key_value_heads": 1,
        "num_attention_heads": 2,
    },
    "Dots1ForCausalLM": {
        "n_routed_experts": 4,
        "moe_intermediate_size": 8,
        "first_k_dense_replace": 0,
        "n_group": 1,
        "topk_group": 1,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
    },
    "AriaTextForCausalLM": {"moe_num_experts": 4, "moe_topk": 2},
}


@pytest.mark.parametrize("name", sorted(_MODELS))
def test_every_expert_in_the_loop_gives_what_the_chosen_ones_give(name: str) -> None:
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**{**_TINY, **_MODELS[name]})).eval()
    ids = torch.randint(3, 64, (2, 7))
    attributes = [sorted(vars(module)) for module in model.modules()]
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
        with traceable_experts(model):
            assert any("forward" in vars(module) or "moe" in vars(module) for module in model.modules()) or name in (
                "MixtralForCausalLM",
                "Qwen2MoeForCausalLM",
            )
            found = model(ids, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-6)
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert torch.greater(torch.tensor([1, 0]), 0).tolist() == [True, False]
