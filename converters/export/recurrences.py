"""Recurrent layers in a form that can be traced at any length, for as long as an export lasts.

In: a loaded model. Out: the same model, patched within a `with`. This module must never change what a model computes: parity
decides.

A trace of transformers' loops takes as many steps as the traced text had, for ever, and as many chunks. Here every recurrence is
one scripted loop, which the TorchScript exporter writes as ONNX `Loop`: as long as the text, one state at a time.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch.nn import functional


def has_recurrences(model: Any) -> bool:
    """Is there a layer that steps through the text? Any other exporter than the TorchScript one fixes how many steps."""
    return any(True for module in model.modules() for _ in _replacements(module))


@contextlib.contextmanager
def traceable_recurrences(model: Any) -> Iterator[None]:
    """Patch the model's own modules, and functions of theirs; all is as before afterwards."""
    before: list[tuple[Any, str, Any]] = []
    try:
        for module in model.modules():
            for owner, name, value in _replacements(module):
                before.append((owner, name, vars(owner).get(name, _ABSENT)))
                setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            delattr(owner, name) if value is _ABSENT else setattr(owner, name, value)


_ABSENT = object()


def _replacements(module: Any) -> Iterator[tuple[Any, str, Any]]:
    """Owner, attribute and what takes its place."""
    kind = type(module).__name__
    if kind in _FORWARDS:
        yield module, "forward", types.MethodType(_FORWARDS[kind], module)
    if kind == "RwkvSelfAttention":
        yield sys.modules[type(module).__module__], "rwkv_linear_attention", _rwkv
    if hasattr(module, "chunk_gated_delta_rule"):
        yield module, "chunk_gated_delta_rule", _delta_rule
    if kind == "xLSTMBackend":
        for name in ("_inference_fn", "_train_fn"):
            yield module, name, functools.partial(_matrix_lstm, eps=float(module.config.eps))
    if kind == "RecurrentGemmaModel":
        yield module, "_update_causal_mask", _causal_mask
    # These leave the mask out when every traced token counts.
    for name in ("_update_mamba_mask", "_update_linear_attn_mask"):
        if hasattr(type(module), name):
            yield module, name, lambda attention_mask, *_: attention_mask


def _scripted(steps: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A loop that stays a loop when it is traced."""
    return cast("Callable[..., torch.Tensor]", torch.jit.script(steps))


@_scripted
def _scan(a: torch.Tensor, step: torch.Tensor, x: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """A selective state space (Mamba, arXiv 2312.00752, equation 2).

    a: [heads, width or 1, state or 1]; step: [length, batch, heads, width or 1]; x: [length, batch, heads, width];
    b, c: [length, batch, heads, state]. Gives [length, batch, heads, width].
    """
    state = torch.zeros_like(x[0].unsqueeze(-1) * b[0].unsqueeze(-2))
    given = torch.jit.annotate(list[torch.Tensor], [])
    for t in range(x.shape[0]):
        state = torch.exp(step[t].unsqueeze(-1) * a) * state + (step[t] * x[t]).unsqueeze(-1) * b[t].unsqueeze(-2)
        given.append((state * c[t].unsqueeze(-2)).sum(-1))
    return torch.stack(given)


def _masked(states: Any, attention_mask: Any) -> Any:
    """states: [batch, length, width]; rows of padding become zero."""
    return states if attention_mask is None else states * attention_mask[:, :, None].to(states.dtype)


def _convolved(self: Any, states: Any) -> Any:
    """states: [batch, length, width], convolved over the length, each place with the ones before it."""
    return self.act(self.conv1d(states.transpose(1, 2))[..., : states.shape[1]].transpose(1, 2))


def _mamba(self: Any, hidden_states: Any, attention_mask: Any = None, **_: Any) -> Any:
    """Mamba's mixer and that of FalconMamba and Jamba, which normalise step, B and C."""
    x, gate = self.in_proj(hidden_states).chunk(2, dim=-1)
    x = _masked(_convolved(self, _masked(x, attention_mask)), attention_mask)
    sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
    step, b, c = torch.split(self.x_proj(x), sizes, dim=-1)
    if hasattr(self, "dt_layernorm"):
        step, b, c = self.dt_layernorm(step), self.b_layernorm(b), self.c_layernorm(c)
    if hasattr(self, "rms_eps"):
        step, b, c = (value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + self.rms_eps) for value in (step, b, c))
    step = functional.softplus(self.dt_proj(step))
    a = -torch.exp(self.A_log.float())[None]
    y = _scan(a, *(value.transpose(0, 1).unsqueeze(2) for value in (step, x, b, c))).squeeze(2).transpose(0, 1)
    return self.out_proj((y + x * self.D) * self.act(gate))


