"""Mixtures of experts in a form that can be traced, for as long as an export lasts.

In: a loaded model. Out: the same model, patched within a `with`. This module must never change what a model computes: parity
decides.

transformers loops over the experts that the tokens at hand have chosen. A trace keeps that choice for ever: an expert that no token
of the trace chose would be missing from the graph. Here every expert is in the loop and reads the tokens that chose it, maybe none,
so the graph computes no more than PyTorch does.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional


@contextlib.contextmanager
def traceable_experts(model: Any) -> Iterator[None]:
    """Patch the model's own modules, and nothing that another model has; all is as before afterwards."""
    patched: list[tuple[Any, str]] = []
    try:
        for module in model.modules():
            for name, replacement in _replacements(module).items():
                setattr(module, name, types.MethodType(replacement, module))
                patched.append((module, name))
        with patch.object(torch, "greater", _greater):
            yield
    finally:
        for module, name in patched:
            delattr(module, name)


def _replacements(module: Any) -> Mapping[str, Callable[..., Any]]:
    kind = type(module).__name__
    if kind in _FORWARDS:
        return {"forward": _FORWARDS[kind]}
    if kind == "XmodOutput":
        return {"lang_adapter": _language_adapters}
    if hasattr(type(module), "moe") and isinstance(getattr(module, "experts", None), torch.nn.ModuleList):
        return {"moe": _moe}  # DeepSeek and all that took its `moe(hidden_states, indices, weights)`
    if kind.endswith("ParallelExperts"):
        return {"forward": _parallel_experts}
    if kind.endswith("TopKGating"):
        return {"forward": _top_k_gating}
    return {}


def _mixed(rows: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, experts: list[Callable[[Any], Any]]) -> torch.Tensor:
    """Each row's sum over its experts. rows: [tokens, width]; chosen, weights: [tokens, k]."""
    mixed = torch.zeros_like(rows)
    for number, expert in enumerate(experts):
        which, place = torch.where(chosen == number)
        mixed = mixed.index_add(0, which, (expert(rows[which]) * weights[which, place, None]).to(rows.dtype))
    return mixed


class _EveryExpert:
    """Stands for "which experts have tokens?" of the Mixtral family, and answers: all of them."""

    def __init__(self, experts: int) -> None:
        self._experts = experts

    def nonzero(self) -> list[torch.Tensor]:
        return [torch.tensor([expert]) for expert in range(self._experts)]


_torch_greater = torch.greater


def _greater(left: Any, right: Any, **given: Any) -> Any:
    """In transformers 4.57 `torch.greater` of a vector asks which experts are hit, and nothing else."""
    if isinstance(left, torch.Tensor) and left.dim() == 1 and isinstance(right, int):
        return _EveryExpert(int(left.shape[0]))
    return _torch_greater(left, right, **given)


def _moe(self: Any, hidden_states: Any, indices: Any, weights: Any) -> Any:
    return _mixed(hidden_states, indices, weights, list(self.experts))


def _phimoe(self: Any, hidden_states: Any) -> Any:
    rows = hidden_states.view(-1, hidden_states.shape[-1])
    logits = self.gate(rows)
    sparsemixer = sys.modules[type(self).__module__].sparsemixer
    weights, chosen = sparsemixer(logits, jitter_eps=self.router_jitter_noise, training=False)
    return _mixed(rows, chosen, weights, list(self.experts)).view(hidden_states.shape), logits


def _jamba(self: Any, hidden_states: Any) -> Any:
    rows = hidden_states.view(-1, hidden_states.shape[-1])
    logits = self.router(rows)
    weights, chosen = torch.topk(functional.softmax(logits, dim=1, dtype=torch.float), self.top_k, dim=-1)
    return _mixed(rows, chosen, weights.to(rows.dtype), list(self.experts)).view(hidden_states.shape), logits


def _dbrx(self: Any, x: Any, _weights: Any, top_weights: Any, top_experts: Any) -> Any:
    glu = self.mlp
    parts = [part.view(glu.moe_num_experts, glu.ffn_hidden_size, glu.hidden_size) for part in (glu.w1, glu.v1, glu.w2)]

    def expert(number: int) -> Callable[[Any], Any]:
        return lambda rows: glu(rows, *(part[number] for part in parts))

    experts = [expert(number) for number in range(glu.moe_num_experts)]
    return _mixed(x.view(-1, x.shape[-1]), top_experts, top_weights, experts).view(x.shape)


def _aria(self: Any, hidden_states: Any) -> Any:
    rows = hidden_states.view(-1, hidden_states.shape[-1])
    logits, chosen = torch.topk(self.router(rows), k=self.config.moe_topk, dim=1)
    first, second = self.experts.fc1.weight, self.experts.fc2.weight

    def expert(number: int) -> Callable[[Any], Any]:
        def run(some: Any) -> Any:
            projection, gate = torch.chunk(some @ first[number], 2, dim=-1)
            return (functional.silu(projection) * gate) @ second[number]

        return run

    mixed = _mixed(rows, chosen, functional.softmax(logits, dim=-1), [expert(number) for number in range(first.shape[0])])
    return mixed.view(hidden_states.shape) + self.shared_experts(hidden_states)


def _language_adapters(self: Any, lang_ids: Any, hidden_states: Any) -> Any:
    """X-MOD's adapters: each text of a batch, [batch, length, width], goes to that of its language, [batch]."""
    residual = hidden_states
    norm = self.adapter_layer_norm or (self.LayerNorm if self.adapter_reuse_layer_norm else torch.nn.Identity())
    states = norm(hidden_states)
    if self.ln_before_adapter:
        residual = states
    given = torch.zeros_like(states)
    for number, adapter in enumerate(self.adapter_modules.values()):
        (which,) = torch.where(lang_ids == number)
        given = given.index_add(0, which, adapter(states[which]))
    return given + residual


def _top_k_gating(self: Any, hidden_states: Any) -> Any:
    """The Granite family's router. In place of how many tokens an expert has, it tells `_parallel_experts` each row's expert."""
    logits = self.layer(hidden_states).float()
    top_logits, top_indices = logits.topk(self.top_k, dim=1)
    gates = torch.softmax(top_logits, dim=1).type_as(hidden_states).flatten()
    order = torch.arange(gates.shape[0])
    return order, order.div(self.top_k, rounding_mode="floor"), gates, top_indices.flatten(), logits


def _parallel_experts(self: Any, inputs: Any, expert_size: Any) -> Any:
    """inputs: [rows, width]; expert_size: [rows], each row's expert, in any order."""
    given = inputs.new_zeros((inputs.shape[0], self.output_size))
    for expert in range(self.num_experts):
        (which,) = torch.where(expert_size == expert)
        given = given.index_add(0, which, functional.linear(inputs[which], self.weight[expert]))
    return given


_FORWARDS: Mapping[str, Callable[..., Any]] = {
    "PhimoeSparseMoeBlock": _phimoe,
    "JambaSparseMoeBlock": _jamba,
    "DbrxExperts": _dbrx,
    "AriaTextMoELayer": _aria,
}
