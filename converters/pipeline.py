"""From a model's name to an entry with a digest: the only file that knows the order.

In: a folder or a hub id. Out: an entry folder named for its digest, in `out`. This module must never leave a half-made entry under
that name: it is made beside it and renamed.

The order: fetch -> scan -> load -> export -> parity -> entry -> digest. Nothing loads before the scan has ended.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converters.entry import KV_CACHES, PRECISIONS, Entry, ModelDigest, model_digest, triton_name, write_entry
from converters.errors import ConversionFailed, EntryBroken, ModelRefused, WeightsBroken
from converters.limits import files_bytes
from converters.locate import Located, locate
from converters.offline import go_offline
from converters.room import Way, require_room_to_stage, way_for
from converters.source import Source, require_tokenizer, stage
from converters.tasks import inputs_of, outputs_of, task_named, task_of
from converters.tasks.task import Task
from converters.weights_folder import WeightsDigest, weights_digest_of, weights_manifest, weights_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_TOOLS = ("onnx", "optimum-onnx", "tokenizers", "torch", "transformers")
_SCRATCH = ".converting-"

OnStage = Callable[[str, float], None]
BeforeOpening = Callable[[Located], None]


@dataclass(frozen=True)
class Weights:
    """The copy of a model's files that was checked and converted, kept for training."""

    folder: Path
    digest: WeightsDigest


@dataclass(frozen=True)
class Converted:
    """A finished entry. `stages`: seconds of each stage, in order; `is_new`: False when the same entry was there before.

    weights: what it was made from, when that was to be kept.
    """

    entry: Entry
    digest: ModelDigest
    folder: Path
    is_new: bool
    stages: Mapping[str, float] = field(default_factory=dict)
    weights: Weights | None = None


def convert(
    model: str,
    out: Path,
    *,
    task: str | None = None,
    revision: str | None = None,
    name: str | None = None,
    precision: str = "fp32",
    kv_cache: str = KV_CACHES[0],
    parents: tuple[str, ...] = (),
    cache: Path | None = None,
    keep_weights: Path | None = None,
    on_stage: OnStage | None = None,
    before_opening: BeforeOpening | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Converted:
    """Convert a model into `out/<triton name>/`; the same files and the same tools give the same digest.

    model: a local folder, or a hub id as `org/name@revision`. name: what people call the entry; the folder's or the id's own name
    otherwise. precision: one of PRECISIONS; the float32 graph is made and compared first in any case. kv_cache: one of
    KV_CACHES, of a causal language model; the first where its graph allows it. parents: model digests it was trained from.
    cache: where fetched files are kept; within `out` otherwise. keep_weights: a folder on `out`'s file system, where the copy of
    the model's files that was checked and converted is left, named for its weights digest.
    on_stage: told each stage and its seconds as it ends. before_opening: called when the files are here and none has been opened:
    the moment for a process of its own to give up the network and to limit itself.

    Raises ModelRefused, ConversionFailed or ParityFailed; then nothing new is in `out`. EntryBroken when an entry of that name is
    there with other contents. Again: an identical finished entry is kept, and what a killed run left is removed.
    """
    stages = _Stages(on_stage, clock)
    if task is not None:
        task_named(task)  # a name we do not have is refused before anything is fetched
    if name is not None and not _NAME.fullmatch(name):
        raise ModelRefused(f"name: expected 1 to 96 letters, digits, '.', '_' or '-', found {name!r}")
    if precision not in PRECISIONS:
        raise ModelRefused(f"precision: expected one of {', '.join(PRECISIONS)}, found {precision!r}")
    if kv_cache not in KV_CACHES:
        raise ModelRefused(f"kv_cache: expected one of {', '.join(KV_CACHES)}, found {kv_cache!r}")
    out.mkdir(parents=True, exist_ok=True)
    with _scratch(out) as scratch:
        with stages("fetch"):
            located = locate(model, revision, cache or out / ".cache")
        go_offline()
        if before_opening is not None:
            before_opening(located)
        with stages("scan"):
            require_room_to_stage(files_bytes(located.folder), out)
            source = stage(located, scratch / "source")
            chosen = _task_of(source, task)
            if chosen.reads_text:
                require_tokenizer(source)
        with stages("start"):
            # Importing the exporter takes some seconds: a refusal does not wait for it, and no loader is there before the scan.
            from converters.large import make_large
            from converters.make import make
        way = way_for(source, chosen, precision, out)
        folder = scratch / "entry"
        (folder / "1").mkdir(parents=True)
        if way is Way.STREAMED:
            made = make_large(source, chosen, precision, folder, scratch, stages)
        else:
            made = make(source, chosen, precision, kv_cache, folder, scratch, stages)
        with stages("entry"):
            entry = Entry(
                name=name or _name_of(source),
                task=chosen.name,
                backend=chosen.backend,
                architecture=made.architecture,
                precision=precision,
                inputs=inputs_of(chosen, made.details),
                outputs=outputs_of(chosen, made.details),
                details=made.details,
                source=_stated(source),
                export=made.export,
                quality=made.quality,
                parity=made.parity,
                parents=parents,
            )
            write_entry(folder, entry)
            digest = model_digest(folder)
            weights = None if keep_weights is None else _keep_weights(source, keep_weights)
            finished, is_new = _keep(folder, out / triton_name(digest), digest)
    return Converted(entry, digest, finished, is_new, stages.seconds, weights)


class _Stages:
    """Times the stages; `with stages("export"): ...`."""

    def __init__(self, on_stage: OnStage | None, clock: Callable[[], float]) -> None:
        self._on_stage, self._clock = on_stage, clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = self._clock()
        yield
        # A stage that is done twice, as an export by a second route, took the time of both.
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + self._clock() - began, 3)
        if self._on_stage is not None:
            self._on_stage(stage, self.seconds[stage])


@contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder of our own in `out`, on its file system so that the finished entry can be renamed; removed at the end.

    Its lock lives as long as this process: a folder that nobody holds was left by a killed run, and is removed first.
    """
    for left in out.glob(f"{_SCRATCH}*"):
        with _lock(left) as is_ours:
            if is_ours:
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=out))
    try:
        with _lock(folder):
            yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """True while this process holds the folder; False when another does, or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _keep(folder: Path, target: Path, digest: ModelDigest) -> tuple[Path, bool]:
    """Move a finished entry to its place, unless it is there already."""
    if not target.exists():
        try:
            folder.rename(target)
        except OSError:
            # Another run made the same entry in this very moment; below we see whether it is the same.
            if not target.exists():
                raise
        else:
            return target, True
    if (found := model_digest(target)) != digest:
        raise EntryBroken(
            f"{target}: expected the entry {digest}, found {found}: it was changed; remove the folder and convert again"
        )
    return target, False


def _keep_weights(source: Source, home: Path) -> Weights:
    """Move the staged copy to its place, once it is seen to be still what was staged: the exporter had it open meanwhile."""
    lines = weights_manifest(source.folder)
    if {line.path: line.sha256 for line in lines} != dict(source.files):
        raise ConversionFailed(f"{source.identifier}: the copy of its files was changed while it was converted")
    digest = weights_digest_of(lines)
    target = home / weights_name(digest)
    home.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        source.folder.rename(target)
    elif (found := weights_digest_of(weights_manifest(target))) != digest:
        raise WeightsBroken(f"{target}: expected the weights {digest}, found {found}: remove the folder and convert again")
    return Weights(target, digest)


def _task_of(source: Source, name: str | None) -> Task:
    """A model with sentence-transformers' description is an embedding model, whatever head it was trained with."""
    if name is not None:
        return task_named(name, source.architectures)
    if source.document("modules.json"):
        return task_named("feature-extraction")
    return task_of(source.architectures, source.reads)


def _name_of(source: Source) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", source.identifier.rsplit("/", 1)[-1]).strip("-._")[:96]
    return plain or "model"


def _stated(source: Source) -> dict[str, Any]:
    """Where the entry came from; no path, no time, so that the same files give the same entry."""
    return {
        "id": source.identifier,
        "revision": source.revision,
        "licence": source.licence,
        "files": dict(sorted(source.files.items())),
        "tools": {tool: importlib.metadata.version(tool) for tool in _TOOLS},
    }
