"""`/models/<did>` as its tests ask it: a market with a model of each task, the stock client, and plain requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from control_plane.did import TransactionHash
from control_plane.serving.listing import Listing
from converters.tasks import TASKS
from tests.fixtures_market import Market, open_market
from tests.fixtures_web import serving

FILE = b"\x89PNG not really: the simulator reads no file \xff\x00"
SENTENCES = ["the model", "a receipt"]


@dataclass
class Shared:
    """One market for all questions that change nothing: a model of each task, and Bob's token and order for it."""

    market: Market
    url: str
    listings: dict[str, Listing]
    orders: dict[str, TransactionHash]
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    market = open_market(tmp_path_factory.mktemp("market") / "home")
    listings = {task: market.publish(task, f"for {task}") for task in TASKS}
    orders = {task: market.order("bob", listing) for task, listing in listings.items()}
    tokens = {task: market.sign_in("bob", listing, orders[task]) for task, listing in listings.items()}
    with serving(market) as url:
        yield Shared(market, url, listings, orders, tokens)
    market.engine.dispose()


def client_of(market: Market, url: str, listing: Listing) -> InferenceClient:
    return InferenceClient(model=f"{url}/models/{listing.did}", token=market.sign_in("bob", listing))


def post(market: Market, listing: Listing, record: object, token: str | None = None) -> Any:
    return market.post(f"/models/{listing.did}", token or market.sign_in("bob", listing), json.dumps(record).encode())
