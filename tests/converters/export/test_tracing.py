"""What stands in for functions that have no ONNX form computes the same."""

from __future__ import annotations

import torch
from transformers.models.bit.modeling_bit import BitMaxPool2d

from converters.export.tracing import pools_apart_from_pads, traceable


def test_rows_that_go_to_one_place_are_all_added() -> None:
    index, source = torch.tensor([0, 2, 0]), torch.randn(3, 4)
    expected = torch.zeros(3, 4).index_add(0, index, source)
    with traceable():
        found = torch.zeros(3, 4).index_add(0, index, source)
    assert torch.allclose(found, expected)


def test_two_real_tensors_turn_as_a_complex_one_does() -> None:
    angle, pairs = torch.randn(5, 2), torch.randn(3, 5, 4)

    def turned() -> torch.Tensor:
        turn = torch.polar(torch.ones_like(angle), angle)
        number = torch.view_as_complex(pairs.reshape(3, 5, 2, 2))
        return torch.view_as_real(number * turn[None].to(angle.device)).flatten(2)

    expected = turned()
    with traceable():
        assert torch.allclose(turned(), expected, atol=1e-6)


def test_repeating_counting_and_small_exponents_stay_what_they_are() -> None:
    value = torch.randn(2, 3, 4)

    def computed() -> tuple[torch.Tensor, ...]:
        return (
            torch.repeat_interleave(value, 2, dim=-1),
            torch.repeat_interleave(value, 3, dim=1),
            torch.cumsum(value > 0, dim=1),
            (value > 0).cumsum(-1),
            torch.expm1(value),
        )

    expected = computed()
    with traceable():
        found = computed()
    assert all(
        torch.allclose(one, other, atol=1e-6) and one.dtype == other.dtype for one, other in zip(found, expected, strict=True)
    )


def test_a_pool_after_a_padding_gives_the_same() -> None:
    pool, value = BitMaxPool2d(kernel_size=3, stride=2, padding=(1, 1)), -torch.rand(1, 2, 8, 8)
    expected = pool(value)
    with pools_apart_from_pads():
        assert torch.equal(pool(value), expected)
