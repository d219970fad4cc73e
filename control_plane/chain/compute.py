"""What a DDO says of computing: the service that jobs are ordered from, and the algorithms that its owner lets near the asset.

In: algorithms with their checksums, or a document from the chain. Out: the service's `compute` object, or what it says. This module
must never run a job, nor open a sealed document.

Source: Ocean DDO 4.1.0; Ocean Provider 2.1.6 `validation/algo.py` for both checksums, and ocean-node for what an empty list means:
Provider takes it for "any published algorithm". We take it for none, which is what a reader expects of a list of those trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.did import Address, Did, parse_address, parse_did
from control_plane.errors import BadInput, Refused


@dataclass(frozen=True)
class Algorithm:
    """A published algorithm. files_checksum, container_checksum: see `checksum_of_files`, `checksum_of_container`."""

    did: Did
    files_checksum: str
    container_checksum: str


@dataclass(frozen=True)
class ComputeService:
    """A service for jobs, as its asset's document states it. index: what an order names on chain. timeout_s: how long an order may
    start a job, in seconds; 0: until its provider fee ends. trusted: algorithms that may come near; no others may."""

    index: int
    id: str
    datatoken: Address
    timeout_s: int
    trusted: tuple[Algorithm, ...]


def checksum_of_files(files: Sequence[bytes]) -> str:
    """SHA-256 of each file, 64 hex digits, one behind the other."""
    return "".join(hashlib.sha256(each).hexdigest() for each in files)


def checksum_of_container(container: Mapping[str, Any]) -> str:
    """SHA-256 over the entrypoint's and the image checksum's text, 64 hex digits."""
    return hashlib.sha256(f"{container['entrypoint']}{container['checksum']}".encode()).hexdigest()


def compute_object(trusted: Sequence[Algorithm]) -> dict[str, Any]:
    """What stands under `compute`: no code of anybody's own, no network, and these algorithms alone.

    The list of publishers is left empty, which Provider takes for no further condition.
    """
    return {
        "allowRawAlgorithm": False,
        "allowNetworkAccess": False,
        "publisherTrustedAlgorithms": [
            {"did": each.did, "filesChecksum": each.files_checksum, "containerSectionChecksum": each.container_checksum}
            for each in trusted
        ],
        "publisherTrustedAlgorithmPublishers": [],
    }


def compute_service(document: Mapping[str, Any]) -> ComputeService | None:
    """The first service for jobs that a document states; None where it states none.

    Raises Refused with code document_damaged for one that is not as the format asks: its owner writes it, not we.
    """
    return _first(document, "compute")


def access_service(document: Mapping[str, Any]) -> ComputeService | None:
    """As `compute_service`, the first service that gives access; it trusts no algorithm."""
    return _first(document, "access")


def _first(document: Mapping[str, Any], kind: str) -> ComputeService | None:
    try:
        for index, service in enumerate(document["services"]):
            if service["type"] == kind:
                return _service(index, service)
    except (KeyError, TypeError, ValueError, AttributeError, BadInput) as error:
        raise Refused(
            f"{document.get('id')}: expected a document with services as DDO 4.1.0 has them, found {type(error).__name__}",
            code="document_damaged",
        ) from error
    return None


def _service(index: int, service: Mapping[str, Any]) -> ComputeService:
    trusted = service.get("compute", {}).get("publisherTrustedAlgorithms") or []
    timeout_s = service["timeout"]
    if type(timeout_s) is not int or timeout_s < 0:
        raise ValueError("timeout")
    return ComputeService(
        index=index,
        id=str(service["id"]),
        datatoken=parse_address(service["datatokenAddress"], "datatokenAddress"),
        timeout_s=timeout_s,
        trusted=tuple(
            Algorithm(parse_did(each["did"], "did"), str(each["filesChecksum"]), str(each["containerSectionChecksum"]))
            for each in trusted
        ),
    )
