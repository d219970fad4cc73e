"""The simulated contracts' part in which a platform makes an asset for somebody else and leaves it.

In: the state of a `SimulatedLedger`. Out: its methods for custody. This module must never allow what the real contracts refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from control_plane.chain.ledger import Created, Rights, Sent, Terms, Wallet
from control_plane.chain.lineage import custody_key
from control_plane.did import Address, Bytes32, TokenWei
from control_plane.errors import BadInput, ChangedByOwner
from tests.simulators.assets import Datatoken, Nft
from tests.simulators.network import address_of

Result = TypeVar("Result")


class SimulatedCustody:
    """Each transaction is a write of its own, named `create_asset_for mint` and so on for `fail_next`."""

    _nfts: dict[Address, Nft]
    _datatokens: dict[Address, Datatoken]
    balances: dict[tuple[Address, Address], int]
    _write: Callable[..., Any]
    _send: Callable[[str, int], Sent]
    _record: Callable[[Address, Bytes32, bytes, Sent], None]
    _hash: Callable[[str], Bytes32]
    _done: dict[str, tuple[Any, Any]]
    _nft: Callable[[Address], Nft]
    _datatoken: Callable[[Address], Datatoken]

    def create_asset_for(
        self, wallet: Wallet, key: str, owner: Address, name: str, symbol: str, terms: Terms, amount: TokenWei, record: bytes
    ) -> Created:
        if terms.rate == 0:
            raise BadInput("rate", "token wei above 0 for an asset that is made for somebody else", terms.rate)
        platform = wallet.address

        def step(what: str, gas: int, do: Callable[[Sent], Result], *identity: Any) -> tuple[Sent, Result]:
            def done() -> tuple[Sent, Result]:
                sent = self._send(f"{key}/{what}", gas)
                return sent, do(sent)

            found: tuple[Sent, Result] = self._write(f"create_asset_for {what}", f"{key}/{what}", (platform, *identity), done)
            return found

        def make_nft(sent: Sent) -> Address:
            nft = address_of(f"{key} nft {sent.block}")
            self._nfts[nft] = Nft(owner, deployers={platform}, describers={platform})
            return nft

        made, nft = step("nft", 568_208, make_nft, owner, name, symbol)

        def may_deploy(reason: str = "ERC20Template: NOT DEPLOYER ROLE") -> None:
            self._still(platform in {owner, *self._nfts[nft].deployers}, reason)

        def deploy(sent: Sent) -> Address:
            may_deploy("ERC721Template: NOT ERC20DEPLOYER_ROLE")
            datatoken = address_of(f"{key} datatoken {sent.block}")
            self._nfts[nft].datatoken = datatoken
            self._datatokens[datatoken] = Datatoken(nft, terms, None, minters={platform}, collector=owner)
            return datatoken

        _, datatoken = step("datatoken", 500_000, deploy, nft, owner, terms)
        kept = self._datatokens[datatoken]

        def price(_sent: Sent) -> Bytes32:
            may_deploy()
            kept.exchange, kept.exchange_owner = self._hash(f"{key} exchange"), owner
            return kept.exchange

        _, exchange = step("price", 300_000, price, datatoken, terms)

        def mint(_sent: Sent) -> None:
            self._still(platform in kept.minters, "ERC20Template: NOT MINTER")
            self.balances[datatoken, owner] += amount
            kept.mints.append((owner, amount, platform))

        step("mint", 70_000, mint, datatoken, owner, amount)
        if owner != platform:
            step("minter", 60_000, lambda _sent: kept.minters.add(owner), datatoken, owner)

        def keep(sent: Sent) -> None:
            may_deploy()
            self._record(nft, custody_key(datatoken), record, sent)

        step("record", 200_000, keep, datatoken, record)
        return Created(made, nft, datatoken, exchange)

    def give_up(self, wallet: Wallet, key: str, nft: Address, datatoken: Address) -> tuple[Sent, ...]:
        account = wallet.address
        held = self.rights(nft, datatoken, account)
        lists = {
            "may_mint": self._datatokens[datatoken].minters,
            "may_describe": self._nfts[nft].describers,
            "may_deploy": self._nfts[nft].deployers,
        }
        sent = []
        for right, members in () if held.is_owner else lists.items():
            if not getattr(held, right) and f"{key}/{right}" not in self._done:
                continue

            def leave(right: str = right, members: set[Address] = members) -> Sent:
                self._still(right != "may_mint" or account in self._nfts[nft].deployers, "ERC20Template: NOT DEPLOYER ROLE")
                members.discard(account)
                return self._send(f"{key}/{right}", 40_000)

            sent.append(self._write(f"give_up {right}", f"{key}/{right}", (account, nft, datatoken), leave))
        return tuple(sent)

    def rights(self, nft: Address, datatoken: Address, account: Address) -> Rights:
        found, sold = self._nft(nft), self._datatoken(datatoken)
        is_owner = found.owner == account
        return Rights(
            is_owner=is_owner,
            is_manager=is_owner,
            may_deploy=is_owner or account in found.deployers,
            may_describe=is_owner or account in found.describers,
            may_store=is_owner,
            may_mint=account in sold.minters,
            may_collect=False,  # the contracts make the one who collects no manager of it
        )

    def minted(self, datatoken: Address, to: Address, by: Address | None = None) -> tuple[TokenWei, ...]:
        mints = self._datatoken(datatoken).mints
        return tuple(TokenWei(amount) for holder, amount, sender in mints if holder == to and by in (None, sender))

    @staticmethod
    def _still(holds: bool, reason: str) -> None:
        """What a platform could do until the NFT's owner, and nobody else, took the right away."""
        if not holds:
            raise ChangedByOwner(f"the contract refused: {reason}")
