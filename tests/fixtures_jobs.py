"""A market that sells jobs: the fixture market, with algorithms published and the documents of its models in the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.ddo import Description, build_ddo
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.flows.offer import Offer
from control_plane.jobs.algorithms import for_model
from control_plane.jobs.environments import PAID
from control_plane.provider.asset_index import Cursor, IndexedAsset
from control_plane.serving.listing import Listing
from tests.fixtures_market import ONE, Market, open_market

ALGORITHMS = {
    f"POSTHUMAN_ALGORITHM_{kind}": "0x" + f"{number:040x}" for number, kind in enumerate(("TRAIN", "EVALUATE", "INFER"), 1)
}


def index(market: Market, listing: Listing, sells_jobs: bool = True, **compute: Any) -> dict[str, Any]:
    """Put a document of the listing into the index, as the log keeper does. compute: members of its compute service that differ."""
    operator = market.wallet("operator")
    about = Description(listing.name, "", "Alice", "apache-2.0", UnixSeconds(1_700_000_000), {})
    trusted = for_model(market.services.algorithms, listing.task, has_weights=True) if sells_jobs else ()
    document = build_ddo(
        listing.nft, listing.datatoken, listing.chain_id, about, "https://market.example", operator.public_key, 3600, trusted
    )
    if compute:
        document["services"][1].update(compute)
    put(market, listing.did, listing.nft, document)
    return document


def put(market: Market, did: Did, nft: Address, document: dict[str, Any]) -> None:
    asset = IndexedAsset(did, nft, 1, document, {}, {"state": 0}, 0, market.clock.now)
    market.services.provider.assets.put((asset,), Cursor(1, Bytes32("0x" + "1" * 64)))


def offered(market: Market, name: str, listing: Listing | None = None, **fields: Any) -> Any:
    body = {"consumer": market.wallet(name).address, "kind": "train", "parameters": {"steps": 20}, "environment": PAID, **fields}
    return market.client.post(f"/v1/offers/{(listing or market.gpt).did}/jobs", json=body)


def pay(market: Market, name: str, listing: Listing | None = None, duration_s: int = 600, **fields: Any) -> TransactionHash:
    """An order of one job, by the market's own offer."""
    listing, wallet, ledger = listing or market.gpt, market.wallet(name), market.ledger
    answer = offered(market, name, listing, duration_s=duration_s, **fields)
    assert answer.status_code == 200, answer.get_json()
    offer = Offer.from_json(answer.get_json()["offer"])
    ledger.mint(listing.base_token, wallet.address, 10 * ONE)
    key = f"{name} computes {len(ledger.writes)}"
    ledger.buy_datatoken(wallet, f"{key} buy", offer.datatoken, offer.exchange, TokenWei(5 * ONE))
    sent = ledger.start_order(wallet, f"{key} order", offer.datatoken, wallet.address, offer.service_index, offer.provider_fee)
    return sent.transaction


@pytest.fixture
def jobs_market(tmp_path: Path) -> Iterator[Market]:
    opened = open_market(tmp_path / "home", **ALGORITHMS)
    for listing in (opened.gpt, opened.other_gpt):
        index(opened, listing)
    index(opened, opened.embedder)
    yield opened
    opened.engine.dispose()
