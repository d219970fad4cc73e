"""The market's algorithms are published once, however often set-up runs and wherever it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from control_plane.chain import ddo
from control_plane.did import Address, did_of
from control_plane.errors import IntegrityBroken, PosthumanError
from control_plane.flows.algorithms import publish_algorithms
from control_plane.jobs.algorithms import container
from control_plane.jobs.states import Kind
from control_plane.provider.ddo_schema import faults_of
from tests.fixtures_chain import BOTH, Chain, anvil, either_chain, simulated_chain

__all__ = ["anvil"]

URL = "http://127.0.0.1:8030"


@pytest.fixture(params=BOTH)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return either_chain(request.param, request, tmp_path)


def publish(chain: Chain, folder: Path, url: str = URL, name: str = "operator") -> dict[Kind, Address]:
    operator = chain.wallets[name]
    return dict(publish_algorithms(chain.ledger, operator, operator.public_key, url, folder, chain.now))


def document(chain: Chain, nft: Address, name: str = "operator") -> dict[str, object]:
    sealed = chain.ledger.document(nft)
    assert sealed is not None
    return ddo.unseal(sealed, chain.wallets[name])


def test_each_kind_is_an_asset_with_its_document_and_published_once(chain: Chain, tmp_path: Path) -> None:
    made = publish(chain, tmp_path / "algorithms")
    written = {kind: chain.ledger.document(nft) for kind, nft in made.items()}
    assert publish(chain, tmp_path / "algorithms") == made
    assert {kind: chain.ledger.document(nft) for kind, nft in made.items()} == written
    assert set(made) == set(Kind) and len(set(made.values())) == len(Kind)
    for kind, nft in made.items():
        found, facts = document(chain, nft), chain.ledger.asset(nft)
        assert (found["id"], facts.owner) == (did_of(nft, chain.ledger.network.chain_id), chain.wallets["operator"].address)
        assert found["metadata"]["algorithm"]["container"] == container(kind)  # type: ignore[index]
        sale = chain.ledger.sale(facts.datatoken, None)
        assert (sale.is_active, sale.publish_fee) == (True, 0)


def test_another_address_of_the_market_is_written_also_when_an_old_one_comes_back(chain: Chain, tmp_path: Path) -> None:
    for url in (URL, "https://market.example", URL):
        made = publish(chain, tmp_path / "algorithms", url, "carol")
        (service,) = document(chain, made[Kind.TRAIN], "carol")["services"]  # type: ignore[misc]
        assert service["serviceEndpoint"] == url  # type: ignore[has-type]


def test_ocean_accepts_the_documents(tmp_path: Path) -> None:
    chain = simulated_chain()[1]
    for nft in publish(chain, tmp_path / "algorithms").values():
        assert not faults_of(document(chain, nft), chain.ledger.network.chain_id)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["create_asset", "record_metadata"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_write_that_fails_is_made_up_for_and_nothing_is_made_twice(method: str, when: str, number: int, tmp_path: Path) -> None:
    ledger, chain = simulated_chain()
    folder = tmp_path / "algorithms"
    original, calls = getattr(ledger, method), [0]

    def broken(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == number:
            ledger.fail_next(method, when)
        return original(*arguments, **named)

    setattr(ledger, method, broken)
    with pytest.raises(PosthumanError):
        publish(chain, folder)
    made = publish(chain, folder)
    assert len(ledger.writes) == 2 * len(Kind)
    assert all(chain.ledger.document(nft) for nft in made.values())


def test_a_damaged_file_is_told_and_nothing_is_sealed_in_its_place(tmp_path: Path) -> None:
    chain = simulated_chain()[1]
    publish(chain, tmp_path)
    path = tmp_path / "train.json"
    for damaged in ("{", "[]", json.dumps({"version": 2}), path.read_text().replace('"document": "0x', '"document": "0xzz')):
        path.write_text(damaged)
        with pytest.raises(IntegrityBroken, match=r"train\.json"):
            publish(chain, tmp_path)
