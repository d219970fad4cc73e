"""A model folder, or a hub id at a pinned revision, as a staged copy that is safe to load.

In: what the publisher named. Out: a `Source`: a folder of our own with allowed, checked files, their SHA-256, licence and kind.
This module must never load a model, follow a link, or stage a file that is not on its list.

What is checked is the copy, so nobody can change a file between the check and its use.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from converters import scan, weights
from converters.errors import ModelRefused
from converters.locate import Located
from converters.weights_folder import may_be_in

_FILES = 10_000
_TEXT_BYTES = 4 << 20
_TOKENIZERS = ({"tokenizer.json"}, {"vocab.json", "merges.txt"}, {"vocab.txt"})
"""Any of these sets makes a fast tokenizer; a tokenizer that exists only as Python code or as a `.model` file does not."""
_FILMS = ("VideoMAE", "Vivit", "Tvlt", "Tvp")
"""What the processors' names begin with that take several pictures at once."""
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
"""Their keys are a model's tokens, which may be any word; only the `tokenizers` library reads them, as data."""
_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Source:
    """A staged model. `files` maps each staged path to its SHA-256; `documents` holds the parsed JSON files by path."""

    folder: Path
    identifier: str
    revision: str | None
    licence: str | None
    model_type: str
    architectures: tuple[str, ...]
    files: Mapping[str, str]
    documents: Mapping[str, Any]

    def document(self, name: str) -> Any:
        """A parsed JSON file, an empty object when the model has no such file."""
        return self.documents.get(name, {})

    @property
    def has_tokenizer(self) -> bool:
        """Are the files of a fast tokenizer there?"""
        return any(needed <= set(self.files) for needed in _TOKENIZERS)

    @property
    def reads(self) -> str:
        """What the model is fed, as its files tell: "texts", "images", "sounds", or "others": films, or several of these."""
        processor, config = self.document("preprocessor_config.json"), self.document("config.json")
        named = str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")
        if "sampling_rate" in processor:
            return "sounds"
        if named.startswith(_FILMS):
            return "others"
        if any("Vision" in architecture for architecture in self.architectures):
            return "images"
        if processor:
            return "others" if self.has_tokenizer else "images"
        is_of_pixels = "vocab_size" not in config and {"image_size", "num_channels"} & set(config)
        return "images" if is_of_pixels else "texts"


def stage(located: Located, into: Path) -> Source:
    """Copy the allowed files of a model into the new folder `into`, and check all of them.

    Raises ModelRefused at the first thing that is unsafe, incomplete or not ours to convert. Nothing has been loaded by then.
    """
    wanted = _survey(located.folder)
    into.mkdir(parents=True)
    files = {str(relative): _copy(located.folder, relative, into) for relative in wanted}
    documents = {name: _document(into, name) for name in files if name.endswith(".json")}
    for name, document in documents.items():
        if name not in _VOCABULARIES:
            scan.refuse_code_in(name, document)
    if _TEMPLATE in files:
        scan.refuse_template(_TEMPLATE, (into / _TEMPLATE).read_bytes().decode("utf-8", "replace"))
    if "config.json" not in documents:
        raise ModelRefused(f"{located.identifier}: expected a config.json, found none")
    model_type, architectures = scan.check_config(documents["config.json"])
    for name in ("preprocessor_config.json", "processor_config.json"):
        scan.check_processor(name, documents.get(name, {}))
    scan.check_generation("generation_config.json", documents.get("generation_config.json", {}))
    _check_weights(into, files, documents)
    _check_tokenizer_class(documents)
    return Source(
        folder=into,
        identifier=located.identifier,
        revision=located.revision,
        licence=_licence(into, files),
        model_type=model_type,
        architectures=architectures,
        files=files,
        documents=documents,
    )


