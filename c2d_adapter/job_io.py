"""What a job's program may read and write: one folder, and what the environment says about the program's place among its like.

In: a folder with `job.json`, `weights/` and `texts/*.txt`. Out: `progress.json`, `result.json` or `failure.json`, `out/`,
`checkpoints/`. This module must never import anything but the standard library (it goes with the programs wherever they run),
and must never write into an answer what a library said: such texts hold paths, and may hold values of weights.

The three answers are all that a buyer sees of a job, so each has a fixed form:

    progress.json   {"step": 3, "steps": 500, "loss": 4.1234, "steps_per_second": 2.5}      replaced as a whole; loss may be null
    result.json     names -> numbers, texts, true or false; at most 64 KiB; written last, so a job that has it is done
    failure.json    {"code": one of CODES, "sentence": for the owner}
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODES = frozenset(
    {
        "out_of_memory",
        "loss_not_finite",
        "dataset_not_text",
        "dataset_too_small",
        "sequence_too_long",
        "unsupported_model",
        "internal",
    }
)
"""Why a program gave up. All but `internal` are for the job's owner to act on."""
RESULT_BYTES = 64 << 10
LOST_A_PEER = 4
"""A program's exit code when it could not go on through no fault of its own; another try may."""
FAILED = 3
FAILURE_LETTERS = 400
_TEXT_BYTES = 4 << 30
_STRANGE = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]")
_STRANGE_SHARE = 0.001
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class JobFailed(Exception):
    """The program cannot go on, and says why. code: one of CODES. sentence: for the job's owner, who sees no file and no code."""

    def __init__(self, code: str, sentence: str) -> None:
        if code not in CODES:
            raise ValueError(f"expected a code among {sorted(CODES)}, found {code!r}")
        super().__init__(sentence)
        self.code, self.sentence = code, sentence


@dataclass(frozen=True)
class Place:
    """Where one process stands among those that run a job together. rank: counted from 0, below `world`.

    checkpoint_s: most seconds of work that a crash may cost. sharding: `ddp` (each holds all weights), `fsdp` (each a part), or
    `deepspeed-zero2` and `deepspeed-zero3` (the same two by DeepSpeed, which each time parts gradients and optimizer).
    """

    rank: int = 0
    local_rank: int = 0
    world: int = 1
    checkpoint_s: float = 30.0
    sharding: str = "ddp"

    @property
    def is_first(self) -> bool:
        """Is this the one that writes?"""
        return self.rank == 0


@dataclass(frozen=True)
class Folder:
    """A job's folder. All writes replace a file as a whole, so a reader never meets half of one."""

    path: Path

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def out(self) -> Path:
        return self.path / "out"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def is_done(self) -> bool:
        return (self.path / "result.json").exists()

    def parameters(self, kind: str) -> dict[str, Any]:
        """The job's parameters, as `control_plane` parsed them. Raises JobFailed for another kind of job."""
        found = json.loads((self.path / "job.json").read_text(encoding="utf-8"))
        if found.get("kind") != kind:
            raise JobFailed("internal", f"This program does jobs of the kind {kind!r}, and this job is of another.")
        return dict(found["parameters"])

    def text_files(self) -> list[Path]:
        """In the order of their names."""
        return sorted((self.path / "texts").glob("*.txt"))

    def texts(self) -> list[str]:
        """The job's texts, in the order of their files' names.

        Raises JobFailed when there is none, and for one that is not UTF-8 or holds more than a few control characters.
        """
        files = self.text_files()
        if not files:
            raise JobFailed("dataset_too_small", "The data set has no text.")
        return [self._text(path, f"Text {number} of {len(files)}") for number, path in enumerate(files, start=1)]

    @staticmethod
    def _text(path: Path, called: str) -> str:
        if path.stat().st_size > _TEXT_BYTES:
            raise JobFailed("dataset_not_text", f"{called} is larger than {_TEXT_BYTES >> 30} GiB.")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            # `from None` everywhere: a chained error would carry bytes of the data set into the operator's log.
            raise JobFailed("dataset_not_text", f"{called} is not UTF-8: byte {error.start} belongs to no letter.") from None
        strange = len(_STRANGE.findall(text))
        if strange > _STRANGE_SHARE * len(text):
            raise JobFailed(
                "dataset_not_text", f"{called} is no text: {strange} of its {len(text)} characters are control characters."
            )
        return text

    def write_progress(self, step: int, steps: int, loss: float | None, steps_per_second: float) -> None:
        """loss: None where a job has none, as a batch of prompts."""
        self._replace(
            "progress.json",
            {
                "step": step,
                "steps": steps,
                "loss": None if loss is None else rounded(loss),
                "steps_per_second": round(steps_per_second, 3),
            },
        )

    def write_result(self, result: Mapping[str, str | int | float | bool]) -> None:
        """The last write of a job that went well. Raises ValueError for anything that is not a plain value, or too much of it."""
        for name, value in result.items():
            if not _NAME.fullmatch(name) or type(value) not in (str, int, float, bool):
                raise ValueError(
                    f"a result maps plain names to numbers, texts and booleans, found {name!r}: {type(value).__name__}"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"a result's numbers are finite, found {name} = {value}")
        self._replace("result.json", dict(result), most_bytes=RESULT_BYTES)

    def write_failure(self, failure: JobFailed) -> None:
        self._replace("failure.json", {"code": failure.code, "sentence": failure.sentence[:FAILURE_LETTERS]})

    def _replace(self, name: str, document: Mapping[str, Any], most_bytes: int = RESULT_BYTES) -> None:
        content = json.dumps(document, allow_nan=False).encode()
        if len(content) > most_bytes:
            raise ValueError(f"{name}: expected at most {most_bytes} bytes, found {len(content)}")
        scratch = self.path / f"{name}.{os.getpid()}.new"
        scratch.write_bytes(content)
        scratch.replace(self.path / name)


def rounded(loss: float) -> float:
    """A loss as a buyer may see it: four decimals, since more would tell about the weights and nothing about the text."""
    return round(loss, 4)


def run(work: Callable[[Folder, Place], None], folder: Folder, place: Place) -> int:
    """Do a program's work and say how it ended: the process's exit code, and `failure.json` for what trying again would not mend.

    0: done. FAILED: see `failure.json`. LOST_A_PEER: another of the processes went away, or something that we cannot tell from
    that.
    """
    try:
        work(folder, place)
    except JobFailed as failure:
        folder.write_failure(failure)
        return FAILED
    except Exception as error:
        print(f"rank {place.rank}: {_kind_and_place(error)}", file=sys.stderr, flush=True)
        if is_out_of_memory(error):
            folder.write_failure(JobFailed("out_of_memory", "The job needs more memory than its environment has."))
            return FAILED
        if place.world > 1:
            return LOST_A_PEER
        folder.write_failure(
            JobFailed("internal", f"The program failed ({type(error).__name__}). The operator's log has its place.")
        )
        return FAILED
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Also as PyTorch says it: an error of its own on a GPU, and a plain RuntimeError on a processor."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(
        part in said
        for part in ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory")
    )


def _kind_and_place(error: BaseException) -> str:
    """For the operator's log: the error's kind and where it arose, without its text, which may hold values of weights."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} at " + " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(frames[-8:]))
