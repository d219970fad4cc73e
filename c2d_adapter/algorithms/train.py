"""Train a language model further, on texts.

In: a job's folder (`c2d_adapter/job_io.py`). Out: `out/` with a plain model, and `result.json`. This module must never write a
weight, a gradient or a path into what the job's owner sees.

After a crash it goes on from its newest checkpoint, and ends as it would have ended: which blocks a step trains on, what of them
is hidden, its learning rate and its random numbers follow from the seed and the step's number. On one processor type the result
is then the same to the bit. Another number of workers sees the same batches; sums are rounded in another order, and dropout
draws other numbers.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers

from c2d_adapter.algorithms import checkpoint, lora
from c2d_adapter.algorithms.blocks import Blocks, blocks_of, tokens_of
from c2d_adapter.algorithms.learner import Manner, learner_of
from c2d_adapter.algorithms.objectives import Lesson, lesson_of
from c2d_adapter.algorithms.parallel import Workers
from c2d_adapter.algorithms.plain_model import context_of, export, open_model
from c2d_adapter.algorithms.schedule import learning_rate
from c2d_adapter.job_io import Folder, JobFailed, Place, rounded, run

KIND = "train"
_USUAL_LENGTH = 256
_SHOWN_EVERY_S = 0.5
_MEAN_OF = 10
"""How many losses, at the beginning and at the end, make the two that the result tells: one step's loss is mostly chance."""
_CHECKPOINT_SHARE = 0.05
"""Most of the time that checkpoints may take: a large model is then saved less often than the operator asked for."""


@dataclass(frozen=True)
class Parameters:
    """As `control_plane/jobs/parameters.py` has parsed them, with the same defaults, but for the warm-up, which it always names.

    sequence_length: None for the usual one.
    """

    steps: int = 500
    batch_size: int = 8
    learning_rate: float = 5e-5
    schedule: str = "linear"
    warmup_steps: int = 0
    sequence_length: int | None = None
    seed: int = 0
    precision: str = "fp32"
    method: str = "full"
    lora_rank: int = 8
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    dataset: str = ""


@dataclass
class _Measured:
    """What a training tells of itself in the end. It is part of a checkpoint, so a restart leaves no gap."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, loss: float) -> None:
        if len(self.first) < _MEAN_OF:
            self.first.append(loss)
        self.last = [*self.last, loss][-_MEAN_OF:]


class Training:
    """One training in one process."""

    def __init__(
        self, parameters: Parameters, model: Any, lesson: Lesson, blocks: Blocks, workers: Workers, checkpoints: Path
    ) -> None:
        """Goes on from the newest checkpoint. Raises JobFailed where the model cannot be trained as the operator set."""
        self._parameters, self._workers, self._checkpoints = parameters, workers, checkpoints
        self._lesson, self._blocks = lesson, blocks
        model = model.to(workers.device)
        model.train()
        self.measured = _Measured()
        self._begun, kept = self._newest()
        if kept is not None:
            self.measured = _Measured(**kept["measured"])
        manner = Manner(parameters.learning_rate, parameters.weight_decay, parameters.gradient_clip, parameters.precision)
        self._learner = learner_of(model, manner, workers, kept)
        self._step_rate = 0.0
        self._saved_at, self._save_took_s = time.monotonic(), 0.0

    def go(self, show: Callable[[int, float, float], None]) -> None:
        """Train to the last step. show: step, loss, steps per second; called often enough."""
        steps, begun = self._parameters.steps, self._begun
        started = shown_at = time.monotonic()
        seconds_before = self.measured.seconds
        for step in range(begun, steps):
            loss, is_due = self._step(step)
            if not math.isfinite(loss):
                raise JobFailed(
                    "loss_not_finite",
                    f"The loss of step {step + 1} is no finite number. Try a lower learning rate or more warm-up.",
                )
            self.measured.add(loss)
            now = time.monotonic()
            self.measured.seconds = seconds_before + now - started
            if step == begun:
                first_done = now  # the first step also allocates
            elif now > first_done:
                self._step_rate = (step - begun) / (now - first_done)
            if step in (begun, steps - 1) or now - shown_at >= _SHOWN_EVERY_S:
                show(step + 1, math.fsum(self.measured.last) / len(self.measured.last), self._step_rate)
                shown_at = now
            if is_due and step + 1 < steps:
                self._save(step + 1)
        self._check_weights()

    def _step(self, step: int) -> tuple[float, bool]:
        """The mean loss of the step's whole batch over all processes, and whether a checkpoint is due: the same in all of them."""
        chosen, place = self._parameters, self._workers.place
        rate = learning_rate(
            step, steps=chosen.steps, highest=chosen.learning_rate, shape=chosen.schedule, warmup_steps=chosen.warmup_steps
        )
        self._learner.set_rate(rate)
        _seed(chosen.seed, step, place.rank)
        inputs, labels = self._lesson.given(self._blocks.batch(step, chosen.batch_size), chosen.seed, step)
        inputs, labels = {name: self._mine(value) for name, value in inputs.items()}, self._mine(labels)
        with self._learner.arithmetic():
            loss = self._lesson.loss(self._learner.wrapped, inputs, labels)
        # Processes may have one sequence more or less; gradients are averaged over processes, and ours must be over sequences.
        share = len(labels) / chosen.batch_size
        if not self._learner.learn(loss * (share * place.world) if place.world > 1 else loss):
            raise JobFailed(
                "loss_not_finite",
                f"The gradient of step {step + 1} is no finite number. Try a lower learning rate or more warm-up.",
            )
        total, due = self._workers.sums([float(loss.detach()) * share, float(place.is_first and self._is_checkpoint_due())])
        return total, due > 0

    def _mine(self, batch: Any) -> Any:
        """This process's sequences of a batch."""
        place = self._workers.place
        return torch.from_numpy(batch[place.rank :: place.world]).to(self._workers.device)

    def _is_checkpoint_due(self) -> bool:
        waited = time.monotonic() - self._saved_at
        return waited >= max(self._workers.place.checkpoint_s, self._save_took_s / _CHECKPOINT_SHARE)

    def _save(self, step: int) -> None:
        began = time.monotonic()
        state = self._learner.state()
        if self._workers.place.is_first:
            checkpoint.save(self._checkpoints, step, {**state, "measured": vars(self.measured)})
        self._saved_at = time.monotonic()
        self._save_took_s = 0.0 if self._workers.place.checkpoint_s == 0 else self._saved_at - began

    def _newest(self) -> tuple[int, Mapping[str, Any] | None]:
        """The step of the newest checkpoint, and what it holds; 0 and None without one."""
        # The first one looks and tells: a file that appears meanwhile must not send two processes to different steps.
        step = int(self._workers.sums([checkpoint.newest_step(self._checkpoints) * self._workers.place.is_first])[0])
        return step, checkpoint.load(self._checkpoints, step) if step else None

    def _check_weights(self) -> None:
        """The last step's loss was computed before its weights were changed."""
        if not self._learner.are_finite():
            raise JobFailed(
                "loss_not_finite", "The trained weights are not all finite numbers. Try a lower learning rate or more warm-up."
            )

    @property
    def steps_per_second(self) -> float:
        return self._step_rate

    def whole_weights(self) -> dict[str, Any]:
        return self._learner.weights()


