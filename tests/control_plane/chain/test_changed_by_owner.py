"""What the owner of an asset can do between two transactions of the platform that makes it for him, on the real contracts.

Each either leaves a way to finish, and then 200 datatokens are minted by the platform, or is found to be his doing, and is final.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.assets import MAX_UINT256
from control_plane.chain.contracts import call_data, events
from control_plane.chain.custody import add_minter_action, mint_action, price_action
from control_plane.chain.ledger import Created, Rights, Sent
from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Mined, Rpc
from control_plane.chain.transaction import Action
from control_plane.did import Address, TokenWei, TransactionHash
from control_plane.errors import ChangedByOwner, Refused
from tests.control_plane.chain.test_custody import AMOUNT, LEAVING, custody_of, make
from tests.control_plane.chain.test_ledger_contract import key
from tests.fixtures_chain import ONE, Chain, real_chain

pytestmark = pytest.mark.live
PARENT = Created(Sent(TransactionHash("0x" + "10" * 32), 1, 1), Address("0x" + "11" * 20), Address("0x" + "12" * 20), None)
"""Only its NFT is named."""


class Owner:
    """Bob, who acts on the asset that is being made for him."""

    def __init__(self, url: str, folder: Path) -> None:
        self.chain = real_chain(url, folder / "outbox")
        self.rpc = Rpc(url, LOCAL_CHAIN_ID)
        self._own = Outbox(folder / "own", self.rpc, poll_s=0.01)
        self.nft = self.datatoken = Address("0x" + "00" * 20)

    def name(self, who: str) -> Address:
        return self.chain.wallets[who].address

    def send(self, to: Address, contract: str, function: str, *arguments: Any) -> None:
        self.do(Action(to, call_data(contract, function, arguments)))

    def do(self, action: Action) -> None:
        self._own.send(self.chain.wallets["bob"], key(), action)


def _takes_deploying(bob: Owner) -> None:
    bob.send(bob.nft, "ERC721Template", "removeFromCreateERC20List", bob.name("operator"))


def _takes_minting(bob: Owner) -> None:
    bob.send(bob.datatoken, "ERC20Template", "removeMinter", bob.name("operator"))


def _cleans(bob: Owner) -> None:
    bob.send(bob.datatoken, "ERC20Template", "cleanPermissions")


def _gives_away(bob: Owner) -> None:
    bob.send(bob.nft, "ERC721Template", "transferFrom", bob.name("bob"), bob.name("carol"), 1)


def _gives_to_the_operator(bob: Owner) -> None:
    bob.send(bob.nft, "ERC721Template", "transferFrom", bob.name("bob"), bob.name("operator"), 1)


def _sets_a_rate(bob: Owner) -> None:
    network = bob.chain.ledger.network
    bob.do(price_action(bob.rpc, network, bob.datatoken, bob.name("bob"), bob.chain.terms(7 * ONE)))


def _lets_the_exchange_mint(bob: Owner) -> None:
    bob.do(add_minter_action(bob.datatoken, bob.chain.ledger.network.fixed_rate))


def _lets_himself_mint(bob: Owner) -> None:
    bob.do(add_minter_action(bob.datatoken, bob.name("bob")))


def _mints_as_much(bob: Owner) -> None:
    _lets_himself_mint(bob)
    bob.do(mint_action(bob.datatoken, bob.name("bob"), AMOUNT))


def _mints_all_there_can_be(bob: Owner) -> None:
    _lets_himself_mint(bob)
    bob.do(mint_action(bob.datatoken, bob.name("carol"), TokenWei(MAX_UINT256)))


def _revokes(bob: Owner) -> None:
    bob.send(bob.nft, "ERC721Template", "setMetaDataState", 3)


def _lets_the_operator_back_in(bob: Owner) -> None:
    bob.send(bob.nft, "ERC721Template", "addManager", bob.name("operator"))
    bob.send(bob.nft, "ERC721Template", "addToCreateERC20List", bob.name("operator"))
    bob.do(add_minter_action(bob.datatoken, bob.name("operator")))


Act = Callable[[Owner], None]
HARMLESS: list[tuple[str, Act]] = [
    ("mint", _lets_himself_mint),
    ("mint", _mints_as_much),
    ("minter", _lets_himself_mint),
    ("minter", _mints_as_much),
    ("minter", _mints_all_there_can_be),
    ("record", _takes_minting),
    ("may_mint", _cleans),
    ("may_mint", _gives_away),
    ("may_mint", _gives_to_the_operator),
    ("may_mint", _revokes),
    ("may_describe", _takes_deploying),
    ("left", _lets_the_operator_back_in),
]
FINAL: list[tuple[str, Act]] = [
    ("datatoken", _takes_deploying),
    ("datatoken", _gives_away),
    ("price", _takes_deploying),
    ("price", _sets_a_rate),
    ("price", _lets_the_exchange_mint),
    ("price", _gives_away),
    ("mint", _takes_minting),
    ("mint", _cleans),
    ("mint", _gives_away),
    ("mint", _gives_to_the_operator),
    ("mint", _mints_all_there_can_be),
    ("minter", _takes_deploying),
    ("record", _takes_deploying),
    ("record", _gives_away),
    ("may_mint", _takes_deploying),
]


def _made(bob: Owner, before: str, act: Act, monkeypatch: pytest.MonkeyPatch, name: str) -> Created:
    """Made and left by the operator; Bob acts before the transaction of that name, or when all have been sent."""
    ledger = bob.chain.ledger
    assert isinstance(ledger, OceanLedger)
    send, acted = ledger._outbox.send, []

    def sent(wallet: Any, which: str, action: Action, identity: int | None = None) -> Mined:
        if which.endswith(f"/{before}") and not acted:
            acted.append(which)
            act(bob)
        mined = send(wallet, which, action, identity)
        if which.endswith("/nft"):
            bob.nft = Address(events("ERC721Factory", "NFTCreated", mined.logs)[0][1]["newTokenAddress"])
        if which.endswith("/datatoken"):
            bob.datatoken = Address(events("ERC721Factory", "TokenCreated", mined.logs)[0][1]["newTokenAddress"])
        return mined

    monkeypatch.setattr(ledger._outbox, "send", sent)
    try:
        made = make(bob.chain, name, PARENT)
        ledger.give_up(bob.chain.wallets["operator"], f"{name}/rights", made.nft, made.datatoken)
        if before == "left":
            act(bob)
        assert acted or before == "left"
        return made
    finally:
        monkeypatch.setattr(ledger._outbox, "send", send)


def _minted(bob: Owner) -> tuple[TokenWei, ...]:
    return bob.chain.ledger.minted(bob.datatoken, bob.name("bob"), bob.name("operator"))


@pytest.mark.parametrize(("before", "act"), HARMLESS)
def test_what_harms_nothing_is_gone_on_with(
    before: str, act: Act, anvil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, name = Owner(anvil, tmp_path), key()
    made = _made(bob, before, act, monkeypatch, name)
    ledger, operator = bob.chain.ledger, bob.chain.wallets["operator"]
    assert make(bob.chain, name, PARENT) == made
    ledger.give_up(operator, f"{name}/rights", made.nft, made.datatoken)
    assert _minted(bob) == (AMOUNT,)
    assert ledger.asset(made.nft).parent == custody_of(PARENT).parent
    if act not in (_gives_to_the_operator, _lets_the_operator_back_in):  # what he gives, he may give
        assert ledger.rights(made.nft, made.datatoken, operator.address) == Rights()


@pytest.mark.parametrize(("before", "act"), FINAL)
def test_what_leaves_no_way_is_found_to_be_the_owners_doing(
    before: str, act: Act, anvil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob, name = Owner(anvil, tmp_path), key()
    with pytest.raises(ChangedByOwner):
        _made(bob, before, act, monkeypatch, name)
    with pytest.raises(ChangedByOwner):
        _made(bob, before, lambda _bob: None, monkeypatch, name)
    if bob.datatoken != Address("0x" + "00" * 20):
        assert _minted(bob) == ((AMOUNT,) if before in ("minter", "record", *LEAVING) else ())


def test_an_account_that_takes_no_nft_is_its_owners_doing_and_a_factory_that_makes_none_is_not(anvil: str, tmp_path: Path) -> None:
    """A wallet may have code (EIP-7702), which is asked; here a contract that knows no NFTs."""
    chain = real_chain(anvil, tmp_path / "outbox")
    ledger, network = chain.ledger, chain.ledger.network
    assert isinstance(ledger, OceanLedger)
    asked = (network.dispenser, "X", "X", chain.terms(2 * ONE), AMOUNT, custody_of(PARENT).value())
    with pytest.raises(ChangedByOwner):
        ledger.create_asset_for(chain.wallets["operator"], key(), *asked)
    ledger._network = replace(network, factory=network.router)
    with pytest.raises(Refused) as refused:
        ledger.create_asset_for(chain.wallets["operator"], key(), *asked)
    assert refused.value.code == "reverted"


def test_what_the_owner_did_not_do_is_not_called_his_doing(anvil: str, tmp_path: Path) -> None:
    """The operator's own fault: a fixed rate that Ocean's router does not know."""
    chain: Chain = real_chain(anvil, tmp_path / "outbox")
    ledger = chain.ledger
    assert isinstance(ledger, OceanLedger)
    ledger._network = replace(ledger.network, fixed_rate=chain.wallets["carol"].address)
    with pytest.raises(Refused) as refused:
        make(chain, key(), PARENT)
    assert refused.value.code == "reverted"
