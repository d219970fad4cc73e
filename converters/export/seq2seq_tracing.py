"""What the tracer cannot follow in transformers' encoder-decoder models, replaced by equals while a graph is traced.

In: a model. Out: a context in which it traces. This module must never change what a model computes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from optimum.exporters.onnx.model_patcher import (
    UNSUPPORTED_OPS_PATCHING_SPEC,
    eager_mask_without_vmap,
    patched_dynamic_layer_update,
    sdpa_mask_without_vmap,
)
from transformers.cache_utils import DynamicLayer
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.models.led.modeling_led import LEDEncoder, LEDEncoderSelfAttention
from transformers.models.longt5 import modeling_longt5
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersSparseMLP

from converters.errors import ModelRefused

_UNBOUNDED = 1 << 40


@contextlib.contextmanager
def traceable(model: Any) -> Iterator[None]:
    """Raises ModelRefused for a mixture of experts that leaves out tokens by how many there are in a batch."""
    with contextlib.ExitStack() as stack:
        for spec in UNSUPPORTED_OPS_PATCHING_SPEC:
            stack.enter_context(_set(spec.o, spec.name, spec.custom_op))
        # `enable_gqa` has no equal in ONNX; heads are repeated instead, as on older versions of PyTorch.
        stack.enter_context(_set(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False))
        # An empty tensor in front of a layer's first keys traces as one more input of the concatenation.
        stack.enter_context(_set(DynamicLayer, "update", patched_dynamic_layer_update))
        # transformers builds masks with vmap.
        stack.enter_context(masks())
        stack.enter_context(_set(LEDEncoderSelfAttention, "_chunk", staticmethod(_overlapping)))
        stack.enter_context(_set(LEDEncoderSelfAttention, "_sliding_chunks_matmul_attn_probs_value", _sliding_values))
        stack.enter_context(_set(LEDEncoder, "_pad_to_window_size", _pad_to_window))
        stack.enter_context(_set(modeling_longt5, "_make_global_fixed_block_ids", _global_blocks))
        stack.enter_context(_set(modeling_longt5.LongT5Stack, "forward", _with_a_block(modeling_longt5.LongT5Stack.forward)))
        stack.enter_context(_set(NllbMoeSparseMLP, "forward", _two_experts))
        stack.enter_context(_set(SwitchTransformersSparseMLP, "forward", _one_expert))
        for module in model.modules():
            if isinstance(module, NllbMoeSparseMLP):
                stack.enter_context(_unbounded(module.router))
        if isinstance(model, transformers.MoonshinePreTrainedModel):
            stack.enter_context(_set(type(model.model.encoder), "_get_feat_extract_output_lengths", _moonshine_length))
        yield


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    was_there, before = name in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if was_there:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


@contextlib.contextmanager
def masks() -> Iterator[None]:
    """transformers builds attention masks with vmap, which no exporter follows."""
    ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", sdpa_mask_without_vmap)
    ALL_MASK_ATTENTION_FUNCTIONS.register("eager", eager_mask_without_vmap)
    try:
        yield
    finally:
        ALL_MASK_ATTENTION_FUNCTIONS.register("sdpa", sdpa_mask)
        ALL_MASK_ATTENTION_FUNCTIONS.register("eager", eager_mask)


@contextlib.contextmanager
def _unbounded(router: Any) -> Iterator[None]:
    """An expert of NLLB takes at most a share of all tokens; with a share of 1 that is no bound at all, and tracing needs none."""
    share = router.moe_eval_capacity_token_fraction
    if share < 1:
        raise ModelRefused(f"config.json: moe_eval_capacity_token_fraction must be at least 1, found {share}")
    with _set(router, "moe_eval_capacity_token_fraction", 0), _set(router, "expert_capacity", _UNBOUNDED):
        yield


def _experts(mixture: Any, states: torch.Tensor, weights: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Every expert sees every token; those it was not chosen for count nothing. A loop over chosen tokens would be cut in stone."""
    parts = [mixture.experts[f"expert_{number}"](states) * weights(number) for number in range(len(mixture.experts))]
    return torch.stack(parts).sum(dim=0)


def _two_experts(self: Any, hidden_states: torch.Tensor, padding_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, Any]:
    first, shares = self.router(hidden_states, padding_mask)
    flat = hidden_states.reshape(-1, hidden_states.shape[-1])
    kept = 1 - self.moe_token_dropout
    mixed = _experts(self, flat, lambda number: shares[:, number, None] * kept)
    return mixed.reshape(hidden_states.shape), (shares, torch.argmax(first, dim=-1))


