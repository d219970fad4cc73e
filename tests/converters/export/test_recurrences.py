"""The scripted form of a recurrent layer computes what transformers' own loop does, at any length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from converters.export.recurrences import has_recurrences, traceable_recurrences

_TINY: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
_ATTENTION: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 24}
_MAMBA2: dict[str, Any] = {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8}
_MODELS: dict[str, dict[str, Any]] = {
    "MambaForCausalLM": {"state_size": 4, "use_mambapy": False},
    "FalconMambaForCausalLM": {"state_size": 4, "use_mambapy": False},
    "Mamba2ForCausalLM": _MAMBA2,
    "RwkvForCausalLM": {"attention_hidden_size": 16, "context_length": 64},
    "MiniMaxForCausalLM": {
        **_ATTENTION,
        "head_dim": 8,
        "block_size": 8,
        "layer_types": ["linear_attention"] * 2,
        "num_local_experts": 2,
    },
    "Qwen3NextForCausalLM": {
        **_ATTENTION,
        "head_dim": 8,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "layer_types": ["linear_attention"] * 2,
        "num_experts": 0,
    },
}


def _model(name: str) -> Any:
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**{**_TINY, **_MODELS[name]})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.mark.parametrize("name", sorted(_MODELS))
@pytest.mark.parametrize("length", [1, 9, 20])
def test_the_loop_gives_what_steps_or_chunks_give(name: str, length: int) -> None:
    model = _model(name)
    ids = torch.randint(3, 64, (2, length))
    mask = torch.ones_like(ids)
    attributes = [sorted(vars(module)) for module in model.modules()]
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, use_cache=False).logits
        with traceable_recurrences(model):
            found = model(ids, attention_mask=mask, use_cache=False).logits
    assert torch.allclose(found, expected, atol=2e-5), float((found - expected).abs().max())
    assert [sorted(vars(module)) for module in model.modules()] == attributes


def test_padding_does_not_reach_the_state() -> None:
    model = _model("MambaForCausalLM")
    ids = torch.randint(3, 64, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad(), traceable_recurrences(model):
        first = model(ids, attention_mask=mask, use_cache=False).logits
        other = model(torch.where(mask == 1, ids, (ids + 1) % 64), attention_mask=mask, use_cache=False).logits
        unmasked = model(torch.where(mask == 1, ids, (ids + 1) % 64), use_cache=False).logits
    assert torch.equal(first[1, 4:], other[1, 4:])
    assert not torch.equal(first[1, 4:], unmasked[1, 4:])


def test_attention_is_no_recurrence() -> None:
    config = transformers.LlamaConfig(**_TINY, **_ATTENTION)
    assert not has_recurrences(transformers.LlamaForCausalLM(config))
    assert has_recurrences(_model("RwkvForCausalLM"))
