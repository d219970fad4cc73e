"""Entries on their way into the model repository.

In: an entry's or a model's folder, or a hub id. Out: the entry installed under its own name, and what its files say of it. This
module must never change an entry that is already installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.did import Bytes32
from control_plane.errors import IntegrityBroken, Refused
from control_plane.receipts.tiles import replace_durably
from converters.entry import Entry, ModelDigest, entry_files, manifest, model_digest, read_entry, triton_name
from converters.errors import EntryBroken, WeightsBroken
from converters.manifest import file_sha256
from converters.weights_folder import WeightsDigest, weights_digest, weights_digest_of, weights_manifest, weights_name


@dataclass(frozen=True)
class Made:
    """What a conversion left in the folder it was given: an entry, and the checked copy of what it was made from."""

    entry: Path
    weights: Path | None = None


@dataclass(frozen=True)
class Obtained:
    """An entry's folder. is_ours: made by this flow in the folder `made_in`, so it may be moved, and `weights` with it.

    weights_digest: of weights that are kept already. remembered_as: where to note both digests, if anywhere.
    """

    folder: Path
    made_in: Path | None = None
    weights: Path | None = None
    weights_digest: WeightsDigest | None = None
    remembered_as: Path | None = None

    @property
    def is_ours(self) -> bool:
        return self.made_in is not None


@dataclass(frozen=True)
class Installed:
    """weights_digest: of the kept form that can be trained; None for an entry that was finished when it came."""

    folder: Path
    entry: Entry
    model_digest: Bytes32
    weights_digest: Bytes32 | None = None


def obtain(
    model: str,
    revision: str | None,
    options: Sequence[str | None],
    models: Path,
    weights: Path,
    scratch: Path,
    convert: Callable[[Path], Made],
) -> Obtained:
    """A finished entry: `model` itself when it is one, one installed before from the same bytes, or what `convert` makes.

    options: everything else that a conversion depends on (name, task). weights: where trainable forms are kept. convert: makes the
    entry below the folder it is given. Again: the same bytes and options are converted once, as long as their entry stays installed
    and their weights stay kept.
    """
    if (Path(model) / "entry.json").is_file():
        return Obtained(Path(model))
    source = _source(model, revision, options)
    note = scratch / f"{source}.json" if source else None
    if note is not None and note.is_file():
        record = json.loads(note.read_text(encoding="utf-8"))
        known = models / triton_name(ModelDigest(record["model_digest"]))
        # a note from before weights were kept names none: then they are made once more
        kept = record.get("weights_digest", "")
        if known.is_dir() and (kept is None or (kept and weights_folder(weights, kept).is_dir())):
            return Obtained(known, weights_digest=kept, remembered_as=note)
    scratch.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix="conversion.", dir=scratch))
    try:
        made = convert(out)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # half a model's weights, of no use to the next try
        raise
    return Obtained(made.entry, out, made.weights, remembered_as=note)


def weights_folder(weights: Path, digest: str) -> Path:
    """Where a model's trainable form is kept."""
    return weights / weights_name(WeightsDigest(digest))


def install(found: Obtained, models: Path, weights: Path) -> Installed:
    """Put an entry into the repository under its digest's name, in one step, and first its trainable form where those are kept.

    Raises Refused when it is no entry; IntegrityBroken when other bytes lie under that name already, or when the entry was not made
    from those weights. Again: finds both there.
    """
    try:
        if found.folder.parent == models:
            part = found.folder
        else:
            models.mkdir(parents=True, exist_ok=True)
            part = models / f".part.{os.getpid()}.{threading.get_ident()}"  # a worker derives for several jobs at once
            shutil.rmtree(part, ignore_errors=True)
            _bring(found, part)
        digest = model_digest(part)  # of the copy: the source may change while it is read
        entry = read_entry(part)
    except EntryBroken as error:
        raise Refused(str(error), code="entry_broken") from error
    target = models / triton_name(digest)
    kept = found.weights_digest if found.weights is None else _keep_weights(found.weights, weights, entry)
    if part != target:
        _place(part, target, digest, model_digest)
    if found.remembered_as is not None:
        replace_durably(found.remembered_as, json.dumps({"model_digest": digest, "weights_digest": kept}).encode())
    if found.made_in is not None:
        shutil.rmtree(found.made_in, ignore_errors=True)  # what the conversion left beside its entry
    return Installed(target, entry, Bytes32(digest), None if kept is None else Bytes32(kept))


def describe(installed: Installed, licence: str) -> dict[str, Any]:
    """What a buyer reads about a model, computed from its files; nothing here is typed by hand, but for a licence that is given.

    licence: what the document states. Where the model's own files do not, it says that the publisher gave it.
    """
    entry, lines = installed.entry, manifest(installed.folder)
    return {
        "task": entry.task,
        "architecture": entry.architecture,
        "precision": entry.precision,
        "inputs": [tensor.to_json() for tensor in entry.inputs],
        "outputs": [tensor.to_json() for tensor in entry.outputs],
        "context_length": entry.details.get("context_length"),
        "model_digest": installed.model_digest,
        "weights_digest": installed.weights_digest,
        "files": len(lines),
        "size_bytes": sum(line.size for line in lines),
        "source": {name: entry.source.get(name) for name in ("id", "revision", "licence")},
        "licence_given_by": "model" if licence == entry.source.get("licence") else "publisher",
        "route": entry.export.get("route"),
        "quality": [dict(line) for line in entry.quality],
        "parity": [dict(line) for line in entry.parity],
        "parents": list(entry.parents),
    }


def _bring(found: Obtained, part: Path) -> None:
    if found.is_ours:
        found.folder.rename(part)
        return
    for path in entry_files(found.folder):
        copy = part / path.relative_to(found.folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy, follow_symlinks=False)


def _keep_weights(folder: Path, weights: Path, entry: Entry) -> WeightsDigest:
    """Move a conversion's copy to its place; what the entry says that it was made from are these bytes."""
    try:
        lines = weights_manifest(folder)
    except WeightsBroken as error:
        raise IntegrityBroken(f"{entry.name}: the conversion left no weights: {error}") from error
    stated = entry.source.get("files")
    if {line.path: line.sha256 for line in lines} != stated:
        raise IntegrityBroken(f"{entry.name}: the conversion's copy of the model is not what its entry was made from")
    digest = weights_digest_of(lines)
    weights.mkdir(parents=True, exist_ok=True)
    _place(folder, weights_folder(weights, digest), digest, weights_digest)
    return digest


def _place(part: Path, target: Path, digest: str, digest_in: Callable[[Path], str]) -> None:
    try:
        part.rename(target)  # fails where a folder with files is: an installed entry is never replaced
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if not target.is_dir():
            raise
        try:
            there = digest_in(target)
        except (EntryBroken, WeightsBroken) as broken:
            there = str(broken)
        if there != digest:
            raise IntegrityBroken(f"{target}: expected {digest}, found {there}; remove it and publish again") from error


def _source(model: str, revision: str | None, options: Sequence[str | None]) -> str | None:
    """Names the bytes of a model: a local folder's files, or a hub id with its revision. None when that cannot be said."""
    folder = Path(model)
    if folder.is_dir():
        try:
            lines: list[Any] = [[path.relative_to(folder).as_posix(), file_sha256(path)] for path in _plain_files(folder)]
        except OSError:
            return None  # links: the converter follows or refuses them, and says so
    elif revision is not None:
        lines = [model, revision]
    else:
        return None
    return hashlib.sha256(json.dumps([lines, list(options)]).encode()).hexdigest()[:32]


def _plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir())
