"""Weights: a model in its trainable form, and the digest that is their identity.

In: a folder. Out: its manifest and its weights digest. This module must never open a tensor, or let a file in that is not on its
list.

Weights are what a conversion began with: the converter's own checked copy of a Hugging Face folder. They are kept where the market
runs, for training, and are never served or handed out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NewType

from converters.errors import WeightsBroken
from converters.manifest import ManifestLine, digest, lines_of, plain_files

WeightsDigest = NewType("WeightsDigest", str)
"""`0x` and 64 lower-case hex digits."""

WEIGHTS_PREFIX = b"posthuman/weights/v1\0"
CONFIG = "config.json"
NAMES = (
    CONFIG,
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "README.md",
)
"""Data alone: no pickle and no program. README.md and LICENSE state the licence."""
_NUMBERED = re.compile(r"model-\d{5}-of-\d{5}\.safetensors|LICENSE(?:\.(?:md|txt))?")


def may_be_in(path: str) -> bool:
    """May a file of this POSIX path, relative to the folder, be a part of weights?"""
    return path in NAMES or _NUMBERED.fullmatch(path) is not None


def weights_manifest(folder: Path) -> tuple[ManifestLine, ...]:
    """Path, size and SHA-256 of every file, in PurePath order.

    Raises WeightsBroken for a link, a special file or a file that is not on the list, and without a config.json or a tensor file.
    """
    files = plain_files(folder, "weights", WeightsBroken)
    names = [path.relative_to(folder).as_posix() for path in files]
    if strange := [name for name in names if not may_be_in(name)]:
        raise WeightsBroken(f"{folder}: expected only files of a model in weights, found {strange[0]!r}")
    if CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        raise WeightsBroken(f"{folder}: expected {CONFIG} and safetensors in weights, found {', '.join(names) or 'nothing'}")
    return lines_of(folder, files)


def weights_digest_of(lines: tuple[ManifestLine, ...]) -> WeightsDigest:
    """SHA-256(`posthuman/weights/v1\\0` + canonical JSON list of [path, size, sha256])."""
    return WeightsDigest(digest(WEIGHTS_PREFIX, lines))


def weights_digest(folder: Path) -> WeightsDigest:
    """The identity of weights. Reads every byte."""
    return weights_digest_of(weights_manifest(folder))


def weights_name(weights: WeightsDigest) -> str:
    """The folder's name where weights are kept: 16 hex digits of the digest, so that a name is one content."""
    return "w-" + weights[2:18]
