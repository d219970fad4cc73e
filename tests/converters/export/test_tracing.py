"""What stands in for functions that have no ONNX form computes the same."""

from __future__ import annotations

import torch

from converters.export.tracing import batch_norms_by_hand, traceable


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


def test_weights_are_standardised_as_by_a_batch_norm() -> None:
    weights = torch.randn(1, 6, 9)
    expected = torch.nn.functional.batch_norm(weights, None, None, training=True, momentum=0.0, eps=1e-6)
    with batch_norms_by_hand():
        found = torch.nn.functional.batch_norm(weights, None, None, training=True, momentum=0.0, eps=1e-6)
    assert torch.allclose(found, expected, atol=1e-5)
