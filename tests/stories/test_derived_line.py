"""A model is trained twice, by two people: each result is the trainer's, the last is called, and the line is checked from outside.

Training itself is another story: here a job's result is the parent's weights, moved a little.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from c2d_adapter.market import open_market, open_store
from c2d_adapter.storage import WEIGHTS, ObjectStore
from control_plane.chain.ledger import Rights
from control_plane.did import Bytes32, Did, TokenWei, TransactionHash, parse_did
from control_plane.flows.derivation import Derivation
from control_plane.flows.derive import MINTED, Trained, derive
from control_plane.flows.entries import weights_folder
from control_plane.flows.services import Services
from control_plane.serving.listing import Listing
from control_plane.serving.triton import Triton
from control_plane.wiring import build_services, operator_wallet
from converters.weights_folder import weights_digest
from deploy.local.chain import local_account
from tests.fixtures_outsider import Outsider, outsider
from tests.fixtures_stack import LiveStack

__all__ = ["outsider"]

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.long]

PROMPT = "The market stands at the end of"


def moved(services: Services, parent: Listing, trainer: str, folder: Path, job: str) -> Trained:
    """What a job of `trainer` could leave: the parent's kept weights, each a little off."""
    assert parent.weights_digest is not None
    shutil.copytree(weights_folder(services.settings.weights, parent.weights_digest), folder)
    path = folder / "model.safetensors"
    chances = numpy.random.default_rng(int(job[:8], 16))
    tensors = load_file(path)
    near = {name: (each + chances.normal(0, 2e-3, each.shape)).astype(each.dtype) for name, each in tensors.items()}
    save_file(near, path, metadata={"format": "pt"})
    derivation = Derivation(
        job=job,
        trainer=local_account(trainer).address,
        chain_id=parent.chain_id,
        parent_nft=parent.nft,
        parent_digest=parent.model_digest,
        parent_weights=parent.weights_digest,
        dataset="wikitext-2",
        algorithm=Did("did:op:" + "a1" * 32),
        parameters={"steps": 500},
        weights_digest=Bytes32(weights_digest(folder)),
    )
    return Trained(derivation, folder, rate=TokenWei(10**18))


@pytest.fixture
def parts(stack: LiveStack) -> Iterator[tuple[Services, ObjectStore]]:
    """A worker's hands on the running market."""
    services, store = build_services(stack.settings), open_store(stack.settings)
    assert store is not None and isinstance(services.server, Triton)
    yield services, store
    services.server.close()
    store._client.close()


def test_what_two_people_trained_is_theirs_is_called_and_is_traced_back(
    stack: LiveStack, on_sale: str, outsider: Outsider, parts: tuple[Services, ObjectStore], tmp_path: Path
) -> None:
    services, store = parts
    operator = operator_wallet(stack.settings)
    market = open_market(services, store, lambda _stage, _seconds: None)
    first = services.catalogue.find(parse_did(on_sale))
    assert first.weights_digest is not None and store.holds(WEIGHTS, first.weights_digest)
    line = [first]
    for number, trainer in enumerate(("bob", "carol"), 2):
        trained = moved(services, line[-1], trainer, tmp_path / f"M{number}", f"{number}" * 32)
        made = derive(market, operator, trained)
        assert derive(market, operator, trained) == made  # again: nothing new
        listing, wallet = made.listing, local_account(trainer)
        assert services.ledger.asset(listing.nft).owner == wallet.address
        assert services.ledger.minted(listing.datatoken, wallet.address) == (MINTED,)
        assert services.ledger.rights(listing.nft, listing.datatoken, operator.address) == Rights()
        assert store.holds(WEIGHTS, trained.derivation.weights_digest)
        line.append(listing)
        outsider.check()
    third = line[-1]

    bought = stack.run("buy", third.did, "--as", "derek", "--json")
    assert bought.code == 0, bought.out + bought.err
    outsider.orders.append((TransactionHash(bought.json["order"]), third.did))
    called = stack.run("call", third.did, PROMPT, "--as", "derek", "--max-tokens", "8", "--json")
    assert called.code == 0, called.out + called.err
    outsider.check()
    assert services.ledger.balance(third.datatoken, third.publisher) == MINTED + 10**18 * 97 // 100, "orders pay the trainer"

    drawing = tmp_path / "line.svg"
    traced = stack.run("lineage", third.did, "--svg", str(drawing), "--json")
    assert traced.code == 0, traced.out + traced.err
    record: Any = traced.json
    assert record["verified"]
    assert [asset["did"] for asset in record["assets"]] == [listing.did for listing in reversed(line)]
    boxes = list(ElementTree.parse(drawing).iter("{http://www.w3.org/2000/svg}rect"))  # noqa: S314  our own drawing
    assert len(boxes) == 3
    said = stack.run("lineage", third.did)
    assert said.code == 0, said.out + said.err
    assert "3 assets, checks: 14 ok" in said.out
    assert f"500 steps on wikitext-2, job {'3' * 8}" in said.out

    lost = weights_folder(stack.settings.weights, first.weights_digest)
    shutil.rmtree(lost)
    restored = stack.run("restore", first.did, "--json")
    assert restored.code == 0, restored.out + restored.err
    assert weights_digest(lost) == first.weights_digest

    _, second, _ = line
    services.catalogue.put_on_sale(replace(second, statement=first.statement))  # the market tells another story of M2
    try:
        lied = stack.run("lineage", third.did)
        assert lied.code == 1, lied.out + lied.err
        assert "not checked statement" in lied.out
    finally:
        services.catalogue.put_on_sale(second)
