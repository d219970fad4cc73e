"""A document with a fault is refused at the path of the fault; one that ocean.py makes is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from control_plane.chain.ddo import Description, build_ddo
from control_plane.did import Address, UnixSeconds, did_of
from control_plane.provider.ddo_schema import MOST_PATH, faults_of
from tests.fixtures_market import wallet_of

NFT, DATATOKEN = wallet_of("nft").address, wallet_of("datatoken").address


def document() -> dict[str, Any]:
    """As `ocean.py` 3.1.2 writes an algorithm with an access and a compute service."""
    service = {
        "id": "0",
        "type": "access",
        "files": "0x04",
        "name": "Download service",
        "datatokenAddress": DATATOKEN,
        "serviceEndpoint": "http://127.0.0.1:8030",
        "timeout": 3600,
    }
    compute = {
        "allowRawAlgorithm": False,
        "allowNetworkAccess": True,
        "publisherTrustedAlgorithms": [],
        "publisherTrustedAlgorithmPublishers": [],
    }
    return {
        "@context": ["https://w3id.org/did/v1"],
        "id": did_of(NFT, 8996),
        "version": "4.1.0",
        "chainId": 8996,
        "nftAddress": NFT,
        "metadata": {
            "created": "2026-11-28T03:40:00.123456",
            "updated": "2026-11-28T03:40:00Z",
            "description": "Trains",
            "name": "Trainer",
            "type": "algorithm",
            "author": "0x70997",
            "license": "CC0: PublicDomain",
            "algorithm": {
                "language": "python",
                "container": {"entrypoint": "python $ALGO", "image": "python", "tag": "3.11", "checksum": "sha256:00"},
            },
        },
        "credentials": {"allow": [], "deny": []},
        "services": [service, {**service, "id": "1", "type": "compute", "compute": compute}],
    }


def test_what_ocean_clients_write_has_no_fault() -> None:
    assert faults_of(document(), 8996) == {}


def test_our_own_documents_have_no_fault() -> None:
    about = Description("Model", "A model", "Alice", "apache-2.0", UnixSeconds(1_700_000_000), {})
    key = wallet_of("operator").public_key
    assert faults_of(build_ddo(Address(NFT), Address(DATATOKEN), 8996, about, "http://127.0.0.1:8030", key, 3600), 8996) == {}


_GONE = object()


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("@context",), _GONE, "@context"),
        (("id",), "did:op:" + "0" * 64, "id"),
        (("id",), 7, "id"),
        (("version",), "3.0.0", "version"),
        (("chainId",), 1, "chainId"),
        (("chainId",), "8996", "chainId"),
        (("nftAddress",), "0x00", "nftAddress"),
        (("nftAddress",), _GONE, "nftAddress"),
        (("metadata",), _GONE, "metadata"),
        (("metadata",), [], "metadata"),
        (("metadata", "name"), _GONE, "metadata.name"),
        (("metadata", "name"), "", "metadata.name"),
        (("metadata", "description"), 7, "metadata.description"),
        (("metadata", "type"), "model", "metadata.type"),
        (("metadata", "license"), None, "metadata.license"),
        (("metadata", "created"), "yesterday", "metadata.created"),
        (("metadata", "algorithm"), _GONE, "metadata.algorithm.container"),
        (("metadata", "algorithm", "container", "checksum"), _GONE, "metadata.algorithm.container.checksum"),
        (("services",), [], "services"),
        (("services",), {}, "services"),
        (("services", 0), "access", "services[0]"),
        (("services", 0, "timeout"), -1, "services[0].timeout"),
        (("services", 0, "timeout"), True, "services[0].timeout"),
        (("services", 0, "files"), [], "services[0].files"),
        (("services", 0, "datatokenAddress"), "0x", "services[0].datatokenAddress"),
        (("services", 0, "id"), "1", "services"),
        (("services", 1, "compute"), _GONE, "services[1].compute"),
        (("services", 1, "compute", "allowRawAlgorithm"), "no", "services[1].compute.allowRawAlgorithm"),
    ],
)
def test_a_fault_is_told_at_its_path(path: tuple[Any, ...], value: Any, fault: str) -> None:
    changed = copy.deepcopy(document())
    inside: Any = changed
    for step in path[:-1]:
        inside = inside[step]
    if value is _GONE:
        del inside[path[-1]]
    else:
        inside[path[-1]] = value
    assert set(faults_of(changed, 8996)) == {fault}


@pytest.mark.parametrize("value", [None, [], "text", 7])
def test_what_is_no_object_is_no_document(value: object) -> None:
    assert faults_of(value, 8996)


@pytest.mark.parametrize("parts", [1, 2, 100])
def test_names_of_fields_are_no_place_for_a_text(parts: int) -> None:
    """Those that lead to one value count together: each of many values inside keeps all of them."""
    for length, is_taken in ((MOST_PATH, True), (MOST_PATH + 1, False)):
        left = length - len("metadata.additionalInformation.") - 2 * (parts - 1) - len(".")
        value: Any = {"k" * left: [1]}
        for _ in range(parts - 1):
            value = {"k": [value]}
        with_names = document()
        with_names["metadata"]["additionalInformation"] = value
        expected = {} if is_taken else {"document": f"It has a field whose path is longer than {MOST_PATH} letters."}
        assert faults_of(with_names, 8996) == expected
