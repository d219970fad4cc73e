"""Whether a model sells jobs stands in its document, and a model that was published before jobs were sold sells none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.chain import ddo
from control_plane.chain.compute import Algorithm, compute_service
from control_plane.did import Address, UnixSeconds
from control_plane.flows.documents import documented
from control_plane.flows.publications import Choices, Journal, Journals
from control_plane.jobs.algorithms import known
from control_plane.jobs.states import Kind
from tests.fixtures_chain import simulated_chain
from tests.fixtures_publish import Stand, open_stand

NFTS = {kind.value: Address("0x" + f"{number:040x}") for number, kind in enumerate(Kind, 1)}


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return open_stand(simulated_chain()[1], tmp_path)


def trusted_by(stand: Stand, algorithms: dict[Kind, Algorithm], task: str, weights: str | None) -> list[Kind] | None:
    """The kinds that a new document's compute service trusts; None where it has no such service."""
    market, alice = replace(stand.market, algorithms=algorithms), stand.chain.wallets["alice"]
    created = stand.chain.ledger.create_asset(alice, "asset", "Tiny", "TINY", stand.chain.terms())
    choices = Choices(
        publisher=alice.address,
        chain_id=stand.chain.ledger.network.chain_id,
        model_digest=created.exchange,  # type: ignore[arg-type]  # any digest
        name="Tiny",
        description="",
        author="Alice",
        licence="apache-2.0",
        rate=stand.chain.terms().rate,
        base_token=stand.chain.ocean,
        publish_fee=stand.chain.terms().publish_fee,
        swap_fee=0,
        marketplace_owner=market.operator,
        timeout_s=3600,
    )
    journal = Journal(choices, UnixSeconds(1_700_000_000))
    kept = documented(market, Journals(market.publications), journal, created, {"task": task, "weights_digest": weights})
    assert kept.document is not None
    document = ddo.unseal(bytes.fromhex(kept.document[2:]), market.decryptor)
    service = compute_service(document)
    assert (service is None) == ("compute" not in json.dumps(document["services"]))
    return None if service is None else [kind for kind, each in algorithms.items() if each in service.trusted]


def test_a_language_model_with_its_weights_sells_every_kind_of_job(stand: Stand) -> None:
    assert trusted_by(stand, known(NFTS, 8996), "text-generation", "0x" + "1" * 64) == list(Kind)


def test_without_its_weights_it_is_not_trained(stand: Stand) -> None:
    assert trusted_by(stand, known(NFTS, 8996), "text-generation", None) == [Kind.EVALUATE, Kind.INFER]


def test_a_model_that_no_job_is_for_sells_none(stand: Stand) -> None:
    assert trusted_by(stand, known(NFTS, 8996), "feature-extraction", "0x" + "1" * 64) is None


def test_a_market_that_has_published_no_algorithms_sells_no_jobs(stand: Stand) -> None:
    assert trusted_by(stand, {}, "text-generation", "0x" + "1" * 64) is None
