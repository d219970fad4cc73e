"""The texts that a job reads: WikiText-2 out of the operator's folder, or a text data set asset.

In: a job's parameters. Out: `texts/` in its folder. This module must never let a job name a path.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from c2d_adapter.faults import GOOD_FOR_ANOTHER, JobOver
from control_plane.did import Did, TransactionHash
from control_plane.errors import BadInput, Forbidden, NotFound, Refused, Unavailable
from control_plane.jobs.job import Job, Reason
from control_plane.jobs.parameters import WIKITEXT
from control_plane.jobs.states import Kind, State
from control_plane.provider.fetch import FILE_BROKE_OFF, WHOLE_S

PARTS: dict[Kind, tuple[str, ...]] = {
    Kind.TRAIN: ("train.clean.txt", "train.txt", "valid.clean.txt", "valid.txt"),
    Kind.EVALUATE: ("test.clean.txt", "test.txt"),
}
"""Files of the operator's WikiText-2 folder: the first that is there is what this kind of job reads. Training never reads the part
that evaluations read; the validation part stands for the training part where only the small ones are kept."""


class TextsOf(Protocol):
    """Where text data set assets come from; ocean_texts.py."""

    def __call__(self, did: Did, order: TransactionHash | None, into: Path, is_over: Callable[[], bool]) -> None:
        """Write its files to the empty folder `into`, as `*.txt` in their order. order: the transaction that ordered it.
        is_over: asked now and then; when it says so, nobody needs the texts any more, and Unavailable is raised.

        Raises NotFound (no such asset), Forbidden (not ordered, or a model), BadInput or Refused (its files cannot be had),
        Unavailable (try again).
        """


def provide_texts(job: Job, wikitext: Path | None, texts_of: TextsOf, into: Path, is_over: Callable[[], bool]) -> None:
    """Put what the job reads into the folder `into`, in one rename; nothing for a job that brings its own texts or prompts.

    wikitext: the operator's folder. Raises JobOver where there is no such text, or its files took `WHOLE_S` in all, Unavailable as
    `texts_of`. Again: does nothing.
    """
    name = json.loads(job.parameters).get("dataset")
    if name is None or into.is_dir():
        return
    scratch = into.with_name(into.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if name == WIKITEXT:
        shutil.copyfile(_wikitext(job.kind, wikitext), scratch / "000000.txt")
    else:
        _asset(job, texts_of, scratch, is_over)
    if not any(scratch.iterdir()):
        raise _missing("the data set has no text")
    scratch.rename(into)


def _wikitext(kind: Kind, folder: Path | None) -> Path:
    if folder is None:
        raise _missing(f"this market has no {WIKITEXT}: its operator has named no folder for it")
    for name in PARTS[kind]:
        if (folder / name).is_file():
            return folder / name
    raise _missing(f"this market's {WIKITEXT} lacks the part that a job of the kind {kind.value!r} reads")


def _asset(job: Job, texts_of: TextsOf, into: Path, is_over: Callable[[], bool]) -> None:
    did = job.dataset_did
    if did is None:
        raise _missing("the job names a data set that was not ordered with it")
    fetching = _Fetching(into.with_name("fetching"))
    try:
        texts_of(did, job.dataset_order, into, lambda: is_over() or fetching.is_too_long())
    except Unavailable as error:
        fetching.note()
        if error.code != FILE_BROKE_OFF or is_over() or not fetching.is_too_long():
            raise
        why = (
            f"the data set's files took longer than {WHOLE_S:.0f} s to come from where its publisher keeps them; {GOOD_FOR_ANOTHER}"
        )
        raise JobOver(State.FAILED_DATA, Reason(FILE_BROKE_OFF, why)) from error
    except NotFound as error:
        raise _missing("the data set is not one that this market can read") from error
    except Forbidden as error:
        why = f"the data set was not ordered, or is a model, whose files nobody is given; {GOOD_FOR_ANOTHER}"
        raise JobOver(State.FAILED_DATA, Reason("dataset_not_ordered", why)) from error
    except (BadInput, Refused) as error:
        why = f"the data set's files cannot be had from where its publisher keeps them; {GOOD_FOR_ANOTHER}"
        raise JobOver(State.FAILED_DATA, Reason("dataset_unreadable", why)) from error


class _Fetching:
    """Counts how long a job's files have been fetched, over all tries and processes: they have `WHOLE_S` in all."""

    def __init__(self, file: Path) -> None:
        self._file, self._began = file, time.monotonic()
        try:
            self._before_s = float(file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            self._before_s = 0.0

    @property
    def _spent_s(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def is_too_long(self) -> bool:
        return self._spent_s > WHOLE_S

    def note(self) -> None:
        self._file.write_text(f"{self._spent_s:.3f}", encoding="ascii")


def _missing(why: str) -> JobOver:
    return JobOver(State.FAILED_DATA, Reason("dataset_missing", f"{why}; {GOOD_FOR_ANOTHER}"))
