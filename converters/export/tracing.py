"""What transformers' models do that torch.onnx's TorchScript exporter cannot write, in a form that it can.

In: nothing. Out: patches that last as long as a `with`. This module must never change what a model computes: parity decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Patch functions of torch 2.13 that have no ONNX form in its TorchScript exporter, or a wrong one."""
    with contextlib.ExitStack() as patches:
        for name, replacement in _FUNCTIONS.items():
            patches.enter_context(patch.object(torch, name, replacement))
        for name, replacement in _METHODS.items():
            patches.enter_context(patch.object(torch.Tensor, name, replacement))
        yield


_torch_batch_norm = torch.nn.functional.batch_norm


@contextlib.contextmanager
def batch_norms_by_hand() -> Iterator[None]:
    """Both of torch 2.13's exporters take a normalisation by the batch's own statistics for one by kept ones.

    BiT standardises the weights of its convolutions that way.
    """
    with patch.object(torch.nn.functional, "batch_norm", _batch_norm):
        yield


def _batch_norm(
    value: torch.Tensor,
    kept_mean: Any,
    kept_variance: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    *rest: Any,
    **given: Any,
) -> torch.Tensor:
    if not training or kept_mean is not None or weight is not None or bias is not None:
        return _torch_batch_norm(value, kept_mean, kept_variance, weight, bias, training, *rest, **given)
    axes = [axis for axis in range(value.dim()) if axis != 1]
    variance, mean = torch.var_mean(value, axes, correction=0, keepdim=True)
    return (value - mean) / torch.sqrt(variance + given.get("eps", 1e-5))


class _Complex:
    """A complex tensor as two real ones, for the rotary embeddings that are written with complex numbers; ONNX has none."""

    def __init__(self, real: torch.Tensor, imaginary: torch.Tensor) -> None:
        self.real, self.imag = real, imaginary

    @property
    def shape(self) -> torch.Size:
        return self.real.shape

    @property
    def ndim(self) -> int:
        return self.real.dim()

    @property
    def device(self) -> torch.device:
        return self.real.device

    def __mul__(self, other: Any) -> _Complex:
        if not isinstance(other, _Complex):
            return _Complex(self.real * other, self.imag * other)
        return _Complex(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> _Complex:
        return _Complex(self.real[index], self.imag[index])

    def __getattr__(self, name: str) -> Any:
        """`to`, `view`, `unsqueeze` and the like: of both parts."""
        if name.startswith("__"):
            raise AttributeError(name)

        def of_both(*args: Any, **given: Any) -> _Complex:
            return _Complex(getattr(self.real, name)(*args, **given), getattr(self.imag, name)(*args, **given))

        return of_both


def _polar(absolute: torch.Tensor, angle: torch.Tensor) -> _Complex:
    return _Complex(absolute * angle.cos(), absolute * angle.sin())


def _view_as_complex(pairs: torch.Tensor) -> _Complex:
    return _Complex(pairs[..., 0], pairs[..., 1])


def _view_as_real(number: _Complex) -> torch.Tensor:
    return torch.stack([number.real, number.imag], dim=-1)


def _expm1(value: torch.Tensor) -> torch.Tensor:
    return torch.exp(value) - 1


_torch_repeat_interleave = torch.repeat_interleave


def _repeat_interleave(value: Any, repeats: Any = None, dim: int | None = None, **given: Any) -> Any:
    """With a plain number of repeats; torch's own writes a Concat of two ranks where the size is not known."""
    if not isinstance(repeats, int) or dim is None:
        return _torch_repeat_interleave(value, repeats, dim, **given)
    place = dim % value.dim()
    wide = value.unsqueeze(place + 1).expand(*value.shape[: place + 1], repeats, *value.shape[place + 1 :])
    return wide.flatten(place, place + 1)


def _index_add(self: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, **given: Any) -> torch.Tensor:
    """torch's own loses all but one of the rows that go to the same place; only its warning says so."""
    if given:
        raise NotImplementedError(f"index_add with {sorted(given)}")
    shape = [1] * source.dim()
    shape[dim] = -1
    return self.scatter_add(dim, index.view(shape).expand_as(source), source)


_torch_cumsum = torch.cumsum


def _cumsum(value: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
    """ONNX counts numbers, not truths."""
    return _torch_cumsum(value.long() if value.dtype == torch.bool else value, *args, **given)


_FUNCTIONS = {
    "cumsum": _cumsum,
    "polar": _polar,
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "expm1": _expm1,
    "repeat_interleave": _repeat_interleave,
}
_METHODS = {"index_add": _index_add, "cumsum": _cumsum}
