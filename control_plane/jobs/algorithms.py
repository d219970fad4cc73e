"""The market's own algorithms, one for each kind of job, as Ocean describes an algorithm.

In: a kind. Out: its file, its container section, its parameters and checksums. This module must never name a program's code: what
runs is the operator's release, and what an algorithm asset promises is the kind of job and the form of its parameters.

The file is a statement of a few bytes and not the program, so that its checksum, which models trust for as long as they are on
sale, does not change with a release. A changed meaning of a kind is a new version here, and new assets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from control_plane.chain.compute import Algorithm, checksum_of_container, checksum_of_files
from control_plane.did import Address, Did, did_of
from control_plane.fields import Field
from control_plane.jobs.job import canonical_json
from control_plane.jobs.parameters import TABLES, TASKS, Limits
from control_plane.jobs.states import Kind

FORMAT = "posthuman/algorithm/v1"
_LONGEST_CONTEXT = 1 << 20
_BY_MODEL = {
    "sequence_length": "a whole number of tokens from 8, at most what the model can read",
    "max_tokens": "a whole number of tokens, at most what the model can read and the market gives",
}
"""Fields whose limits are each model's own."""
_SAYS = {
    Kind.TRAIN: "Trains a model further on a text. What comes of it is an asset of who ordered it; weights stay with the market",
    Kind.EVALUATE: "Mean loss and perplexity of a model, on WikiText-2 or on texts of one's own",
    Kind.INFER: "Answers of a model to a batch of prompts",
}


def statement(kind: Kind) -> bytes:
    """The algorithm's one file, whose SHA-256 models trust."""
    return canonical_json({"format": FORMAT, "kind": kind.value}).encode()


def container(kind: Kind) -> dict[str, str]:
    """The section that Ocean asks for. No image is ever pulled: the market runs the kind of job itself."""
    return {
        "entrypoint": f"posthuman {kind.value}",
        "image": f"posthuman/{kind.value}",
        "tag": "v1",
        "checksum": f"sha256:{hashlib.sha256(statement(kind)).hexdigest()}",
    }


def algorithm_of(kind: Kind, nft: Address, chain_id: int) -> Algorithm:
    return Algorithm(did_of(nft, chain_id), checksum_of_files([statement(kind)]), checksum_of_container(container(kind)))


def known(nfts: Mapping[str, Address], chain_id: int) -> dict[Kind, Algorithm]:
    """The algorithms that were published, by kind. nfts: kind to data NFT, as the settings have them."""
    return {Kind(name): algorithm_of(Kind(name), nft, chain_id) for name, nft in nfts.items()}


def kind_of_did(algorithms: Mapping[Kind, Algorithm], did: Did) -> Kind | None:
    return next((kind for kind, each in algorithms.items() if each.did == did), None)


def for_model(algorithms: Mapping[Kind, Algorithm], task: str, has_weights: bool) -> tuple[Algorithm, ...]:
    """Which of them a model of `task` can be near to. has_weights: its trainable form is kept; else nothing could be trained."""
    return tuple(each for kind, each in algorithms.items() if task in TASKS[kind] and (has_weights or kind is not Kind.TRAIN))


def section(kind: Kind) -> dict[str, Any]:
    """What stands under `metadata.algorithm` of the asset's DDO."""
    table = TABLES[kind](Limits(_LONGEST_CONTEXT, _LONGEST_CONTEXT))
    return {
        "language": "",
        "version": "1",
        "container": container(kind),
        "consumerParameters": [_parameter(name, field) for name, field in table.items()],
    }


def description(kind: Kind) -> str:
    return _SAYS[kind]


def _parameter(name: str, field: Field) -> dict[str, Any]:
    """In Ocean's four types; a list is a text that holds JSON."""
    options = field.schema.get("enum")
    kind = (
        "select"
        if options
        else {"integer": "number", "number": "number", "boolean": "boolean"}.get(field.schema.get("type", ""), "text")
    )
    record: dict[str, Any] = {
        "name": name,
        "type": kind,
        "label": name.replace("_", " "),
        "required": field.is_required,
        "description": _BY_MODEL.get(name, field.expected),
        "default": "" if field.default is None else _plain(field.default),
    }
    return {**record, "options": [{str(each): str(each)} for each in options]} if options else record


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
