"""What is wrong with a DDO, in Aquarius's words where clients know them.

In: a document from a stranger, a chain. Out: a message for each path that is not as it should be. This module must never change
one.

Source: Aquarius 5.1 `shacl_schemas/v4/remote_4.1.0.ttl` and `shacl_checker.py`. Written by hand: pyshacl and rdflib would be two
large dependencies for the same few dozen checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from control_plane.did import did_of, parse_address
from control_plane.errors import BadInput

VERSIONS = ("4.0.0", "4.1.0", "4.3.0", "4.5.0")
_MISSING = "Less than 1 values on it: it is required."
_LONGEST = 10_000
MOST_VALUES = 20_000
"""Texts, numbers, lists and objects in one document; Ocean's have some hundreds. A kilobyte on chain can hold 300,000 empty lists,
which take 20 MB of each worker's memory and of the time of each search."""
MOST_PATH = 512
"""Letters of the names that lead to a value. A search keeps each path: a name of half a megabyte with ten thousand fields inside
would take 5 GB of each worker's memory."""
_Check = Callable[[Any], str | None]


def faults_of(document: object, chain_id: int) -> dict[str, str]:
    """By path, such as `services[0].timeout`; nothing where the document may stand on chain `chain_id`."""
    if not isinstance(document, Mapping):
        return {"document": "It is not a JSON object."}
    if fault := _fault_of_size(document):
        return {"document": fault}
    faults: dict[str, str] = {}
    _look(document, "", faults, _TOP)
    metadata, services = document.get("metadata"), document.get("services")
    if isinstance(metadata, Mapping):
        _look(metadata, "metadata.", faults, _METADATA, optional=_METADATA_OPTIONAL)
        if metadata.get("type") == "algorithm":
            container = _within(metadata, "algorithm", "container")
            if container is None:
                faults["metadata.algorithm.container"] = _MISSING
            else:
                _look(container, "metadata.algorithm.container.", faults, dict.fromkeys(_CONTAINER, _text))
    if isinstance(services, list):
        for index, service in enumerate(services):
            _look_at_service(service, f"services[{index}]", faults)
        ids = [str(each.get("id")) for each in services if isinstance(each, Mapping)]
        if len(set(ids)) < len(ids):
            faults["services"] = "Two services have one id."
    _look_at_identity(document, chain_id, faults)
    return faults


def _fault_of_size(document: Mapping[str, Any]) -> str | None:
    left: list[tuple[object, int]] = [(document, 0)]
    most = MOST_VALUES
    while left:
        each, path = left.pop()
        most -= 1
        if path > MOST_PATH:
            return f"It has a field whose path is longer than {MOST_PATH} letters."
        if isinstance(each, Mapping | list) and len(each) > most:
            return f"It has more than {MOST_VALUES} values."
        if isinstance(each, Mapping):
            left.extend((inside, path + len(name) + 1) for name, inside in each.items())
        elif isinstance(each, list):
            left.extend((inside, path) for inside in each)
    return f"It has more than {MOST_VALUES} values." if most < 0 else None


def _look_at_service(service: object, path: str, faults: dict[str, str]) -> None:
    if not isinstance(service, Mapping):
        faults[path] = "It is not a JSON object."
        return
    _look(service, f"{path}.", faults, _SERVICE)
    if service.get("type") == "compute":
        _look(service, f"{path}.", faults, {"compute": _object})
        compute = service.get("compute")
        if isinstance(compute, Mapping):
            _look(compute, f"{path}.compute.", faults, {"allowRawAlgorithm": _flag, "allowNetworkAccess": _flag}, optional=_COMPUTE)


def _look_at_identity(document: Mapping[str, Any], chain_id: int, faults: dict[str, str]) -> None:
    if "chainId" not in faults and document["chainId"] != chain_id:
        faults["chainId"] = f"It must be {chain_id}."
    if "nftAddress" in faults or "id" in faults:
        return
    try:
        nft = parse_address(document["nftAddress"])
    except BadInput:
        faults["nftAddress"] = "It is not an address."
        return
    if document["id"] != did_of(nft, chain_id):
        faults["id"] = "did is not valid for chain Id and nft address."


def _look(
    record: Mapping[str, Any],
    prefix: str,
    faults: dict[str, str],
    required: Mapping[str, _Check],
    optional: Mapping[str, _Check] | None = None,
) -> None:
    for name, check in required.items():
        fault = _MISSING if record.get(name) is None else check(record[name])
        if fault:
            faults[prefix + name] = fault
    for name, check in (optional or {}).items():
        if record.get(name) is not None and (fault := check(record[name])):
            faults[prefix + name] = fault


def _within(record: Mapping[str, Any], *names: str) -> Mapping[str, Any] | None:
    found: Any = record
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _text(value: object) -> str | None:
    return None if isinstance(value, str) and 0 < len(value) <= _LONGEST else f"It is not a text of 1 to {_LONGEST} letters."


def _whole(value: object) -> str | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return None if is_whole else "It is not a whole number from 0."


def _flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "It is neither true nor false."


def _object(value: object) -> str | None:
    return None if isinstance(value, Mapping) else "It is not a JSON object."


def _objects(value: object) -> str | None:
    is_right = isinstance(value, list) and all(isinstance(each, Mapping) for each in value)
    return None if is_right else "It is not a list of JSON objects."


def _listed(value: object) -> str | None:
    return None if isinstance(value, list) and value else "It is not a list with something in it."


def _context(value: object) -> str | None:
    return None if isinstance(value, list | Mapping) and value else "It is neither a list nor an object."


def _did(value: object) -> str | None:
    return None if isinstance(value, str) and value.startswith("did:op:") else "It does not begin with did:op:."


def _date(value: object) -> str | None:
    try:
        datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    except ValueError:
        return "It is not an ISO 8601 date."
    return None


def _among(*allowed: str) -> _Check:
    return lambda value: None if value in allowed else f"It is none of {', '.join(allowed)}."


def _address(value: object) -> str | None:
    try:
        parse_address(value)
    except BadInput:
        return "It is not an address."
    return None


_TOP: Mapping[str, _Check] = {
    "@context": _context,
    "id": _did,
    "version": _among(*VERSIONS),
    "chainId": _whole,
    "nftAddress": _text,
    "metadata": _object,
    "services": _listed,
}
_METADATA: Mapping[str, _Check] = {
    "description": _text,
    "name": _text,
    "type": _among("dataset", "algorithm"),
    "author": _text,
    "license": _text,
    "created": _date,
    "updated": _date,
}
_METADATA_OPTIONAL: Mapping[str, _Check] = {
    "tags": lambda value: None if isinstance(value, list) else "It is not a list.",
    "additionalInformation": _object,
    "algorithm": _object,
}
_SERVICE: Mapping[str, _Check] = {
    "id": _text,
    "type": _among("access", "compute"),
    "datatokenAddress": _address,
    "serviceEndpoint": _text,
    "files": lambda value: None if isinstance(value, str) and value else "It is not an encrypted text.",
    "timeout": _whole,
}
_COMPUTE: Mapping[str, _Check] = {
    "publisherTrustedAlgorithms": _objects,
    "publisherTrustedAlgorithmPublishers": lambda value: None if isinstance(value, list) else "It is not a list.",
}
_CONTAINER = ("entrypoint", "image", "tag", "checksum")