def train(folder: Folder, place: Place) -> None:
    """Do the job. Again: goes on, and does nothing when the result is there. Raises JobFailed, for the job's owner."""
    if folder.is_done:
        return
    parameters = Parameters(**folder.parameters(KIND))
    if place.world > parameters.batch_size:
        raise JobFailed("internal", f"{place.world} workers cannot share a batch of {parameters.batch_size} sequences.")
    transformers.utils.logging.set_verbosity_error()
    workers = Workers(place)
    model, tokenizer, objective = open_model(folder.weights)
    lesson = lesson_of(objective, model, tokenizer)
    blocks = _blocks(folder, parameters, model, tokenizer, lesson, workers)
    model = _prepared(model, parameters)
    whole = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    training = Training(parameters, model, lesson, blocks, workers, folder.checkpoints)

    def show(step: int, loss: float, steps_per_second: float) -> None:
        if place.is_first:
            folder.write_progress(step, parameters.steps, loss, steps_per_second)

    training.go(show)
    if workers.are_sharded:
        weights = training.whole_weights()
        if place.is_first:
            model = _prepared(open_model(folder.weights)[0], parameters)
            model.load_state_dict(weights, strict=False)
    workers.leave()
    if place.is_first:
        model = model.to("cpu")
        export(lora.merge(model) if parameters.method == "lora" else model, folder.weights, folder.out)
        measured = training.measured
        sequences = parameters.steps * parameters.batch_size
        folder.write_result(
            {
                "objective": objective.name,
                "steps": parameters.steps,
                "first_loss": rounded(math.fsum(measured.first) / len(measured.first)),
                "last_loss": rounded(math.fsum(measured.last) / len(measured.last)),
                "tokens": sequences * blocks.length,
                "rounds_over_texts": round(sequences / blocks.count, 3),
                "seconds": round(measured.seconds, 3),
                "steps_per_second": round(training.steps_per_second, 3),
                "parameters": int(whole),
                "trained_parameters": int(trained),
                "workers": place.world,
            }
        )


def _prepared(model: Any, parameters: Parameters) -> Any:
    return lora.attach(model, parameters.lora_rank, parameters.seed) if parameters.method == "lora" else model


def _blocks(folder: Folder, parameters: Parameters, model: Any, tokenizer: Any, lesson: Lesson, workers: Workers) -> Blocks:
    """The texts' blocks. The first process tokenises and leaves the tokens for the others, and for a restart."""
    context = context_of(model)
    length = parameters.sequence_length or min(context or _USUAL_LENGTH, _USUAL_LENGTH)
    if context is not None and length > context:
        raise JobFailed("sequence_too_long", f"The model reads at most {context} tokens at once, and the sequences have {length}.")
    kept = folder.checkpoints / "tokens.npy"
    if workers.place.is_first and not kept.exists():
        tokens = tokens_of(folder.texts(), tokenizer, lesson.vocabulary)
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_suffix(".new")
        with scratch.open("wb") as stream:
            numpy.save(stream, tokens, allow_pickle=False)
        scratch.replace(kept)
    workers.wait_for_all()
    tokens = numpy.load(kept, mmap_mode="r", allow_pickle=False)
    return blocks_of(tokens, lesson.block_length(length), parameters.seed, parameters.batch_size)


def _seed(seed: int, step: int, rank: int) -> None:
    """Every generator that a model may draw from, for one step of one process."""
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:4])
    torch.manual_seed(drawn)
    random.seed(drawn)
    numpy.random.seed(drawn)


def main(folder: Folder, place: Place) -> int:
    """Returns the process's exit code."""
    return run(train, folder, place)
