"""Learning rates beside those of transformers, which are not ours."""

from __future__ import annotations

import pytest

from c2d_adapter.algorithms.schedule import SHAPES, learning_rate


@pytest.mark.parametrize("warmup_steps", [0, 3, 10])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_rates_are_those_of_transformers(shape: str, warmup_steps: int) -> None:
    import torch
    from transformers import get_scheduler

    names = {"constant": "constant_with_warmup"}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_scheduler(names.get(shape, shape), optimizer, num_warmup_steps=warmup_steps, num_training_steps=20)
    for step in range(20):
        ours = learning_rate(step, steps=20, highest=0.3, shape=shape, warmup_steps=warmup_steps)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
