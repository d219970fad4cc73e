"""What an owner does to his asset while the operator still makes it: it is finished, or refused at once, and for good.

He has the NFT from its first block. What the real contracts allow him between two transactions: `chain/test_changed_by_owner.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL, Created, Sent, data_key
from control_plane.chain.lineage import custody_key
from control_plane.did import Bytes32
from control_plane.errors import ChangedByOwner, IntegrityBroken, Unavailable
from control_plane.flows.derive import MINTED, Trained, derive
from control_plane.serving.listing import Listing
from tests.fixtures_chain import simulated_chain
from tests.fixtures_derive import published, trained
from tests.fixtures_publish import Stand, open_stand
from tests.simulators.assets import Datatoken, Nft
from tests.simulators.ledger import SimulatedLedger
from tests.simulators.network import address_of

Act = Callable[[Stand, Created], object]
"""What Bob does to his asset while the operator still makes it."""


def _mints_too(stand: Stand, made: Created) -> None:
    _sold(stand, made).mints.append((stand.chain.wallets["bob"].address, MINTED, stand.chain.wallets["bob"].address))


def _gives_back(stand: Stand, made: Created) -> None:
    operator = stand.chain.wallets["operator"].address
    _sold(stand, made).minters.add(operator)
    _nft(stand, made).deployers.add(operator)


def _revokes(stand: Stand, made: Created) -> None:
    _nft(stand, made).state = 3


def _takes_back(role: str) -> Act:
    def act(stand: Stand, made: Created) -> None:
        members = _sold(stand, made).minters if role == "minters" else getattr(_nft(stand, made), role)
        members.discard(stand.chain.wallets["operator"].address)

    return act


def _records(name: str | None, value: bytes) -> Act:
    def act(stand: Stand, made: Created) -> None:
        key = custody_key(made.datatoken) if name is None else data_key(name)
        stand.chain.ledger.record_data(stand.chain.wallets["bob"], f"{made.nft} {name}", made.nft, key, value)

    return act


def _writes_his_own_document(stand: Stand, made: Created) -> None:
    bob = stand.chain.wallets["bob"]
    stand.chain.ledger.record_metadata(bob, "own", made.nft, b"his own", Bytes32("0x" + "22" * 32), "http://his", bob.address)


def _sells_another_datatoken(stand: Stand, made: Created) -> None:
    _nft(stand, made).datatoken = address_of("another datatoken, made before ours")


def _nft(stand: Stand, made: Created) -> Nft:
    ledger = stand.chain.ledger
    assert isinstance(ledger, SimulatedLedger)
    return ledger._nfts[made.nft]


def _sold(stand: Stand, made: Created) -> Datatoken:
    ledger = stand.chain.ledger
    assert isinstance(ledger, SimulatedLedger)
    return ledger._datatokens[made.datatoken]


HARMLESS: list[tuple[str, Act]] = [
    ("metadata", _mints_too),
    ("metadata", _revokes),
    ("metadata", _writes_his_own_document),
    ("rights", _takes_back("minters")),
    ("rights", _takes_back("describers")),
    ("store", _gives_back),
    ("store", _mints_too),
    ("store", _revokes),
    ("store", _writes_his_own_document),
]
FINAL: list[tuple[str, Act]] = [
    ("metadata", _takes_back("describers")),
    ("rights", _takes_back("deployers")),  # the operator would stay a minter, and could not leave
    *(("store", _records(label, b"another")) for label in (MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL)),
    ("store", _records(None, b"over the custody record")),
    ("store", _sells_another_datatoken),
]


def _again(stand: Stand, job: Trained) -> Listing:
    return derive(stand.market, stand.chain.wallets["operator"], job).listing


def _interrupted(tmp_path: Path, before: str, act: Act) -> tuple[Stand, Trained, Created]:
    """A derivation that dies before a step; then Bob acts."""
    _, chain = simulated_chain()
    stand = open_stand(chain, tmp_path)
    job = trained(stand, published(stand), chain.wallets["bob"].address)
    seen: dict[str, Any] = {}

    def die(step: str, detail: Any) -> None:
        if step == "asset" and detail is not None:
            seen.update(detail)
        if step == before and detail is None:
            raise Unavailable("a worker died here")

    with pytest.raises(Unavailable):
        derive(stand.market, chain.wallets["operator"], job, die)
    made = Created(Sent(seen["transaction"], 0, 0), seen["nft"], seen["datatoken"], seen["exchange"])
    act(stand, made)
    return stand, job, made


@pytest.mark.parametrize(("before", "act"), HARMLESS)
def test_what_the_owner_does_to_his_asset_meanwhile_and_harms_nothing_ends_in_a_sale(before: str, act: Act, tmp_path: Path) -> None:
    stand, job, made = _interrupted(tmp_path, before, act)
    listing = _again(stand, job)
    assert listing.nft == made.nft and stand.catalogue.find(listing.did).state == "on_sale"
    operator, bob = (stand.chain.wallets[name].address for name in ("operator", "bob"))
    assert stand.chain.ledger.minted(made.datatoken, bob, operator) == (MINTED,)


@pytest.mark.parametrize(("before", "act"), FINAL)
def test_what_the_owner_does_to_his_asset_meanwhile_and_leaves_no_way_is_refused_for_good(
    before: str, act: Act, tmp_path: Path
) -> None:
    stand, job, made = _interrupted(tmp_path, before, act)
    for _ in range(2):
        with pytest.raises(ChangedByOwner):
            _again(stand, job)
    assert len(stand.catalogue.listings()) == 1  # the parent's
    operator, bob = (stand.chain.wallets[name].address for name in ("operator", "bob"))
    assert stand.chain.ledger.minted(made.datatoken, bob, operator) == (MINTED,)


def test_a_node_that_does_not_know_the_record_yet_is_asked_again(tmp_path: Path) -> None:
    """What lacks is not what somebody changed: here the node has none of the last blocks."""
    stand, job, made = _interrupted(tmp_path, "store", lambda *_: None)
    ours = _nft(stand, made).data.pop(custody_key(made.datatoken))
    with pytest.raises(IntegrityBroken, match="the chain says None"):
        _again(stand, job)
    _nft(stand, made).data[custody_key(made.datatoken)] = ours
    _again(stand, job)