def _zamba(self: Any, hidden_states: Any, attention_mask: Any = None, **_: Any) -> Any:
    """Mamba with heads, each with projections of its own."""
    batch, length, _ = hidden_states.shape
    heads, width = self.n_mamba_heads, self.mamba_head_dim
    x, gate = self.in_proj(hidden_states).transpose(1, 2).reshape(batch, heads * width, 2, length).unbind(2)
    x = _masked(_convolved(self, _masked(x.transpose(1, 2), attention_mask)), attention_mask)
    x = x.reshape(batch, length, heads, width).permute(2, 0, 1, 3)  # [heads, batch, length, width]
    sizes = [self.time_step_rank, self.ssm_state_size, self.ssm_state_size]
    step, b, c = torch.split(x @ self.x_proj_weight[:, None].transpose(-1, -2), sizes, dim=-1)
    step = functional.softplus(step @ self.dt_proj_weight[:, None].transpose(-1, -2) + self.dt_proj_bias[:, None, None])
    a = -torch.exp(self.A_log.float())
    y = _scan(a, *(value.permute(2, 1, 0, 3) for value in (step, x, b, c))).permute(1, 2, 3, 0)  # [batch, heads, width, length]
    y = y + x.permute(1, 0, 3, 2) * self.D[None, :, :, None]
    y = y * self.act(gate.reshape(batch, heads, width, length))
    return self.out_proj(y.reshape(batch, -1, length).transpose(1, 2))


def _mamba2(self: Any, hidden_states: Any, attention_mask: Any = None, **_: Any) -> Any:
    """Mamba-2's mixer (arXiv 2405.21060) and that of Bamba, FalconH1, GraniteMoeHybrid and Zamba2."""
    batch, length, _width = hidden_states.shape
    states = _masked(hidden_states, attention_mask)
    if hasattr(self, "ssm_in_multiplier"):
        states = states * self.ssm_in_multiplier
    projected = self.in_proj(states)
    if hasattr(self, "mup_vector"):
        projected = projected * self.mup_vector
    inner, group = self.intermediate_size, self.n_groups * self.ssm_state_size
    gate, mixed, step = projected[..., -(2 * inner + 2 * group + self.num_heads) :].split(
        [inner, inner + 2 * group, self.num_heads], dim=-1
    )
    mixed = _convolved(self, mixed)
    is_zamba = type(self).__name__ == "Zamba2MambaMixer"  # masks before the convolution only, and limits a step from below only
    x, b, c = torch.split(mixed if is_zamba else _masked(mixed, attention_mask), [inner, group, group], dim=-1)
    step = functional.softplus(step + self.dt_bias)
    limit = (self.time_step_min, float("inf")) if is_zamba else self.time_step_limit
    step = torch.clamp(step, float(limit[0]), None if limit[1] == float("inf") else float(limit[1]))
    a = -torch.exp(self.A_log.float())[:, None, None]
    x = x.reshape(batch, length, self.num_heads, self.head_dim)
    shared = self.num_heads // self.n_groups
    b, c = (
        value.reshape(batch, length, self.n_groups, 1, self.ssm_state_size)
        .expand(batch, length, self.n_groups, shared, self.ssm_state_size)
        .reshape(batch, length, self.num_heads, self.ssm_state_size)
        for value in (b, c)
    )
    y = _scan(a, *(value.transpose(0, 1) for value in (step.unsqueeze(-1), x, b, c))).transpose(0, 1)
    y = (y + self.D[:, None] * x).reshape(batch, length, -1)
    return self.out_proj(self.norm(y, gate) if getattr(self, "mamba_rms_norm", True) else y * functional.silu(gate))


