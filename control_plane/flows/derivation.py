"""How a derived asset came to be, as a statement that is signed for by its hash on chain.

In: facts of a training job. Out: a `Derivation`, its canonical bytes and hash. This module must never speak to a node.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.did import Address, Bytes32, Did, did_of, parse_address, parse_bytes32, parse_did
from control_plane.errors import BadInput
from control_plane.jobs.job import canonical_json

FORMAT = "posthuman/derivation/v1"
_PREFIX = b"posthuman/derivation/v1\0"
_JOB = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Derivation:
    """job: 32 hex digits. trainer: for whom the asset is made. parent_digest, parent_weights: of the model when its training began.

    dataset: a DID, or the name of a text that the operator keeps. parameters: as the job had them. weights_digest: what came out.
    """

    job: str
    trainer: Address
    chain_id: int
    parent_nft: Address
    parent_digest: Bytes32
    parent_weights: Bytes32
    dataset: str
    algorithm: Did
    parameters: Mapping[str, Any]
    weights_digest: Bytes32

    @property
    def parent(self) -> Did:
        return did_of(self.parent_nft, self.chain_id)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "job": self.job,
            "trainer": self.trainer,
            "chain_id": self.chain_id,
            "parent": {
                "did": self.parent,
                "nft": self.parent_nft,
                "model_digest": self.parent_digest,
                "weights_digest": self.parent_weights,
            },
            "dataset": self.dataset,
            "algorithm": self.algorithm,
            "parameters": dict(self.parameters),
            "weights_digest": self.weights_digest,
        }

    def canonical(self) -> bytes:
        """The one byte form: JSON with sorted keys, no spaces, UTF-8."""
        return canonical_json(self.to_json()).encode()

    def digest(self) -> Bytes32:
        """SHA-256(`posthuman/derivation/v1\\0` + canonical bytes): what stands on chain beside the parent."""
        return Bytes32("0x" + hashlib.sha256(_PREFIX + self.canonical()).hexdigest())

    @classmethod
    def from_json(cls, record: object) -> Derivation:
        """Raises BadInput for a missing, unknown or ill-typed field, or a parent whose DID is not that of its NFT."""
        fields = _exactly(record, "derivation", set(cls.__dataclass_fields__) - _OF_PARENT | {"format", "parent"})
        parent = _exactly(fields["parent"], "derivation.parent", {"did", "nft", "model_digest", "weights_digest"})
        if fields["format"] != FORMAT:
            raise BadInput("derivation.format", FORMAT, fields["format"])
        chain_id, parameters = fields["chain_id"], fields["parameters"]
        if type(chain_id) is not int or chain_id < 1:
            raise BadInput("derivation.chain_id", "a whole number from 1", chain_id)
        if not isinstance(parameters, Mapping):
            raise BadInput("derivation.parameters", "an object", parameters)
        for name in ("job", "dataset"):
            if not isinstance(fields[name], str):
                raise BadInput(f"derivation.{name}", "a text", fields[name])
        if not _JOB.fullmatch(fields["job"]):
            raise BadInput("derivation.job", "32 lower-case hex digits", fields["job"])
        made = cls(
            job=fields["job"],
            trainer=parse_address(fields["trainer"], "derivation.trainer"),
            chain_id=chain_id,
            parent_nft=parse_address(parent["nft"], "derivation.parent.nft"),
            parent_digest=parse_bytes32(parent["model_digest"], "derivation.parent.model_digest"),
            parent_weights=parse_bytes32(parent["weights_digest"], "derivation.parent.weights_digest"),
            dataset=fields["dataset"],
            algorithm=parse_did(fields["algorithm"], "derivation.algorithm"),
            parameters=dict(parameters),
            weights_digest=parse_bytes32(fields["weights_digest"], "derivation.weights_digest"),
        )
        if parent["did"] != made.parent:
            raise BadInput("derivation.parent.did", f"{made.parent}, the DID of {made.parent_nft}", parent["did"])
        return made


_OF_PARENT = {"parent_nft", "parent_digest", "parent_weights"}


def _exactly(record: object, name: str, fields: set[str]) -> Mapping[str, Any]:
    if not isinstance(record, Mapping) or set(record) != fields:
        raise BadInput(name, f"exactly the fields {sorted(fields)}", sorted(record) if isinstance(record, Mapping) else record)
    return record
