"""The texts that a job reads: WikiText-2 out of the operator's folder, or a text data set asset.

In: a job's parameters. Out: `texts/` in its folder. This module must never let a job name a path.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from c2d_adapter.faults import GOOD_FOR_ANOTHER, JobOver
from control_plane.did import Did, TransactionHash
from control_plane.errors import BadInput, Forbidden, NotFound, Refused
from control_plane.jobs.job import Job, Reason
from control_plane.jobs.parameters import WIKITEXT
from control_plane.jobs.states import Kind, State

PARTS: dict[Kind, tuple[str, ...]] = {
    Kind.TRAIN: ("train.clean.txt", "train.txt", "valid.clean.txt", "valid.txt"),
    Kind.EVALUATE: ("test.clean.txt", "test.txt"),
}
"""Files of the operator's WikiText-2 folder: the first that is there is what this kind of job reads. Training never reads the part
that evaluations read; the validation part stands for the training part where only the small ones are kept."""


class TextsOf(Protocol):
    """Where text data set assets come from."""

    def __call__(self, did: Did, order: TransactionHash | None) -> Sequence[Path]:
        """Its files, checked to be what the asset's document names. order: the transaction that ordered it.

        Raises NotFound (no such asset, or not one of texts), Forbidden (the order is not one of it), BadInput or Refused (it is no
        text), Unavailable (try again).
        """


def no_assets(did: Did, order: TransactionHash | None) -> Sequence[Path]:  # noqa: ARG001  # the interface's
    """A `TextsOf` of a market that keeps no index of data set assets."""
    raise NotFound.named("dataset", f"{WIKITEXT!r}: this market reads no data set assets", did, code="dataset_unknown")


def provide_texts(job: Job, wikitext: Path | None, texts_of: TextsOf, into: Path) -> None:
    """Copy what the job reads to the folder `into`, in one rename; nothing for a job that brings its own texts or prompts.

    wikitext: the operator's folder. Raises JobOver where there is no such text, Unavailable as `texts_of`. Again: does nothing.
    """
    name = json.loads(job.parameters).get("dataset")
    if name is None or into.is_dir():
        return
    files = [_wikitext(job.kind, wikitext)] if name == WIKITEXT else _asset(job, texts_of)
    if not files:
        raise _missing("the data set has no text")
    scratch = into.with_name(into.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, scratch / f"{number:06}.txt")
    scratch.rename(into)


def _wikitext(kind: Kind, folder: Path | None) -> Path:
    if folder is None:
        raise _missing(f"this market has no {WIKITEXT}: its operator has named no folder for it")
    for name in PARTS[kind]:
        if (folder / name).is_file():
            return folder / name
    raise _missing(f"this market's {WIKITEXT} lacks the part that a job of the kind {kind.value!r} reads")


def _asset(job: Job, texts_of: TextsOf) -> Sequence[Path]:
    did = job.dataset_did
    if did is None:
        raise _missing("the job names a data set that was not ordered with it")
    try:
        return texts_of(did, job.dataset_order)
    except NotFound as error:
        raise _missing("the data set is not one that this market can read") from error
    except Forbidden as error:
        raise JobOver(
            State.FAILED_DATA, Reason("dataset_not_ordered", f"the data set's order is not one of it; {GOOD_FOR_ANOTHER}")
        ) from error
    except (BadInput, Refused) as error:
        raise JobOver(State.FAILED_DATA, Reason("dataset_not_text", f"the data set is no text; {GOOD_FOR_ANOTHER}")) from error


def _missing(why: str) -> JobOver:
    return JobOver(State.FAILED_DATA, Reason("dataset_missing", f"{why}; {GOOD_FOR_ANOTHER}"))