def _survey(folder: Path) -> list[PurePosixPath]:
    """The paths to stage, sorted; every other visible file has been looked at by name and first bytes, and is left where it is."""
    wanted: list[PurePosixPath] = []
    seen = 0
    for parent, folders, names in os.walk(folder):
        # Hidden folders (.git, .cache) are never entered, so nothing in them is ever opened.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (*folders, *sorted(names)):
            seen += 1
            path = Path(parent, name)
            relative = PurePosixPath(path.relative_to(folder).as_posix())
            if seen > _FILES:
                raise ModelRefused(f"expected at most {_FILES} files, found more")
            if name.startswith("."):
                continue
            state = path.lstat()
            if stat.S_ISDIR(state.st_mode):
                continue
            scan.refuse_name(relative)
            if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
                raise ModelRefused(
                    f"{relative}: expected a plain file, found a link or a special file; copy it (cp -L) and try again"
                )
            scan.refuse_content(relative, _head(path))
            if relative.suffix == ".onnx":
                # Never used, since we export our own; but a graph that points outside says what kind of folder this is.
                # Imported here: the library starts threads, and the process that has threads can no longer be confined.
                from converters.graph import refuse_external_data

                refuse_external_data(path, path.parent)
            elif may_be_in(str(relative)):
                wanted.append(relative)
    return sorted(wanted)


def _head(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(4096)


def _copy(folder: Path, relative: PurePosixPath, into: Path) -> str:
    """Copy one file and return its SHA-256 in lower-case hex; what was checked by the survey is checked again on the open file."""
    target = into / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / relative, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    hashed = hashlib.sha256()
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        state = os.fstat(reader.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_nlink != 1:
            raise ModelRefused(f"{relative}: expected a plain file, found a link or a special file")
        if relative.suffix != ".safetensors" and state.st_size > scan.JSON_BYTES:
            raise ModelRefused(f"{relative}: expected at most {scan.JSON_BYTES} bytes, found {state.st_size}")
        while block := reader.read(1 << 20):
            hashed.update(block)
            writer.write(block)
    return hashed.hexdigest()


def _document(folder: Path, name: str) -> Any:
    kind = list if name == "modules.json" else dict
    document = scan.parse_json(name, (folder / name).read_bytes())
    if not isinstance(document, kind):
        raise ModelRefused(f"{name}: expected a JSON {kind.__name__}, found {type(document).__name__}")
    return document


def _check_weights(folder: Path, files: Mapping[str, str], documents: Mapping[str, Any]) -> None:
    single, index = "model.safetensors", "model.safetensors.index.json"
    shards = sorted(name for name in files if weights.SHARD.fullmatch(name))
    if single in files and (index in files or shards):
        raise ModelRefused(f"expected either {single} or {index} with its shards, found both")
    if single not in files and index not in files:
        raise ModelRefused(f"expected weights as {single}, or as {index} with its shards; found neither")
    names = [single] if single in files else shards
    headers = {name: weights.check_safetensors(folder / name, name) for name in names}
    if index in files:
        weights.check_index(documents[index], headers)


def require_tokenizer(source: Source) -> None:
    """Raises ModelRefused unless the model has the files of a fast tokenizer; only tasks that read texts need one."""
    if not source.has_tokenizer:
        raise ModelRefused(
            f"{source.identifier}: expected a tokenizer.json, or the vocabulary of a fast tokenizer (vocab.json and merges.txt, or"
            " vocab.txt); found neither. A tokenizer that exists only as code or as a SentencePiece file is not converted"
        )


def _check_tokenizer_class(documents: Mapping[str, Any]) -> None:
    tokenizer_class = documents.get("tokenizer_config.json", {}).get("tokenizer_class")
    if tokenizer_class is not None and not (isinstance(tokenizer_class, str) and tokenizer_class.isidentifier()):
        raise ModelRefused(f"tokenizer_config.json: tokenizer_class must be a class name, found {tokenizer_class!r}")


def _licence(folder: Path, files: Mapping[str, str]) -> str | None:
    """The licence a model states: `license:` in the front matter of its README.md, else what its LICENSE file begins with."""
    if "README.md" in files:
        text = (folder / "README.md").read_bytes()[:_TEXT_BYTES].decode("utf-8", "replace")
        front = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
        stated = re.search(r"^license:[ \t]*(?:\r?\n[ \t]*-[ \t]*)?(\S[^\r\n]*)", front[1], re.MULTILINE) if front else None
        if stated:
            return stated[1].strip().strip("'\"")[:64]
    for name in sorted(files):
        if name.startswith("LICENSE"):
            text = " ".join((folder / name).read_bytes()[:4096].decode("utf-8", "replace").split())
            known = {"Apache License Version 2.0": "apache-2.0", "MIT License": "mit", "BSD 3-Clause": "bsd-3-clause"}
            return next((short for title, short in known.items() if title in text), "other")
    return None