@_scripted
def _rwkv_steps(decay: torch.Tensor, first: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """key, value: [length, batch, width]; decay, first: [width]. As transformers' loop: the state is kept below its maximum."""
    above, below = torch.zeros_like(key[0]), torch.zeros_like(key[0])
    most = torch.zeros_like(key[0]) - 1e38
    given = torch.jit.annotate(list[torch.Tensor], [])
    for t in range(key.shape[0]):
        peak = torch.maximum(most, key[t] + first)
        old, new = torch.exp(most - peak), torch.exp(key[t] + first - peak)
        given.append((old * above + new * value[t]) / (old * below + new))
        peak = torch.maximum(most + decay, key[t])
        old, new = torch.exp(most + decay - peak), torch.exp(key[t] - peak)
        above, below, most = old * above + new * value[t], old * below + new, peak
    return torch.stack(given)


def _rwkv(time_decay: Any, time_first: Any, key: Any, value: Any, state: Any = None, **_: Any) -> Any:
    steps = _rwkv_steps(-torch.exp(time_decay), time_first, key.transpose(0, 1), value.transpose(0, 1))
    return steps.transpose(0, 1), state


@_scripted
def _rnn_steps(gate: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """gate, x: [length, batch, width]."""
    state = torch.zeros_like(x[0])
    given = torch.jit.annotate(list[torch.Tensor], [])
    for t in range(x.shape[0]):
        state = gate[t] * state + x[t]
        given.append(state)
    return torch.stack(given)


def _rglru(self: Any, activations: Any, position_ids: Any) -> Any:
    """RecurrentGemma's unit (arXiv 2402.19427, equations 1 to 4); transformers' own leaves out the root while it is traced."""
    batch, length, width = activations.shape
    starts = (position_ids[:, :, None] == 0).to(activations.dtype)
    blocks = activations.reshape(batch * length, self.num_attention_heads, self.block_width).permute(1, 0, 2)

    def gate(weight: Any, bias: Any) -> Any:
        return torch.sigmoid((blocks @ weight + bias[:, None, :]).transpose(0, 1).reshape(batch, length, width))

    decay = -8.0 * gate(self.recurrent_gate_weight, self.recurrent_gate_bias) * functional.softplus(self.recurrent_param)
    scale = starts + (1 - starts) * torch.sqrt(1 - torch.exp(2 * decay))
    x = activations * gate(self.input_gate_weight, self.input_gate_bias) * scale
    return _rnn_steps((torch.exp(decay) * (1 - starts)).transpose(0, 1), x.transpose(0, 1)).transpose(0, 1)


def _causal_mask(attention_mask: Any, input_tensor: Any, _cache_position: Any) -> Any:
    """RecurrentGemma's, which is as wide as the window or the text, whichever is longer, and is then cut to the text."""
    length = input_tensor.shape[1]
    places = torch.arange(length)
    seen = (places[None, :] <= places[:, None])[None, None] & (attention_mask[:, None, None, :] != 0)
    return torch.where(seen, 0.0, torch.finfo(input_tensor.dtype).min)


@_scripted
def _delta_steps(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """The gated delta rule (arXiv 2412.06464, equation 10).

    query, key, value: [length, batch, heads, size]; decay, beta: [length, batch, heads].
    """
    state = torch.zeros_like(key[0].unsqueeze(-1) * value[0].unsqueeze(-2))
    given = torch.jit.annotate(list[torch.Tensor], [])
    for t in range(key.shape[0]):
        state = state * torch.exp(decay[t]).unsqueeze(-1).unsqueeze(-1)
        known = (state * key[t].unsqueeze(-1)).sum(-2)
        state = state + key[t].unsqueeze(-1) * ((value[t] - known) * beta[t].unsqueeze(-1)).unsqueeze(-2)
        given.append((state * query[t].unsqueeze(-1)).sum(-2))
    return torch.stack(given)


def _delta_rule(query: Any, key: Any, value: Any, g: Any, beta: Any, use_qk_l2norm_in_kernel: bool = False, **_: Any) -> Any:
    """All: [batch, length, heads, ...]."""
    if use_qk_l2norm_in_kernel:
        query, key = (each * torch.rsqrt((each * each).sum(-1, keepdim=True) + 1e-6) for each in (query, key))
    query = query / query.shape[-1] ** 0.5
    return _delta_steps(*(each.transpose(0, 1) for each in (query, key, value, g, beta))).transpose(0, 1), None


@_scripted
def _attention_steps(decay: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """decay: [heads, 1, 1]; query, key, value: [length, batch, heads, size]."""
    state = torch.zeros_like(key[0].unsqueeze(-1) * value[0].unsqueeze(-2))
    given = torch.jit.annotate(list[torch.Tensor], [])
    for t in range(key.shape[0]):
        state = decay * state + key[t].unsqueeze(-1) * value[t].unsqueeze(-2)
        given.append((state * query[t].unsqueeze(-1)).sum(-2))
    return torch.stack(given)


def _lightning(self: Any, hidden_states: Any, attention_mask: Any = None, **_: Any) -> Any:
    """MiniMax's linear attention."""
    batch, length, _width = hidden_states.shape
    mixed = self.act_fn(self.qkv_proj(hidden_states)).reshape(batch, length, self.num_attention_heads, 3 * self.head_dim)
    query, key, value = torch.split(mixed, self.head_dim, dim=3)
    if attention_mask is not None:
        value = value * attention_mask[:, :, None, None].to(value.dtype)
    decay = torch.exp(-self.slope_rate).reshape(-1, 1, 1)
    given = _attention_steps(decay, *(each.transpose(0, 1) for each in (query, key, value))).transpose(0, 1)
    given = self.norm(given.reshape(batch, length, -1))
    return self.out_proj(functional.sigmoid(self.output_gate(hidden_states)) * given), None


@_scripted
def _lstm_steps(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, taken: torch.Tensor, kept: torch.Tensor, least: float
) -> torch.Tensor:
    """The matrix LSTM (arXiv 2405.04517, equations 19 to 27). query, key, value: [length, batch, heads, size]; gates without."""
    memory = torch.zeros_like(key[0].unsqueeze(-1) * value[0].unsqueeze(-2))
    weight, most = torch.zeros_like(key[0]), torch.zeros_like(taken[0])
    given = torch.jit.annotate(list[torch.Tensor], [])
    for t in range(key.shape[0]):
        peak = torch.maximum(kept[t] + most, taken[t])
        old, new = torch.exp(kept[t] + most - peak).unsqueeze(-1), torch.exp(taken[t] - peak).unsqueeze(-1)
        memory = old.unsqueeze(-1) * memory + new.unsqueeze(-1) * (key[t].unsqueeze(-1) * value[t].unsqueeze(-2))
        weight, most = old * weight + new * key[t], peak
        below = torch.maximum((query[t] * weight).sum(-1).abs(), torch.exp(-peak)) + least
        given.append((memory * query[t].unsqueeze(-1)).sum(-2) / below.unsqueeze(-1))
    return torch.stack(given)


def _matrix_lstm(query: Any, key: Any, value: Any, igate: Any, fgate: Any, eps: float, **_: Any) -> Any:
    """query, key, value: [batch, heads, length, size]; gates without size."""
    kept = -functional.softplus(-fgate)
    parts = (each.permute(2, 0, 1, 3) for each in (query * query.shape[-1] ** -0.5, key, value))
    given = _lstm_steps(*parts, *(each.permute(2, 0, 1) for each in (igate, kept)), eps).permute(1, 2, 0, 3)
    return given, (None, None, None)


_FORWARDS: Mapping[str, Callable[..., Any]] = {
    "MambaMixer": _mamba,
    "FalconMambaMixer": _mamba,
    "JambaMambaMixer": _mamba,
    "ZambaMambaMixer": _zamba,
    "Mamba2Mixer": _mamba2,
    "BambaMixer": _mamba2,
    "FalconH1Mixer": _mamba2,
    "GraniteMoeHybridMambaLayer": _mamba2,
    "Zamba2MambaMixer": _mamba2,
    "MiniMaxLightningAttention": _lightning,
    "RecurrentGemmaRglru": _rglru,
}