def _one_expert(self: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, Any]:
    chosen, shares, logits = self.router(hidden_states)
    mixed = _experts(self, hidden_states, lambda number: chosen[..., number, None].to(hidden_states.dtype))
    return shares * mixed, (logits, torch.argmax(chosen, dim=-1))


def _moonshine_length(_self: Any, samples: torch.Tensor) -> torch.Tensor:
    """transformers' arithmetic without its `int()`, which would fix the length."""
    length = (samples - 127) // 64 + 1
    length = (length - 7) // 3 + 1
    return (length - 3) // 2 + 1


def _overlapping(states: torch.Tensor, overlap: int, _onnx_export: bool = False) -> torch.Tensor:
    """Pieces of twice the overlap, as the sliding window needs them, without strides, which ONNX does not have."""
    return _pieces(states, states.shape[1] // overlap - 1, overlap, 2 * overlap)


def _pieces(states: torch.Tensor, count: Any, step: int, length: int) -> torch.Tensor:
    """states: [rows, sequence, width] -> [rows, count, length, width], a piece every `step` places."""
    return states[:, (torch.arange(count) * step)[:, None] + torch.arange(length)[None]]


def _sliding_values(self: Any, shares: torch.Tensor, values: torch.Tensor, overlap: int) -> torch.Tensor:
    """shares: [batch, sequence, heads, 2 * overlap + 1] of attention; each place adds up the values in its window."""
    batch, sequence, heads, width = values.shape
    count = sequence // overlap
    rows = values.transpose(1, 2).reshape(batch * heads, sequence, width)
    padded = torch.nn.functional.pad(rows, (0, 0, overlap, overlap))
    placed = self._pad_and_diagonalize(shares.transpose(1, 2).reshape(batch * heads, count, overlap, 2 * overlap + 1))
    summed = placed @ _pieces(padded, count, overlap, 3 * overlap)
    return summed.reshape(batch, heads, sequence, width).transpose(1, 2)


def _pad_to_window(
    self: Any, input_ids: Any, attention_mask: torch.Tensor, inputs_embeds: torch.Tensor, pad_token_id: int
) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
    """Padding that is never empty: what is cut off again at the end is then a slice from the end, whatever the length."""
    stated = self.config.attention_window
    window = stated if isinstance(stated, int) else max(stated)
    more = window - inputs_embeds.shape[1] % window
    filling = self.embed_tokens(torch.full((inputs_embeds.shape[0], more), self.config.pad_token_id, dtype=torch.int64))
    padded = torch.cat([inputs_embeds, filling], dim=1)
    tokens = None if input_ids is None else torch.nn.functional.pad(input_ids, (0, more), value=pad_token_id)
    return more, tokens, torch.nn.functional.pad(attention_mask, (0, more)), padded


def _global_blocks(attention_mask: torch.Tensor, global_block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """transformers' blocks of LongT5, without its branch for a text that is shorter than one block.

    attention_mask: [batch, sequence]. Gives each token's block, -1 for none, and for each block 1 where the row has it, else 0;
    tokens after a row's last full block belong to that one.
    """
    sequence = attention_mask.shape[1]
    places = torch.arange(sequence)[None]
    blocks = torch.where(attention_mask != 0, places // global_block_size, -1)
    ends = (places % global_block_size == global_block_size - 1) & (attention_mask != 0)
    last = ends.sum(-1, keepdim=True) - 1
    blocks = torch.minimum(blocks, last)
    numbers = torch.arange(sequence // global_block_size)[None].expand(attention_mask.shape[0], -1)
    segments = torch.where(numbers <= blocks.max(dim=-1, keepdim=True).values, 1, 0)
    return blocks.to(attention_mask.dtype), segments.to(attention_mask.dtype)


def _with_a_block(forward: Callable[..., Any]) -> Callable[..., Any]:
    """LongT5's encoder given a block of padding more: one without any block to attend to has tensors of no size, which cannot be
    reshaped in ONNX. A block of padding alone is masked, as transformers masks it."""

    def padded(self: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **rest: Any) -> Any:
        if self.is_decoder or attention_mask is None or self.config.encoder_attention_type != "transient-global":
            return forward(self, input_ids=input_ids, attention_mask=attention_mask, **rest)
        more = (0, int(self.config.global_block_size))
        ids = torch.nn.functional.pad(input_ids, more, value=int(self.config.pad_token_id))
        outputs = forward(self, input_ids=ids, attention_mask=torch.nn.functional.pad(attention_mask, more), **rest)
        outputs.last_hidden_state = outputs.last_hidden_state[:, : input_ids.shape[1]]
        return outputs

    return padded
