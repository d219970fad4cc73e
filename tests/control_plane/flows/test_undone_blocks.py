"""Whatever the chain undoes, the index comes to say what a new one would that reads the chain as it is now."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from control_plane.chain.ddo import encrypt
from control_plane.chain.ledger import Created
from control_plane.database import open_database
from control_plane.did import Bytes32, Did, did_of
from control_plane.errors import Unavailable
from control_plane.flows.index_assets import index_assets
from control_plane.migrations.migrate import migrate
from control_plane.provider import asset_index
from control_plane.provider.asset_index import AssetIndex, Cursor, IndexedAsset
from tests.control_plane.chain.test_ledger_contract import bought, key, ordered, publish
from tests.fixtures_chain import BOTH, ONE, Chain, anvil, either_chain, simulated_chain
from tests.fixtures_database import BOTH_DATABASES
from tests.ocean_assets import document_for

__all__ = ["anvil"]

URL = "https://market.example"
DEEPER = asset_index.REWOUND_BLOCKS + 10


@pytest.fixture(params=BOTH)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return either_chain(request.param, request, tmp_path)


@pytest.fixture(params=BOTH_DATABASES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], AssetIndex]]:
    """Makes empty indexes."""
    with ExitStack() as stack:

        def make() -> AssetIndex:
            if request.param == "postgresql":
                url = stack.enter_context(request.getfixturevalue("postgresql").database())
            else:
                url = f"sqlite:///{tmp_path / f'{secrets.token_hex(4)}.db'}"
            engine = open_database(url)
            stack.callback(engine.dispose)
            migrate(engine)
            return AssetIndex(engine)

        yield make


def write(chain: Chain, made: Created, name: str) -> Did:
    """A document of that name, encrypted to the operator."""
    operator, did = chain.wallets["operator"], did_of(made.nft, chain.ledger.network.chain_id)
    document = document_for(operator.public_key, URL, made.nft, made.datatoken, "https://words.example", name=name)
    clear = json.dumps(document).encode()
    sealed, digest = encrypt(operator.public_key, lzma.compress(clear)), Bytes32("0x" + hashlib.sha256(clear).hexdigest())
    chain.ledger.record_metadata(chain.wallets["alice"], key(), made.nft, sealed, digest, URL, operator.address)
    return did


def order(chain: Chain, made: Created) -> None:
    bought(chain, made)
    ordered(chain, made)


def settle(chain: Chain) -> None:
    """Make orders final."""
    chain.advance_blocks(chain.ledger.network.confirmations)


def read(index: AssetIndex, chain: Chain) -> None:
    """As many of the keeper's steps as there is work for, in no time: nothing is read again because it is old."""
    for _ in range(20):
        index_assets(index, chain.ledger, chain.wallets["operator"], URL, lambda: 1.8e9)


def told(index: AssetIndex) -> list[IndexedAsset]:
    return [replace(asset, refreshed_at=0.0) for asset in index.all()]


def found(index: AssetIndex, did: Did) -> tuple[str, int] | None:
    """Name in the document, and number of orders."""
    asset = index.find(did)
    return None if asset is None else (asset.document["metadata"]["name"], asset.orders)


