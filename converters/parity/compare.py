"""The worst difference between two computations of one output, and the bound it must keep.

In: arrays that should be equal, and answers that should not. Out: a line for `entry.json`, or ParityFailed. This module must never
widen a bound because a model missed it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy

from converters.errors import ParityFailed
from converters.probes import SMALLEST_SCALE

BOUNDS = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1, "int8": 1.6e-1, "int4": 6e-1}
"""Largest difference from PyTorch in float32, as a part of the largest reference value of that output.

fp32: two float32 programs that sum in another order drift apart like a random walk: 2**-24 times the square root of layers * 2 *
width, so 3e-5 for GPT-J (28 layers, 4096 wide) and 8e-6 for GPT-2; the bound leaves room for three times GPT-J's. Measured with
ONNX Runtime 1.31 and torch 2.13: 5e-6 for GPT-2 with 124 M parameters at 1,024 tokens, 2e-6 for a trained one of 4 M, 5e-7 for
all-MiniLM-L6-v2. A wrong position, a cut cache or 8-bit weights give 1e-3 and more.

fp16: sums are still float32, but about a dozen results of each layer are rounded by 2**-11 on their way to the output: a random
walk of 2**-11 * sqrt(12 * 28) = 9e-3 for GPT-J's 28 layers, and twice that for the worst of many values. bf16: the same with 2**-8.
Measured: 3e-3 and 2e-2 for all-MiniLM-L6-v2, 8e-4 and 7e-3 for the trained GPT-2 of 4 M.

int8: 32 normal weights span 4.1 of their deviations, so a step is 0.016 of one and its error 0.5 %; activations are rounded alike:
0.7 % a product, and 4 products in a row in each of 28 layers walk to 7e-2; twice that, as above. Measured: 5e-2 and 9e-3.
int4: the step is 17 times as wide, and the walk would pass 1, which says nothing; so this bound is set between what was measured of
honest graphs (0.46 and 0.09) and of broken ones: zero points left out, scales of the neighbouring block or halves of a byte
exchanged give 0.99 and more with 4 bits as with 8. One broken matrix of many can hide below it, and the quality figures are there
for that.
"""

LEAST_SPREAD = 1e-3
"""How far apart PyTorch's answers to different inputs must lie, as a part of the largest: ten times float32's bound. A model that
says the same of all, as an untrained one with dead activations does, agrees with any graph: a tiny EfficientNet did, to the last
bit. In a lower precision it is the same model, and float32 has been compared before."""


def scale_of(values: Any) -> float:
    """What differences of these values are a part of: the largest of them."""
    return max(SMALLEST_SCALE, float(numpy.abs(values).max()))


class Worst:
    """The worst difference of one output so far."""

    def __init__(self, output: str, bound: float) -> None:
        self.output, self.bound = output, bound
        self.absolute = self.relative = 0.0
        self.sizes: list[list[int]] = []

    def compare(self, found: Any, expected: Any, size: tuple[int, ...]) -> None:
        """Both float32; padded positions have been taken out. Raises ParityFailed past the bound, or for NaN or another shape.

        An infinity, which a mask leaves behind, must be the same infinity.
        """
        if found.shape != expected.shape:
            raise ParityFailed(f"ONNX gives {self.output!r} of shape {found.shape} where PyTorch gives {expected.shape}, at {size}")
        if expected.size == 0:
            return
        is_same_infinity = numpy.isinf(expected) & (found == expected)
        expected, found = (numpy.where(is_same_infinity, 0, each) for each in (expected, found))
        difference = float(numpy.abs(found - expected).max())
        self._note(difference, difference / scale_of(expected), size)

    def regret(self, regret: float, logits: Any, size: tuple[int, ...]) -> None:
        """How far below PyTorch's best of these logits the chosen token's lies."""
        self._note(regret, regret / scale_of(logits), size)

    def _note(self, absolute: float, relative: float, size: tuple[int, ...]) -> None:
        if not relative <= self.bound:  # also refuses NaN
            raise ParityFailed(
                f"ONNX differs from PyTorch by {relative:.1e} of the largest value at output {self.output!r},"
                f" {_shown(size)}; bound is {self.bound:.1e}"
            )
        self.absolute, self.relative = max(self.absolute, absolute), max(self.relative, relative)
        if list(size) not in self.sizes:
            self.sizes.append(list(size))

    def line(self) -> dict[str, Any]:
        return {
            "output": self.output,
            "worst_absolute": round_up(self.absolute),
            "worst_relative": round_up(self.relative),
            "bound": self.bound,
            "sizes": self.sizes,
        }


class Spread:
    """How far apart PyTorch's answers to different inputs lie, of one output so far."""

    def __init__(self, output: str) -> None:
        self.output, self.widest = output, 0.0

    def note(self, answers: Any) -> None:
        """answers: [inputs, ...], to different inputs of one size; an infinity, which a mask leaves behind, tells nothing."""
        told = numpy.where(numpy.isfinite(answers), answers, 0)
        self.widest = max(self.widest, float(numpy.abs(told - told[:1]).max()) / scale_of(told))

    def refuse_alike(self, inputs: str) -> None:
        """inputs: what they are, such as "images". Raises ParityFailed when all answers were as good as one."""
        if self.widest <= LEAST_SPREAD:
            raise ParityFailed(
                f"PyTorch gives {self.output!r} within {self.widest:.1e} alike for different {inputs}: expected them to lie"
                f" {LEAST_SPREAD:.1e} apart at least, or the comparison proves nothing"
            )


def _shown(size: tuple[int, ...]) -> str:
    """Batch and sequence of a text, batch, rows and columns of an image."""
    names = ("batch", "sequence") if len(size) == 2 else ("batch", "rows", "columns")
    return ", ".join(f"{name} {length}" for name, length in zip(names, size, strict=False))


def round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten: a measured difference that stays the same from run to run."""
    if value == 0:
        return 0.0
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{next(step for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-12)) * power:.0e}")
