"""What a plan was built from, as a record with one canonical form.

In: a plan's file, its entry and how it was built. Out: `Statement`, and EntryBroken where a plan is not what its statement says.
This module must never read a plan as anything but bytes.

A plan is a program for one kind of GPU and one TensorRT, and two builds of one graph differ: its digest says nothing of the model.
The statement ties it to the model digest that was sold. It does not prove the tie; whoever builds again can compare answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.entry import ModelDigest, model_digest
from converters.errors import EntryBroken
from converters.manifest import file_sha256
from converters.tensorrt.profiles import Profile

FORMAT = "posthuman/plan/v1"
DIGEST_PREFIX = b"posthuman/plan/v1\0"
FILE = "plan.json"
PLAN = "1/model.plan"


@dataclass(frozen=True)
class Gpu:
    """name: as the driver says it. architecture: compute capability, such as "8.0" of an A100."""

    name: str
    architecture: str


@dataclass(frozen=True)
class Statement:
    """entry: the model digest. graphs: file of the entry -> SHA-256, of the graph and its weights. plan: SHA-256 of the plan.

    tensorrt: its version. precision: the entry's; the plan computes in the graph's own types.
    """

    entry: ModelDigest
    graphs: Mapping[str, str]
    plan: str
    plan_bytes: int
    gpu: Gpu
    tensorrt: str
    precision: str
    profiles: tuple[Profile, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "entry": self.entry,
            "graphs": dict(self.graphs),
            "plan": self.plan,
            "plan_bytes": self.plan_bytes,
            "gpu": asdict(self.gpu),
            "tensorrt": self.tensorrt,
            "precision": self.precision,
            "profiles": [profile.to_json() for profile in self.profiles],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Statement:
        """Raises EntryBroken for another format, or a missing or unknown field."""
        known = {"format", *cls.__dataclass_fields__}
        if record.get("format") != FORMAT or set(record) != known:
            raise EntryBroken(
                f"{FILE}: expected {FORMAT!r} with {sorted(known)}, found {record.get('format')!r} with {sorted(record)}"
            )
        try:
            return cls(
                entry=ModelDigest(str(record["entry"])),
                graphs={str(name): str(digest) for name, digest in record["graphs"].items()},
                plan=str(record["plan"]),
                plan_bytes=int(record["plan_bytes"]),
                gpu=Gpu(name=str(record["gpu"]["name"]), architecture=str(record["gpu"]["architecture"])),
                tensorrt=str(record["tensorrt"]),
                precision=str(record["precision"]),
                profiles=tuple(Profile.from_json(profile) for profile in record["profiles"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise EntryBroken(f"{FILE}: expected the statement of a plan, found {type(error).__name__}: {error}") from error

    def canonical(self) -> bytes:
        """The one byte form: JSON with sorted keys, no spaces, ASCII."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")

    def digest(self) -> str:
        """SHA-256 of the canonical form after its prefix: `0x` and 64 hex digits."""
        return "0x" + hashlib.sha256(DIGEST_PREFIX + self.canonical()).hexdigest()


def graph_digests(entry: Path) -> dict[str, str]:
    """SHA-256 of the entry's graphs and the files with their weights."""
    files = sorted(path for path in (entry / "1").iterdir() if ".onnx" in path.name)
    return {path.relative_to(entry).as_posix(): file_sha256(path) for path in files}


def state(entry: Path, plan: Path, gpu: Gpu, tensorrt: str, precision: str, profiles: tuple[Profile, ...]) -> Statement:
    """The statement of a plan that was just built from the entry."""
    size = plan.stat().st_size
    return Statement(model_digest(entry), graph_digests(entry), file_sha256(plan), size, gpu, tensorrt, precision, profiles)


def write_statement(folder: Path, statement: Statement) -> None:
    """Write `plan.json`: the canonical form itself. Again: replaces the file."""
    (folder / FILE).write_bytes(statement.canonical())


def read_statement(folder: Path) -> Statement:
    """Raises EntryBroken when there is none, or it is not in its canonical form."""
    try:
        raw = (folder / FILE).read_bytes()
        record = json.loads(raw)
    except (OSError, ValueError) as error:
        raise EntryBroken(f"{FILE}: expected a readable statement, found {error}") from error
    if not isinstance(record, dict):
        raise EntryBroken(f"{FILE}: expected a JSON object, found {type(record).__name__}")
    statement = Statement.from_json(record)
    if statement.canonical() != raw:
        raise EntryBroken(f"{FILE}: expected the canonical form, found another writing of the same")
    return statement


def verify(folder: Path, entry: Path | None = None, gpu: Gpu | None = None, tensorrt: str | None = None) -> Statement:
    """Check a plan's folder against its statement, and against the entry, GPU and TensorRT where they are given.

    Raises EntryBroken naming the field, what was stated and what was found.
    """
    statement = read_statement(folder)
    plan = folder / PLAN
    if not plan.is_file() or plan.is_symlink():
        raise EntryBroken(f"plan: expected a plain file {PLAN}, found none")
    found: dict[str, tuple[object, object]] = {
        "plan_bytes": (statement.plan_bytes, plan.stat().st_size),
        "plan": (statement.plan, file_sha256(plan)),
    }
    if entry is not None:
        found["graphs"] = (dict(statement.graphs), graph_digests(entry))
        found["entry"] = (statement.entry, model_digest(entry))
    if gpu is not None:
        found["gpu architecture"] = (statement.gpu.architecture, gpu.architecture)
    if tensorrt is not None:
        found["tensorrt"] = (statement.tensorrt, tensorrt)
    for field, (stated, seen) in found.items():
        if stated != seen:
            raise EntryBroken(f"plan: {field} is stated as {stated}, found {seen}")
    return statement
