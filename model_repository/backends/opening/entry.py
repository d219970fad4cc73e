"""Open an entry for computing: its details, its tokenizer, and its graph in ONNX Runtime.

In: the entry's folder, as Triton names it. Out: an `OpenEntry`. This module must never import Triton, write a file, or take
anything but data from the entry. What the details hold is written down in `converters/tasks`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import tokenizers

from opening.providers import Provider, check_taken

FORMAT = "posthuman/entry/v1"


class EntryUnusable(Exception):
    """The operator must act: the entry cannot be computed by this backend. Triton reports the message as the load's failure."""


@dataclass(frozen=True)
class OpenEntry:
    """details: `entry.json`'s member of that name. folder: the entry's own, absolute. encoder: of an entry with two graphs."""

    task: str
    details: Mapping[str, Any]
    folder: Path
    own_tokenizer: tokenizers.Tokenizer | None
    session: onnxruntime.InferenceSession
    encoder: onnxruntime.InferenceSession | None = None

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """It neither cuts nor pads, whatever its file says. Raises EntryUnusable when the entry has none."""
        if self.own_tokenizer is None:
            raise EntryUnusable(f"entry.json: details need 'tokenizer' for {self.task}, found {sorted(self.details)}")
        return self.own_tokenizer

    def detail(self, key: str) -> Any:
        """Raises EntryUnusable when the entry does not say."""
        try:
            return self.details[key]
        except KeyError:
            raise EntryUnusable(f"entry.json: details need {key!r} for {self.task}, found {sorted(self.details)}") from None

    def graph_input_names(self, known: frozenset[str]) -> tuple[str, ...]:
        """Names of the graph's inputs. Raises EntryUnusable for one that is not in `known`: this backend could not feed it."""
        names = tuple(graph_input.name for graph_input in self.session.get_inputs())
        if unknown := set(names) - known:
            raise EntryUnusable(f"1/model.onnx: expected inputs among {sorted(known)}, found also {sorted(unknown)}")
        return names


def all_cores() -> int:
    """As many as this process may use."""
    return len(os.sched_getaffinity(0))


def open_entry(folder: Path, *, threads: int | None = None, providers: Sequence[Provider] = ("CPUExecutionProvider",)) -> OpenEntry:
    """Read `entry.json`, the tokenizer and the graph. threads: of one forward pass; None for all cores.
    providers: of ONNX Runtime, the preferred first.

    Raises EntryUnusable when a file is missing or is not what it should be.
    """
    try:
        record = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryUnusable(f"{folder.name}: expected a readable entry.json, found {error}") from error
    if record.get("format") != FORMAT:
        raise EntryUnusable(f"{folder.name}: expected an entry of format {FORMAT!r}, found {record.get('format')!r}")
    details = record["details"]
    try:
        tokenizer = _tokenizer(folder, details["tokenizer"]) if "tokenizer" in details else None
        session = _session(folder, details["model"], threads, providers)
        encoder = _session(folder, details["encoder"], threads, providers) if "encoder" in details else None
    except EntryUnusable:
        raise
    except Exception as error:  # both libraries raise bare Exception subclasses of their own
        # A graph in bf16 shows here on a machine without a GPU: ONNX Runtime's CPU provider has no arithmetic for it.
        raise EntryUnusable(
            f"{folder.name}: the tokenizer or the graph, precision {record.get('precision')}, cannot be opened: {error}"
        ) from error
    return OpenEntry(str(record["task"]), details, folder.resolve(), tokenizer, session, encoder)


def _session(folder: Path, name: str, threads: int | None, providers: Sequence[Provider]) -> onnxruntime.InferenceSession:
    if providers[0] != "CPUExecutionProvider":
        onnxruntime.preload_dlls()  # CUDA's libraries where pip has put them; without it only those that the system knows are found
    options = _session_options(threads or all_cores())
    session = onnxruntime.InferenceSession(str(inside(folder, name)), options, providers=list(providers))
    check_taken(providers, session.get_providers())
    return session


def _tokenizer(folder: Path, name: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(inside(folder, name)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise EntryUnusable(f"{folder.name}: expected files inside the entry, found {name!r}")
    return path


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Still threads waste next to nothing where cores are shared; spinning ones half (DECISIONS.md, 2026-11-27 and 28).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
