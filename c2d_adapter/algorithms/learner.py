"""What changes a model's weights by a loss, and what must be kept of it to go on.

In: a model, the processes that train it, perhaps a state that was kept. Out: a model to call, changed step by step. This module
must never know what is trained on.

A state is tensors, numbers and lists alone; all processes must ask for it, and only the first gets it where weights are shared out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from c2d_adapter.algorithms.parallel import Workers

AUTOCAST: Mapping[str, Any] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precision of a pass -> its numbers; with any other they are float32, as weights always are."""


@dataclass(frozen=True)
class Manner:
    """How weights are changed. clip: the gradient's length, at most; 0 for any."""

    learning_rate: float
    weight_decay: float
    clip: float
    precision: str


class Learner(Protocol):
    """`wrapped` is what is called for a forward pass, within `arithmetic`."""

    wrapped: Any

    def arithmetic(self) -> AbstractContextManager[Any]: ...

    def set_rate(self, rate: float) -> None: ...

    def learn(self, loss: Any) -> bool:
        """Change the weights once. False: the gradient is no finite number, and they are as they were."""

    def weights(self) -> dict[str, Any]:
        """Those that are trained, by name, whole."""

    def state(self) -> dict[str, Any]:
        """What another learner of the same kind takes to go on from here, weights included."""

    def are_finite(self) -> bool:
        """Are the trained weights finite numbers? The same in all processes."""


def learner_of(model: Any, manner: Manner, workers: Workers, kept: Mapping[str, Any] | None) -> Learner:
    """kept: a state to go on from. Raises JobFailed where ZeRO cannot train this model, or not in this manner."""
    if workers.zero_stage:
        from c2d_adapter.algorithms.zero import ZeroLearner

        return ZeroLearner(model, manner, workers, kept)
    return PlainLearner(model, manner, workers, kept)


def optimizer_of(model: Any, manner: Manner) -> Any:
    """AdamW. As usual, decay is for matrices, neither for biases nor for norms."""
    trained = [value for value in model.parameters() if value.requires_grad]
    kinds = [
        {"params": [value for value in trained if value.ndim >= 2], "weight_decay": manner.weight_decay},
        {"params": [value for value in trained if value.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([one for one in kinds if one["params"]], lr=manner.learning_rate, fused=True)


class PlainLearner:
    """By PyTorch alone: one process, `ddp` or `fsdp`."""

    def __init__(self, model: Any, manner: Manner, workers: Workers, kept: Mapping[str, Any] | None) -> None:
        self._model, self._manner, self._workers = model, manner, workers
        self.wrapped = workers.wrap(model)
        self._trained = [value for value in model.parameters() if value.requires_grad]
        self._optimizer = optimizer_of(model, manner)
        # A loss in half precision is scaled up so that small gradients are not lost; a step in which one overflowed is left out.
        self._scaler = torch.amp.GradScaler(workers.device.type, enabled=manner.precision == "fp16")
        if kept is not None:
            workers.restore(model, self._optimizer, kept["weights"], kept["optimizer"])
            if self._scaler.is_enabled():
                self._scaler.load_state_dict(kept["scaler"])

    def arithmetic(self) -> AbstractContextManager[Any]:
        numbers = AUTOCAST.get(self._manner.precision)
        return nullcontext() if numbers is None else torch.autocast(self._workers.device.type, dtype=numbers)

    def set_rate(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def learn(self, loss: Any) -> bool:
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        length = torch.nn.utils.clip_grad_norm_(self._trained, self._manner.clip or math.inf)
        if not self._scaler.is_enabled() and not bool(torch.isfinite(length)):
            return False
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return True

    def weights(self) -> dict[str, Any]:
        return self._workers.state(self._model, self._optimizer)[0]

    def state(self) -> dict[str, Any]:
        weights, optimizer = self._workers.state(self._model, self._optimizer)
        return {"weights": weights, "optimizer": optimizer, "scaler": self._scaler.state_dict()}

    def are_finite(self) -> bool:
        return all(bool(torch.isfinite(value).all()) for value in self._trained)
