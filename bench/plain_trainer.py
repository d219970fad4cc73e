"""`python -m bench.plain_trainer JOB`: what anybody would write, transformers' own Trainer.

In: a job's folder, as `bench/train.py` makes it. Out: one JSON line: steps a second and
processor seconds a step, both after the first step, and the mean loss.
This module must never use a line of our training program.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def main(folder: Path, threads: int) -> None:
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401 -- first, or it is a circular import (transformers 4.57)
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(threads)
    asked = json.loads((folder / "job.json").read_text(encoding="utf-8"))["parameters"]
    model = AutoModelForCausalLM.from_pretrained(folder / "weights", dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder / "weights")
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((folder / "texts").glob("*.txt")))
    ids = tokenizer(text, verbose=False)["input_ids"]
    length = asked["sequence_length"]
    blocks = [torch.tensor(ids[at : at + length]) for at in range(0, len(ids) - length + 1, length)]
    data = [{"input_ids": block, "labels": block} for block in blocks]
    moments: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            moments.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        chosen = TrainingArguments(
            output_dir=scratch,
            max_steps=asked["steps"],
            per_device_train_batch_size=asked["batch_size"],
            learning_rate=asked["learning_rate"],
            weight_decay=0.01,
            max_grad_norm=1.0,
            lr_scheduler_type="linear",
            seed=asked["seed"],
            use_cpu=True,
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=chosen, train_dataset=data, callbacks=[Clock()])
        told = trainer.train()
    seconds, worked = (moments[-1][which] - moments[0][which] for which in (0, 1))
    steps = len(moments) - 1
    print(json.dumps({"steps_per_second": steps / seconds, "worked_s": worked / steps, "loss": told.training_loss}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
