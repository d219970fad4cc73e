"""What is done to a job, one function for each of its moves: provision, compute, store, derive; and to clear up after it.

In: a job, the parts of the market. Out: what the next move stores. This module must never move a job (carry.py does), and never
hold a weight: it moves files.

Each function may be repeated, by another process too, however far an earlier one came: what is written is written under another
name first, and what is there is looked at before it is made again.

    <jobs>/<job id>/    job.json, weights/ (read only), texts/: provided. The rest is the program's, see `job_io.py`
    <jobs>/<job id>/spent    seconds of computing so far, of those that were paid for
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from c2d_adapter import asking
from c2d_adapter.asking import Evaluated
from c2d_adapter.engine import Outcome, Progress
from c2d_adapter.faults import GOOD_FOR_ANOTHER, JobOver
from c2d_adapter.job_io import Folder
from c2d_adapter.results import Value, read_result
from c2d_adapter.storage import WEIGHTS, Kind
from c2d_adapter.texts import TextsOf, provide_texts
from control_plane.did import Bytes32, Did
from control_plane.errors import IntegrityBroken, NotFound, Unavailable
from control_plane.flows.job_receipts import LeaveReceipt
from control_plane.jobs.job import TIMED_OUT, Job, Reason
from control_plane.jobs.states import Kind as JobKind
from control_plane.jobs.states import State
from control_plane.receipts.evaluation import SignedEvaluation
from control_plane.receipts.signing import ReceiptSigner
from control_plane.serving.inference import InferenceServer
from control_plane.serving.listing import Listing
from converters.errors import WeightsBroken
from converters.weights_folder import WeightsDigest, weights_digest, weights_name

_NOTE_SPENT_S = 2.0


class PaidTime:
    """Counts the seconds that a job's program ran against those that were paid for, over all processes that had the job."""

    def __init__(self, file: Path, paid_s: int, is_stopped: Callable[[], bool], begin: Callable[[], None]) -> None:
        """begin: told each time before the first of the seconds; what it raises lets none begin."""
        self._file, self._paid_s, self._is_stopped, self._begin = file, paid_s, is_stopped, begin
        try:
            self._before_s = float(file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            self._before_s = 0.0
        self._began: float | None = None
        self._noted_at = 0.0

    @property
    def left_s(self) -> float:
        return self._paid_s - self._spent_s

    @property
    def _spent_s(self) -> float:
        return self._before_s + (0.0 if self._began is None else time.monotonic() - self._began)

    def runs(self, is_running: bool) -> None:
        """To be told when the program begins and ends: waiting for a machine with room is not the owner's. Again: no difference."""
        if is_running:
            self._begin()
        self._before_s = self._spent_s
        self._began = time.monotonic() if is_running else None
        self.note()

    def is_stopped(self) -> bool:
        """Asked a few times a second by whoever runs the program: also when to note how much of it is gone."""
        if self._began is not None and time.monotonic() - self._noted_at > _NOTE_SPENT_S:
            self.note()
        return self._is_stopped()

    def note(self) -> None:
        self._noted_at = time.monotonic()
        scratch = self._file.with_name(self._file.name + ".new")
        with suppress(OSError):  # a full disk: a crash now gives the owner some seconds for nothing
            scratch.write_text(f"{self._spent_s:.3f}", encoding="ascii")
            scratch.replace(self._file)


class Catalogue(Protocol):
    """What jobs need of serving/catalogue.py."""

    def find(self, did: Did) -> Listing: ...

    def verify(self, listing: Listing) -> None: ...


class Objects(Protocol):
    """What jobs need of storage.py."""

    def put(self, kind: Kind, folder: Path, digest: str) -> int: ...

    def get(self, kind: Kind, digest: str, into: Path) -> Path: ...


class Train(Protocol):
    """Runs the training program in a job's folder: `engine.Engine.run`, with this market's machines in it.

    most_workers: that can share the job. timeout_s: seconds that it may run. on_run: told when it begins and ends. Raises
    Unavailable when no engine can be started. Again: a job that has its result is finished at once, an interrupted one goes on.
    """

    def __call__(
        self,
        folder: Path,
        most_workers: int,
        timeout_s: float,
        on_progress: Callable[[Progress], None],
        is_stopped: Callable[[], bool],
        on_run: Callable[[bool], None],
    ) -> Outcome: ...


class Derive(Protocol):
    """Makes an asset of trained weights, once for a job however often it is called, and returns its DID: `flows.derive`.

    parent_weights: digest of what was trained. weights: the folder of what came out, with the digest that the job has.
    """

    def __call__(self, job: Job, parent: Listing, parent_weights: Bytes32, weights: Path) -> Did: ...


class Publish(Protocol):
    """Lets everybody see a statement: `receipts.evaluations.Evaluations.publish`. Again: nothing more happens."""

    def __call__(self, signed: SignedEvaluation) -> object: ...


@dataclass(frozen=True)
class Parts:
    """jobs: where each job has its folder. weights: where weights of models on sale are kept. wikitext: the operator's folder.

    objects: None where the market has no object storage. clock: seconds since 1970, UTC.
    """

    jobs: Path
    weights: Path
    wikitext: Path | None
    catalogue: Catalogue
    objects: Objects | None
    texts_of: TextsOf
    train: Train
    server: InferenceServer
    signer: ReceiptSigner
    derive: Derive
    publish: Publish
    leave_receipt: LeaveReceipt
    clock: Callable[[], float] = time.time

    def folder(self, job_id: str) -> Folder:
        return Folder(self.jobs / job_id)


def provision(parts: Parts, job: Job, is_over: Callable[[], bool]) -> None:
    """Put into the job's folder what its program reads. is_over: looked at now and then; then the rest is left undone.

    Raises JobOver for what is not there, Unavailable when the object storage or a data set's does not answer.
    """
    listing = _model(parts, job)
    folder = parts.folder(job.job_id)
    folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if job.kind is JobKind.TRAIN:
        _provide_weights(parts, listing, folder.weights)
    if is_over():
        return
    provide_texts(job, parts.wikitext, parts.texts_of, folder.path / "texts", is_over)
    scratch = folder.path / "job.json.new"
    scratch.write_text(json.dumps({"kind": job.kind.value, "parameters": json.loads(job.parameters)}), encoding="utf-8")
    scratch.replace(folder.path / "job.json")


def compute(
    parts: Parts, job: Job, tell: Callable[[Progress], None], is_stopped: Callable[[], bool], begin: Callable[[], None]
) -> dict[str, Value] | None:
    """Run the job's program to its end; returns the result, None when `is_stopped` ended it. begin: see `PaidTime`.

    Raises JobOver when the program failed or its paid time is used up, Unavailable when engine or server do not answer. Again: goes
    on; the result of an ended program stays as it is.
    """
    folder = parts.folder(job.job_id)
    if not folder.is_done:
        paid = PaidTime(folder.path / "spent", job.paid_s, is_stopped, begin)
        try:
            ended = _run(parts, job, folder.path, tell, paid)
        except Unavailable:  # the operator's fault, and no computing: what was computed before was noted on the way
            raise
        except BaseException:
            paid.note()
            raise
        paid.note()
        if ended.state == "timed_out":
            why = f"the job used up the {job.paid_s} s of computing that were paid for"
            raise JobOver(State.FAILED, Reason(TIMED_OUT, why))
        if ended.state == "not_begun":
            why = f"{ended.sentence} {GOOD_FOR_ANOTHER.capitalize()}."
            raise JobOver(State.FAILED_ALGORITHM_PROVISIONING, Reason(ended.code, why))
        if ended.state == "failed":
            raise JobOver(State.FAILED, Reason(ended.code, ended.sentence))
        if ended.state == "stopped":
            return None
    return read_result(folder.path, job.kind)


def _run(parts: Parts, job: Job, folder: Path, tell: Callable[[Progress], None], paid: PaidTime) -> Outcome:
    if paid.left_s <= 0:
        return Outcome("timed_out", 0)
    if job.kind is JobKind.TRAIN:
        most_workers = int(json.loads(job.parameters)["batch_size"])
        return parts.train(folder, most_workers, paid.left_s, tell, paid.is_stopped, paid.runs)
    paid.runs(True)
    return _ask(parts, job, folder, paid.left_s, tell, paid.is_stopped)


def publish(parts: Parts, job: Job, result: Mapping[str, Value]) -> None:
    """Publish what an evaluation has found, where its owner asked for that when he ordered it.

    Raises Unavailable when the database does not answer. Again: nothing more happens.
    """
    if json.loads(job.parameters).get("publish"):
        parts.publish(SignedEvaluation.from_json(json.loads(str(result["statement"]))))


def store(parts: Parts, job: Job) -> Bytes32:
    """Keep what was trained in object storage, where there is one; returns its digest.

    Raises JobOver when the program left no weights, Unavailable or Refused as the storage does. Again: sends what is not there yet.
    """
    out = parts.folder(job.job_id).out
    try:
        digest = weights_digest(out)
        if parts.objects is not None:
            parts.objects.put(WEIGHTS, out, digest)
    except WeightsBroken as error:
        raise JobOver(
            State.FAILED, Reason("internal", f"the program left no weights that can be kept; {GOOD_FOR_ANOTHER}")
        ) from error
    return Bytes32(digest)


def derive(parts: Parts, job: Job) -> Did:
    """Make the trained weights an asset of the job's owner. Raises as `flows.derive` does. Again: the same asset."""
    folder = parts.folder(job.job_id)
    if job.weights_digest is None:
        raise ValueError(f"job {job.job_id} derives without weights")
    if parts.objects is not None:
        parts.objects.get(WEIGHTS, job.weights_digest, folder.out)  # does nothing while the folder has them
    parent = parts.catalogue.find(job.did)
    return parts.derive(job, parent, _parent_weights(job, parent, folder), folder.out)


def _parent_weights(job: Job, parent: Listing, folder: Folder) -> Bytes32:
    """Digest of what the job was trained from: the listing's, or where another model is on sale there by now, that of the files."""
    if parent.model_digest == job.model_digest and parent.weights_digest is not None:
        return parent.weights_digest
    try:
        return Bytes32(weights_digest(folder.weights))
    except WeightsBroken as error:
        raise IntegrityBroken(f"job {job.job_id}: what it was trained from is no longer in its folder: {error}") from error


def clear(parts: Parts, job_id: str) -> None:
    """Remove a job's folder when it is over: weights and texts lie in it. Again: does nothing."""
    folder = parts.folder(job_id).path
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _model(parts: Parts, job: Job) -> Listing:
    """The job's model as it was ordered. Raises JobOver when it is not on sale any more, or is another one by now."""
    try:
        listing = parts.catalogue.find(job.did)
    except NotFound as error:
        raise _no_model("is not known here") from error
    if listing.state != "on_sale":
        raise _no_model("was withdrawn after the job was ordered")
    if listing.model_digest != job.model_digest:
        raise _no_model("was published anew after the job was ordered")
    return listing


def _no_model(why: str) -> JobOver:
    return JobOver(State.FAILED_DATA, Reason("model_gone", f"the model {why}; {GOOD_FOR_ANOTHER}"))


def _provide_weights(parts: Parts, listing: Listing, into: Path) -> None:
    """Copy the model's weights, hashed after the copy, so that no program can write into those that are kept."""
    digest = listing.weights_digest
    if digest is None:
        raise _no_weights()
    if _digest_of(into) != digest:
        kept = parts.weights / weights_name(WeightsDigest(digest))
        scratch = into.with_name(into.name + ".new")
        for stale in (scratch, into):
            _remove(stale)
        with suppress(FileNotFoundError):
            _copy(kept, scratch)
        if _digest_of(scratch) != digest:
            _remove(scratch)
            _fetch(parts, digest, scratch)
        scratch.rename(into)
    for path in sorted(into.rglob("*")):
        if path.is_file():
            path.chmod(0o444)


def _copy(folder: Path, into: Path) -> None:
    """Each file's fault as it is: `shutil.copytree` collects them into one that no longer says that the disk is full."""
    for path in sorted(folder.rglob("*")):
        target = into / path.relative_to(folder)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _fetch(parts: Parts, digest: Bytes32, into: Path) -> None:
    if parts.objects is None:
        raise _no_weights()
    try:
        parts.objects.get(WEIGHTS, digest, into)
    except NotFound as error:
        raise _no_weights() from error


def _no_weights() -> JobOver:
    why = f"the model's trainable weights are not kept here, so it cannot be trained; {GOOD_FOR_ANOTHER}"
    return JobOver(State.FAILED_DATA, Reason("weights_missing", why))


def _digest_of(folder: Path) -> str | None:
    try:
        return weights_digest(folder)
    except WeightsBroken:
        return None


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _ask(
    parts: Parts, job: Job, folder: Path, timeout_s: float, tell: Callable[[Progress], None], is_stopped: Callable[[], bool]
) -> Outcome:
    """Have the served model asked; what was asked is compared with the chain's digest before and after."""
    listing = _model(parts, job)
    parts.catalogue.verify(listing)
    of = Evaluated(listing.did, listing.nft, job.owner, listing.model_digest)
    ended = asking.run(
        folder, job.kind.value, parts.server, listing.entry_name, of, parts.signer, timeout_s, tell, is_stopped, parts.clock
    )
    try:
        parts.catalogue.verify(listing)
    except IntegrityBroken:
        (folder / "result.json").unlink(missing_ok=True)  # signed, but not of the model that it names
        raise
    return ended
