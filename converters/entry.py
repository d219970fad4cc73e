"""The entry: one model folder ready for Triton, and the digest that is its identity.

In: a folder. Out: its `Entry` record, its manifest and its model digest. This module must never run, load or parse weights.

Layout of a folder `<entry>/`:

    entry.json            this module's record
    1/model.onnx          the graph; 1/model.onnx_data when the weights are external
    1/tokenizer.json      and the other tokenizer and processor files
    probes.json           calls with PyTorch's answers, for anyone to ask again
    config.pbtxt          derived when the entry is loaded; not part of the entry: never hashed, never trusted
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NewType

from converters.errors import EntryBroken
from converters.manifest import ManifestLine, digest, lines_of, plain_files
from converters.tensors import Tensor

ModelDigest = NewType("ModelDigest", str)
"""`0x` and 64 lower-case hex digits."""

FORMAT = "posthuman/entry/v1"
DIGEST_PREFIX = b"posthuman/model/v1\0"
DERIVED = "config.pbtxt"
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
"""What `Entry.precision` may be: arithmetic in float32; in half precision, for GPUs; weights of 8 or 4 bits, for CPUs."""
KV_CACHES = ("shared", "grown")
"""Where a causal model's graph keeps keys and values: in one buffer that each step writes in place, or in copies that grow."""


@dataclass(frozen=True)
class Entry:
    """What `entry.json` states. `inputs` and `outputs` are the tensors that Triton offers, not the ONNX graph's.

    details: what the entry's backend needs and no other part reads: for `generate`, context length, end tokens and defaults;
        for `predict`, pooling, labels and the graph's own input names. `tasks.py` says which keys each task has.
    source: where the model came from: `id`, `revision`, `licence` (or null), and the SHA-256 of each source file.
    export: `route` and `why`: how the graph was made.
    quality: what a shortcut in precision costs, measured: per measure its name, the value and that of the full-precision entry.
    parity: per output, worst absolute and relative difference, the bound, and the sizes tried.
    parents: model digests this model was trained from; empty for a published one.
    """

    name: str
    task: str
    backend: str
    architecture: str
    precision: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    export: Mapping[str, Any] = field(default_factory=dict)
    quality: tuple[Mapping[str, Any], ...] = ()
    parity: tuple[Mapping[str, Any], ...] = ()
    parents: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "task": self.task,
            "backend": self.backend,
            "architecture": self.architecture,
            "precision": self.precision,
            "inputs": [tensor.to_json() for tensor in self.inputs],
            "outputs": [tensor.to_json() for tensor in self.outputs],
            "details": dict(self.details),
            "source": dict(self.source),
            "export": dict(self.export),
            "quality": [dict(line) for line in self.quality],
            "parity": [dict(line) for line in self.parity],
            "parents": list(self.parents),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Entry:
        """Raises EntryBroken for another format, or a missing or unknown field."""
        if record.get("format") != FORMAT:
            raise EntryBroken(f"entry.json: format must be {FORMAT!r}, found {record.get('format')!r}")
        known = set(cls.__dataclass_fields__) | {"format"}
        missing, unknown = known - set(record), set(record) - known
        if missing or unknown:
            raise EntryBroken(f"entry.json: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
        return cls(
            name=str(record["name"]),
            task=str(record["task"]),
            backend=str(record["backend"]),
            architecture=str(record["architecture"]),
            precision=str(record["precision"]),
            inputs=tuple(Tensor.from_json(tensor) for tensor in record["inputs"]),
            outputs=tuple(Tensor.from_json(tensor) for tensor in record["outputs"]),
            details=dict(record["details"]),
            source=dict(record["source"]),
            export=dict(record["export"]),
            quality=tuple(dict(line) for line in record["quality"]),
            parity=tuple(dict(line) for line in record["parity"]),
            parents=tuple(str(parent) for parent in record["parents"]),
        )


def write_entry(folder: Path, entry: Entry) -> None:
    """Write `entry.json`; the same entry always gives the same bytes. Again: replaces the file in one step."""
    text = json.dumps(entry.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    scratch = folder / "entry.json.part"
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(folder / "entry.json")


def read_entry(folder: Path) -> Entry:
    """Raises EntryBroken when `entry.json` is missing, is not JSON, or is not an entry."""
    path = folder / "entry.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryBroken(f"{path}: expected a readable entry.json, found {error}") from error
    if not isinstance(record, dict):
        raise EntryBroken(f"{path}: expected a JSON object, found {type(record).__name__}")
    return Entry.from_json(record)


def entry_files(folder: Path) -> tuple[Path, ...]:
    """Every file of the entry, in PurePath order of their relative paths; the derived one is no part of it.

    Raises EntryBroken for a symbolic link, a hard link, a device, or anything else that is not a plain file or folder.
    """
    return tuple(path for path in plain_files(folder, "an entry", EntryBroken) if path.relative_to(folder) != Path(DERIVED))


def manifest(folder: Path) -> tuple[ManifestLine, ...]:
    """Path, size and SHA-256 of every file of the entry, in the order of `entry_files`."""
    return lines_of(folder, entry_files(folder))


def digest_of(lines: tuple[ManifestLine, ...]) -> ModelDigest:
    """SHA-256(`posthuman/model/v1\\0` + canonical JSON list of [path, size, sha256])."""
    return ModelDigest(digest(DIGEST_PREFIX, lines))


def model_digest(folder: Path) -> ModelDigest:
    """The identity of what is served. Reads every byte of the entry: about 1.7 GB a second on one core."""
    return digest_of(manifest(folder))


def triton_name(digest: ModelDigest) -> str:
    """The entry's name inside Triton and its folder's name: 16 hex digits of the digest, so that a name is one content."""
    return "m-" + digest[2:18]