def test_an_undone_document_gives_way_to_the_one_before_and_orders_are_kept(chain: Chain, opened: Callable[[], AssetIndex]) -> None:
    index, old, late, undone = opened(), publish(chain), publish(chain), publish(chain)
    did = write(chain, old, "One")
    order(chain, old)
    order(chain, late)  # before its document, which is read in the same step
    chain.advance_blocks(DEEPER)
    late_did = write(chain, late, "Late")  # read again, since nobody knows how much was undone
    settle(chain)
    read(index, chain)
    assert (found(index, did), found(index, late_did)) == (("One", 1), ("Late", 1))

    undo = chain.remember()
    write(chain, old, "Two")
    write(chain, old, "Three")
    undone_did = write(chain, undone, "Undone")
    for made in (old, late, undone):
        order(chain, made)
    settle(chain)
    read(index, chain)
    assert [found(index, each) for each in (did, late_did, undone_did)] == [("Three", 2), ("Late", 2), ("Undone", 1)]

    undo()
    before = told(index)
    read(index, chain)
    assert told(index) == before, "a chain that is shorter than it was may be a node that is behind"
    other_did = write(chain, undone, "Other")
    order(chain, old)
    chain.advance_blocks(40)
    read(index, chain)
    assert [found(index, each) for each in (did, late_did, other_did)] == [("One", 2), ("Late", 1), ("Other", 0)]

    fresh = opened()
    read(fresh, chain)
    ours = {did, late_did, other_did}
    assert [each for each in told(index) if each.did in ours] == [each for each in told(fresh) if each.did in ours]

    write(chain, old, "Four")  # and what was restored can be replaced, and undone, again
    read(index, chain)
    assert found(index, did) == ("Four", 2)


@pytest.mark.parametrize("seed", range(8))
def test_after_any_story_of_documents_orders_and_undone_blocks_it_is_as_a_new_index(
    opened: Callable[[], AssetIndex], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """On the simulator, with a short memory, so that most documents are older than what is read again."""
    monkeypatch.setattr(asset_index, "REWOUND_BLOCKS", 8)
    monkeypatch.setattr("control_plane.flows.index_assets.REWOUND_BLOCKS", 8)
    ledger, chain = simulated_chain()
    chances, index, made = random.Random(seed), opened(), []  # noqa: S311  # a story that can be told again
    depth, undo = 0, chain.remember()
    kept: list[Created] = []
    for turn in range(40):
        if len(made) < 2 or chances.random() < 0.1:
            made.append(publish(chain, rate=ONE))
            write(chain, made[-1], f"First of {turn}")  # at once: an order without a document is nobody's
        which = chances.choice(made)
        act = chances.choice(["write", "order", "state", "index", "index", "mine", "undo"])
        if act == "write":
            write(chain, which, f"Turn {turn}")
        elif act == "order":
            order(chain, which)
        elif act == "state":
            ledger.set_state(which.nft, chances.randrange(6))
        elif act == "index":
            read(index, chain)
        elif act == "undo" and chain.ledger.head().number - depth <= 7:
            undo()
            made = list(kept)
        if act == "undo" or chain.ledger.head().number - depth > 7:
            depth, undo, kept = chain.ledger.head().number, chain.remember(), list(made)
        chain.advance_blocks(1)
    chain.advance_blocks(60)  # longer than it ever was
    fresh = opened()
    read(index, chain)
    read(fresh, chain)
    assert told(index) == told(fresh)
    assert len(told(fresh)) == len(made) >= 2


@pytest.mark.parametrize("is_done", [False, True], ids=["failed", "done anyway"])
def test_a_rewinding_that_broke_off_is_done_once(
    opened: Callable[[], AssetIndex], monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    chain, index = simulated_chain()[1], opened()
    made = publish(chain)
    did = write(chain, made, "One")
    order(chain, made)
    chain.advance_blocks(DEEPER)
    undo = chain.remember()
    write(chain, made, "Two")
    order(chain, made)
    read(index, chain)
    undo()
    chain.advance_blocks(10)
    rewind = AssetIndex.rewind

    def broken(self: AssetIndex, cursor: Cursor) -> int:
        if is_done:
            rewind(self, cursor)
        raise Unavailable("broken")

    with monkeypatch.context() as broke:
        broke.setattr(AssetIndex, "rewind", broken)
        with pytest.raises(Unavailable):
            index_assets(index, chain.ledger, chain.wallets["operator"], URL, chain.now)
    assert found(index, did) == (("One", 1) if is_done else ("Two", 2))
    read(index, chain)
    assert found(index, did) == ("One", 1)
