"""The processes that train one model together, by `torch.distributed`.

In: a place among them. Out: a model whose gradients are the mean over all, sums over all, and the whole state in the first process.
This module must never decide what is trained.

`ddp`: each holds the model, gradients are averaged (Li et al., 2020, "PyTorch Distributed"). `fsdp`: each holds a part of
weights, gradients and optimizer, and fetches the rest layer by layer (Zhao et al., 2023; `fully_shard`). ZeRO is in `zero.py`.
gloo on processors, NCCL on GPUs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from c2d_adapter.job_io import Place

_WAIT = timedelta(minutes=10)
"""How long one waits for another before it gives up; a process that died is noticed at once, by its closed connection."""
_KEPT: list[Any] = []
"""Groups, which are never taken apart: that waits for a thread that may wait for Python (torch 2.13: one of eight trainings by two
processes hung so after its result). A job's process ends right after it."""
ZERO_STAGES = {"deepspeed-zero2": 2, "deepspeed-zero3": 3}
"""Sharding -> stage of ZeRO."""


class Workers:
    """All that takes more than one process. With one process every method does the plain thing."""

    def __init__(self, place: Place) -> None:
        self.place = place
        has_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda", place.local_rank) if has_gpu else torch.device("cpu")
        if has_gpu:
            torch.cuda.set_device(self.device)
        if place.world > 1:
            distributed.init_process_group("nccl" if has_gpu else "gloo", timeout=_WAIT)
            _KEPT.append(distributed.group.WORLD)

    @property
    def are_sharded(self) -> bool:
        """Does no process hold a whole model that can be saved?"""
        return self.place.world > 1 and self.place.sharding != "ddp"

    @property
    def zero_stage(self) -> int:
        """Of DeepSpeed's ZeRO; 0 where it has no part in this."""
        return ZERO_STAGES.get(self.place.sharding, 0) if self.place.world > 1 else 0

    def wrap(self, model: Any) -> Any:
        """What is called for a forward pass. All processes must have loaded the same weights."""
        if self.are_sharded:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh(self.device.type, (self.place.world,))
            for layer in _layers(model):
                fully_shard(layer, mesh=mesh)
            return fully_shard(model, mesh=mesh)
        if self.place.world > 1:
            from torch.nn.parallel import DistributedDataParallel

            return DistributedDataParallel(
                model, forward_sync_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=leaves_some_out(model)
            )
        return model

    def sums(self, values: list[float]) -> list[float]:
        """Each value summed over all processes; the same in all of them."""
        if self.place.world == 1:
            return values
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(summed)
        return [float(value) for value in summed.tolist()]

    def wait_for_all(self) -> None:
        if self.place.world > 1:
            distributed.barrier()

    def leave(self) -> None:
        if self.place.world > 1:
            distributed.destroy_process_group()

    def state(self, model: Any, optimizer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights that are trained and the optimizer's state, whole. Sharded: all must call it, and only the first gets them."""
        if self.are_sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            weights, state = get_state_dict(model, optimizer, options=options)
            return dict(weights), dict(state)
        trained = {name for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
        return {name: value for name, value in model.state_dict().items() if name in trained}, optimizer.state_dict()

    def restore(self, model: Any, optimizer: Any, weights: dict[str, Any], state: dict[str, Any]) -> None:
        """The opposite of `state`; every process has read both."""
        if self.are_sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

            options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
            set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state, options=options)
            return
        model.load_state_dict(weights, strict=False)
        optimizer.load_state_dict(state)


def leaves_some_out(model: Any) -> bool:
    """Experts that no token chose, and layers left out by chance, have no gradient in some steps."""
    return any(("expert" in name or "layerdrop" in name) and value for name, value in model.config.to_dict().items())


def _layers(model: Any) -> list[Any]:
    """The model's longest list of layers: each is fetched, used and given back as one."""
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return max(lists, key=len, default=[])
