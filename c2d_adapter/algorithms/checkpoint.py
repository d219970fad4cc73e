"""What a training needs to go on: its state after a step, on disk.

In: a state of tensors, numbers and lists. Out: the newest whole one. This module must never read a checkpoint that it did not
write, nor run code from one.

Batches, learning rates and random numbers follow from the step's number (`blocks.py`, `schedule.py`, `train.py`), so the state
is weights, optimizer, what was measured so far, and the number. A checkpoint is renamed into place when it is whole and on
disk; a crash before that leaves the one before, and a crash after it an older one too many, which the next takes away.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_SUFFIX = ".checkpoint"


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write the state after `step` steps. Again: replaces it."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "new"
    with scratch.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    kept = folder / f"{step:08}{_SUFFIX}"
    scratch.replace(kept)
    for path in _whole(folder):
        if path < kept:
            path.unlink()


def newest_step(folder: Path) -> int:
    """How many steps the newest checkpoint has done; 0 without one."""
    found = _whole(folder)
    return int(found[-1].name.removesuffix(_SUFFIX)) if found else 0


def load(folder: Path, step: int) -> dict[str, Any]:
    """The state after `step` steps, on the processor. Tensors and plain values only: anything else in the file is refused."""
    import torch

    return dict(torch.load(folder / f"{step:08}{_SUFFIX}", map_location="cpu", weights_only=True))


def _whole(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"[0-9]*{_SUFFIX}"))
