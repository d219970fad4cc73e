"""What transformers' models do that torch.onnx's TorchScript exporter cannot write, in a form that it can.

In: nothing. Out: patches that last as long as a `with`. This module must never change what a model computes: parity decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from transformers.models.bit.modeling_bit import BitMaxPool2d

from converters.errors import ConversionFailed


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """Patch functions of torch 2.13 that have no ONNX form in its TorchScript exporter, or a wrong one."""
    with contextlib.ExitStack() as patches:
        for name, replacement in _FUNCTIONS.items():
            patches.enter_context(patch.object(torch, name, replacement))
        for name, replacement in _METHODS.items():
            patches.enter_context(patch.object(torch.Tensor, name, replacement))
        yield


@contextlib.contextmanager
def pools_apart_from_pads() -> Iterator[None]:
    """ONNX Runtime 1.31 takes a padding with zeros into the pool after it, which pads with less than any number.

    To see whether that is gone: BiT converts without this.
    """
    with patch.object(BitMaxPool2d, "forward", _pool):
        yield


def _pool(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    padded = self.pad(hidden_states)
    # The larger of a thing and itself, to stand between the two.
    return torch.nn.functional.max_pool2d(
        torch.maximum(padded, padded), self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
    )


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
        raise ConversionFailed(f"index_add: expected a place, rows and nothing else, found {sorted(given)} too")
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
