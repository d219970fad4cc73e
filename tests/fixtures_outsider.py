"""Somebody who is shown what any visitor is shown, a node of his own choice, and what buyers told him: for stories.

In: a market's URL, a node's URL. Out: an `Outsider`, whose `check` runs the outside checker. This module must never read the
market's state folder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from control_plane.chain.ledger import LedgerReader
from control_plane.chain.ocean import open_reader
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, parse_address, parse_did
from control_plane.receipts.public_log import HttpLogFiles, PublicLog
from control_plane.receipts.receipt import Issued
from deploy.market import Market
from tests.check_market import Seen, Shown, check_market
from tests.fixtures_stack import LiveStack


@dataclass(frozen=True)
class PublicListing:
    """A model as `/v1/models` and `/v1/offers/<did>` show it."""

    did: Did
    name: str
    state: str
    publisher: Address
    model_digest: Bytes32
    chain_id: int
    nft: Address
    datatoken: Address
    exchange: Bytes32 | None
    rate: TokenWei
    base_token: Address
    publish_fee: TokenWei


@dataclass
class Outsider:
    """Somebody with the market's URL, a node of his own choice, and what buyers told him."""

    url: str
    rpc_url: str
    chain_id: int
    orders: list[tuple[TransactionHash, str]] = field(default_factory=list)
    receipts: list[Issued] = field(default_factory=list)

    def listings(self) -> list[Shown]:
        market, found = Market(self.url), list[Shown]()
        for model in market.models():
            did, consumer = parse_did(model["id"]), parse_address("0x" + "1" * 40)
            offer = market.offer(did, consumer)
            assert (offer.did, offer.nft, offer.datatoken) == (did, model["nft"], model["datatoken"])
            found.append(
                PublicListing(
                    did=did,
                    name=model["name"],
                    state=model["state"],
                    publisher=model["owned_by"],
                    model_digest=model["model_digest"],
                    chain_id=model["chain_id"],
                    nft=offer.nft,
                    datatoken=offer.datatoken,
                    exchange=offer.exchange,
                    rate=offer.rate,
                    base_token=offer.base_token,
                    publish_fee=offer.publish_fee,
                )
            )
        return found

    def log(self) -> HttpLogFiles:
        return HttpLogFiles(f"{self.url}/log")

    def log_nft(self) -> Address:
        """The log's own name for itself; that each asset names the same one, the chain says."""
        return parse_address(PublicLog(self.log()).origin.rsplit("/", 1)[-1])

    def reader(self) -> LedgerReader:
        return open_reader(self.rpc_url, self.chain_id)

    def seen(self, **more: Any) -> Seen:
        return Seen(self.listings(), self.log_nft(), orders=self.orders, log=self.log(), receipts=self.receipts, **more)

    def check(self) -> None:
        check_market(self.reader(), self.seen())


@pytest.fixture
def outsider(stack: LiveStack) -> Outsider:
    return Outsider(stack.settings.public_url, stack.settings.rpc_url, stack.settings.chain_id)
