"""What a document says of computing is what Ocean's clients read, and what its owner wrote decides whom the model trusts."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from ocean_lib.assets.ddo import DDO

from control_plane.chain import ddo
from control_plane.chain.compute import (
    Algorithm,
    access_service,
    checksum_of_container,
    checksum_of_files,
    compute_service,
)
from control_plane.chain.wallet import LocalWallet
from control_plane.did import Address, UnixSeconds, did_of
from control_plane.errors import Refused
from control_plane.jobs.algorithms import algorithm_of, container, for_model, known, section, statement
from control_plane.jobs.states import Kind

OPERATOR = LocalWallet(bytes(31) + b"\x07")
NFT = Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
OTHER = Address("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
DATATOKEN = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
ABOUT = ddo.Description("Tiny", "A model", "Alice", "apache-2.0", UnixSeconds(1_700_000_000), {"task": "text-generation"})
TRUSTED = (algorithm_of(Kind.TRAIN, OTHER, 8996),)


def model(algorithms: tuple[Algorithm, ...] = TRUSTED) -> dict[str, Any]:
    return ddo.build_ddo(NFT, DATATOKEN, 8996, ABOUT, "http://market", OPERATOR.public_key, 3600, algorithms)


def algorithm(kind: Kind = Kind.TRAIN) -> dict[str, Any]:
    url = "http://market/v1/algorithms/train"
    return ddo.build_algorithm_ddo(OTHER, DATATOKEN, 8996, ABOUT, "http://market", OPERATOR.public_key, url, section(kind))


def test_ocean_lib_finds_the_compute_service_behind_the_access_service() -> None:
    calls, jobs = DDO.from_dict(model()).services
    assert (calls.id, calls.type, jobs.id, jobs.type) == ("0", "access", "1", "compute")
    assert (jobs.datatoken, jobs.timeout, jobs.service_endpoint) == (DATATOKEN, 3600, "http://market")
    values = jobs.compute_values
    assert (values["allowRawAlgorithm"], values["allowNetworkAccess"]) == (False, False)
    assert [each["did"] for each in jobs.get_trusted_algorithms()] == [did_of(OTHER, 8996)]


def test_the_checksums_are_those_that_ocean_lib_computes_from_the_algorithm_asset() -> None:
    """As `Service.gen_trusted_algorithms` does, but for the file, which it asks the provider for."""
    published = DDO.from_dict(algorithm())
    (trusted,) = model()["services"][1]["compute"]["publisherTrustedAlgorithms"]
    named = published.metadata["algorithm"]["container"]
    assert trusted["containerSectionChecksum"] == hashlib.sha256((named["entrypoint"] + named["checksum"]).encode()).hexdigest()
    assert trusted["filesChecksum"] == hashlib.sha256(statement(Kind.TRAIN)).hexdigest()


def test_several_files_have_their_checksums_behind_each_other() -> None:
    assert checksum_of_files([b"a", b"b"]) == hashlib.sha256(b"a").hexdigest() + hashlib.sha256(b"b").hexdigest()


def test_a_document_without_algorithms_has_one_service_and_sells_no_jobs() -> None:
    made = model(())
    assert [service["type"] for service in made["services"]] == ["access"]
    assert compute_service(made) is None
    assert access_service(made) is not None


def test_what_was_written_is_read_back() -> None:
    read = compute_service(model())
    assert read is not None
    assert (read.index, read.id, read.datatoken, read.timeout_s, read.trusted) == (1, "1", DATATOKEN, 3600, TRUSTED)


@pytest.mark.parametrize(
    "fault",
    [
        {"timeout": "3600"},
        {"timeout": -1},
        {"timeout": True},
        {"datatokenAddress": "0x12"},
        {"compute": []},
        {"compute": {"publisherTrustedAlgorithms": ["did"]}},
        {"compute": {"publisherTrustedAlgorithms": [{"did": "did:op:1", "filesChecksum": "", "containerSectionChecksum": ""}]}},
    ],
    ids=str,
)
def test_a_service_that_is_not_as_the_format_asks_is_refused(fault: dict[str, Any]) -> None:
    made = model()
    made["services"][1].update(fault)
    with pytest.raises(Refused) as caught:
        compute_service(made)
    assert caught.value.code == "document_damaged"


@pytest.mark.parametrize("kind", Kind)
def test_an_algorithm_asset_says_how_it_is_asked(kind: Kind) -> None:
    made = algorithm(kind)
    assert made["metadata"]["type"] == "algorithm"
    said = made["metadata"]["algorithm"]
    assert set(said["container"]) == {"entrypoint", "image", "tag", "checksum"}
    for parameter in said["consumerParameters"]:
        assert set(parameter) - {"options"} == {"name", "type", "label", "required", "description", "default"}
        assert parameter["type"] in ("text", "number", "boolean", "select")
        assert (parameter["type"] == "select") == ("options" in parameter)
        assert isinstance(parameter["default"], str)


def test_each_kind_is_another_algorithm() -> None:
    assert len({checksum_of_files([statement(kind)]) for kind in Kind}) == len(Kind)
    assert len({checksum_of_container(container(kind)) for kind in Kind}) == len(Kind)


def test_a_model_trusts_what_can_be_done_with_it() -> None:
    all_of_them = known({"train": NFT, "evaluate": OTHER, "infer": DATATOKEN}, 8996)

    def kinds(task: str, has_weights: bool) -> list[Kind]:
        chosen = for_model(all_of_them, task, has_weights)
        return [kind for kind, each in all_of_them.items() if each in chosen]

    assert kinds("text-generation", True) == [Kind.TRAIN, Kind.EVALUATE, Kind.INFER]
    assert kinds("text-generation", False) == [Kind.EVALUATE, Kind.INFER]
    assert kinds("text2text-generation", True) == [Kind.TRAIN, Kind.INFER]
    assert kinds("text2text-generation", False) == [Kind.INFER]
    assert kinds("fill-mask", True) == [Kind.TRAIN]
    assert kinds("feature-extraction", True) == []
