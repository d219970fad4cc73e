"""Random weights under which a tiny model tells its inputs apart.

In: a PyTorch model as its constructor left it. Out: the same model with seeded weights. This module must never change a shape.

A constructor's weights (normal, 0.02) make a tiny model answer nearly the same to everything, and a comparison of such answers
would show nothing: every layer is drawn so that what goes in with variance 1 comes out with about variance 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch

_KEPT = ("A_log", "dt_bias", "dt_proj.bias", "time_decay", "time_first", "logit_scale", "inv_freq", "rope", "alpha", "temperature")
"""Parameters that mean a rate, a scale or an angle: their constructors' values are the sensible ones."""


def spread(model: Any, seed: int) -> None:
    """Draw the weights anew; the same seed gives the same weights."""
    with torch.no_grad():
        _spread(model, seed)


def _spread(model: Any, seed: int) -> None:
    chances = torch.Generator().manual_seed(seed)
    drawn: set[int] = set()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.nn.Parameter) or weight.ndim < 2 or id(weight) in drawn:
            continue
        drawn.add(id(weight))
        _fill(weight, _deviation(module, weight), chances)
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            weight[module.padding_idx] = 0
    for name, parameter in model.named_parameters():
        if id(parameter) in drawn or not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        drawn.add(id(parameter))
        if any(part in name for part in _KEPT):
            continue
        _draw_other(parameter, chances)


def _deviation(module: Any, weight: Any) -> float:
    if isinstance(module, torch.nn.Embedding):
        # Small beside what the layers add, or a model whose output table is its input table repeats the token it read.
        return 0.2
    if type(module).__name__ == "Conv1D":  # transformers' own: [in, out]
        return 1 / math.sqrt(weight.shape[0])
    # What a convolution's rectifier takes away is given back.
    gain = math.sqrt(2) if weight.ndim > 2 else 1.0
    return gain / math.sqrt(max(1, weight[0].numel()))


def _draw_other(parameter: Any, chances: torch.Generator) -> None:
    """Biases, norms, tokens and tables that stand alone; experts' weights are [experts, in, out] or [experts, out, in]."""
    is_unset = not bool(torch.isfinite(parameter).all()) or float(parameter.abs().max()) > 1e4
    if parameter.ndim >= 3 and min(parameter.shape[-2:]) >= 8:
        _fill(parameter, 1 / math.sqrt(parameter.shape[-2]), chances)
    elif is_unset:
        _fill(parameter, 0.1, chances)
    else:
        # A layer scale of 1e-6 would switch its branch off.
        if parameter.ndim == 1 and 0 < float(parameter.abs().max()) < 1e-2:
            parameter.fill_(0.5)
        parameter += 0.1 * torch.randn(parameter.shape, generator=chances, dtype=torch.float32).to(parameter.dtype)


def _fill(parameter: Any, deviation: float, chances: torch.Generator) -> None:
    parameter.copy_(deviation * torch.randn(parameter.shape, generator=chances, dtype=torch.float32))
