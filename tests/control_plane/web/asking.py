"""An open market with a session for each of its models, and what every refusal must look like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.did import TransactionHash
from tests.fixtures_market import PROMPT_CANARY, Market, open_market

UNKNOWN_DID = "did:op:" + "0" * 64


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Market, dict[str, str], dict[str, TransactionHash]]]:
    """One market for the whole table: what it refuses changes nothing, which each test checks."""
    market = open_market(tmp_path_factory.mktemp("market") / "home")
    orders = {name: market.order("bob", getattr(market, name)) for name in ("gpt", "embedder")}
    tokens = {name: market.sign_in("bob", getattr(market, name), order) for name, order in orders.items()}
    yield market, tokens, orders
    market.engine.dispose()


def checked(market: Market, orders: dict[str, TransactionHash], answer: Any, status: int, param: str | None) -> dict[str, Any]:
    """The answer is a refusal in the surface's shape, and nothing was charged."""
    record = answer.get_json()
    error = record["error"] if isinstance(record["error"], dict) else {**record, "message": record["error"]}
    assert answer.status_code == status, record
    assert error["param"] == param, record
    if param is not None:
        assert error["expected"]
        assert error["found"]
        assert param in error["message"]
    assert PROMPT_CANARY not in answer.text
    assert PROMPT_CANARY not in market.journal.getvalue()
    assert all(market.calls_used(order) == 0 for order in orders.values())
    return error
