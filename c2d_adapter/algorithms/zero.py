"""Weights that are changed by DeepSpeed's ZeRO (Rajbhandari et al., 2020, "ZeRO: Memory Optimizations Toward Training Trillion
Parameter Models"): stage 2 shares out gradients and optimizer, stage 3 weights as well.

In: as `learner.py`. Out: the same. This module must never be needed where nobody asked for ZeRO: DeepSpeed is a package apart. It
must never have DeepSpeed read or write a checkpoint: its own are folders that every process writes into, and pickles.

A state is each weight and its two moments, whole, collected in the first process; it does not depend on the number of processes
or the stage. Tested against deepspeed 0.19.8; what is not in its documented interface is marked below.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from c2d_adapter.algorithms.learner import AUTOCAST, Manner, optimizer_of
from c2d_adapter.algorithms.parallel import Workers, leaves_some_out
from c2d_adapter.job_io import JobFailed

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 50_000_000
"""Most numbers that are sent at once. DeepSpeed's own default is ten times as many, and takes room for all of them at once."""


class ZeroLearner:
    """By DeepSpeed. `world` is at least 2."""

    def __init__(self, model: Any, manner: Manner, workers: Workers, kept: Mapping[str, Any] | None) -> None:
        """Raises JobFailed without DeepSpeed, in fp16, and for a model of which a step may leave out a part."""
        if manner.precision == "fp16":
            raise JobFailed("internal", "A training that is shared by DeepSpeed cannot be done in fp16: choose bf16 or fp32.")
        if leaves_some_out(model):
            # Processes exchange each part's gradients as it is done, and would wait for different ones.
            raise JobFailed(
                "unsupported_model", "The model uses a part of its experts or layers in a step, which ZeRO cannot train."
            )
        deepspeed = _deepspeed()
        self._workers, self._stage = workers, workers.zero_stage
        self._tools = deepspeed.utils
        if kept is not None:
            model.load_state_dict(kept["weights"], strict=False)
        self._trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        config = _config(self._stage, manner, sum(value.numel() for value in self._trained.values()))
        self.wrapped = deepspeed.initialize(
            model=model, optimizer=optimizer_of(model, manner), config=config, dist_init_required=False
        )[0]
        self._make_state(0.0 if kept is None else kept["steps"])
        if kept is not None:
            for moment, values in kept["moments"].items():
                for name, value in self._trained.items():
                    self._put(value, values[name].to(self._workers.device), moment)

    def arithmetic(self) -> AbstractContextManager[Any]:
        return nullcontext()  # the engine sees to it, and would undo ours

    def set_rate(self, rate: float) -> None:
        for group in self.wrapped.optimizer.param_groups:
            group["lr"] = rate

    def learn(self, loss: Any) -> bool:
        self.wrapped.backward(loss)
        self.wrapped.step()
        return bool(self.wrapped.was_step_applied())

    def weights(self) -> dict[str, Any]:
        return self._collected(self._tools.safe_get_full_fp32_param)

    def state(self) -> dict[str, Any]:
        read = self._tools.safe_get_full_optimizer_state
        moments = {moment: self._collected(lambda value, moment=moment: read(value, moment)) for moment in _MOMENTS}
        steps = float(self.wrapped.optimizer.state[self._parts[0]]["step"])
        return {"weights": self.weights(), "moments": moments, "steps": steps}

    def are_finite(self) -> bool:
        mine = all(bool(torch.isfinite(part).all()) for part in self._parts)
        return self._workers.sums([float(not mine)])[0] == 0

    @property
    def _parts(self) -> list[Any]:
        """This process's share of the weights, as flat tensors; not documented."""
        zero = self.wrapped.optimizer
        return list(zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups)

    def _collected(self, read: Any) -> dict[str, Any]:
        """Each whole tensor in turn, kept in the first process alone. All must call it: each has a part of every one."""
        found = {}
        for name, value in self._trained.items():
            whole = read(value)
            if self._workers.place.is_first:
                found[name] = whole.detach().to("cpu", copy=True)
        return found

    def _make_state(self, steps: float) -> None:
        """As AdamW makes it at its first step. Left to that, stage 2 would link weights and state when only the first of AdamW's
        groups has one, and would find none for the others ever after."""
        zero = self.wrapped.optimizer
        for part in self._parts:
            empty = {moment: torch.zeros_like(part) for moment in _MOMENTS}
            zero.state[part] = {"step": torch.tensor(steps, dtype=torch.float32, device=part.device), **empty}
        if self._stage == 2:
            zero._lazy_init_hp_params_optimizer_state()  # not documented

    def _put(self, value: Any, whole: Any, moment: str) -> None:
        if self._stage == 2:
            self._tools.safe_set_full_optimizer_state(value, whole, moment)
            return
        # Its own function for a whole tensor reads past the end of one that is not a multiple of the number of processes.
        place, room = self._workers.place, value.ds_tensor.numel()
        mine = torch.zeros(room, device=whole.device)
        share = whole.flatten()[place.rank * room : (place.rank + 1) * room]
        mine[: len(share)] = share
        self._tools.safe_set_local_optimizer_state(value, mine, moment)


def _config(stage: int, manner: Manner, numbers: int) -> dict[str, Any]:
    bucket = min(_BUCKET, numbers)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # for its own statistics alone
        "gradient_accumulation_steps": 1,
        "gradient_clipping": manner.clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket},
    }
    if manner.precision in AUTOCAST:
        numbers_of = str(AUTOCAST[manner.precision]).removeprefix("torch.")
        # No module's gradients are sent in short numbers: elsewhere they are not either.
        config["torch_autocast"] = {"enabled": True, "dtype": numbers_of, "lower_precision_safe_modules": []}
    return config


def _deepspeed() -> Any:
    try:
        import deepspeed
        import deepspeed.ops
    except ModuleNotFoundError as error:
        raise JobFailed("internal", "A machine of this market lacks DeepSpeed, by which its operator shares trainings.") from error
    deepspeed.utils.logger.setLevel(logging.ERROR)
    # Its own kernel for sums on one machine is compiled at the first use, by programs that a job must not start; gloo does it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
