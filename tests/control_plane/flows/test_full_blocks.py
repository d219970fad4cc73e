"""Blocks of which a node cannot tell all stop the index neither for long nor unseen."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from control_plane.chain.published import Happened
from control_plane.chain.rpc import AnswerTooLarge
from control_plane.errors import Unavailable
from control_plane.provider.asset_index import DOCUMENTS, MOST_BLOCKS, ORDERS
from tests.fixtures_market import Market, market
from tests.ocean_assets import index, publish

__all__ = ["market"]


def test_a_node_that_cannot_tell_of_many_blocks_at_once_is_asked_for_fewer(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = publish(market)
    market.ledger.advance_blocks(200)
    happened, asked = market.ledger.happened, []

    def slow(first: int, last: int) -> Happened:
        asked.append(last - first + 1)
        if last - first >= 20:
            raise Unavailable("not answered in time")
        return happened(first, last)

    monkeypatch.setattr(market.ledger, "happened", slow)
    for _ in range(60):
        with suppress(Unavailable):
            index(market)
    cursor = market.services.provider.assets.cursor(DOCUMENTS)
    assert cursor is not None
    assert cursor.block == market.ledger.head().number
    assert market.services.provider.assets.find(asset.did) is not None
    monkeypatch.setattr(market.ledger, "happened", happened)
    market.ledger.advance_blocks(5000)
    for _ in range(20):
        market.ledger.advance_blocks(1)
        index(market)
    assert market.services.provider.assets.reach == {DOCUMENTS: MOST_BLOCKS, ORDERS: MOST_BLOCKS}, "it recovers"


def test_a_block_of_which_no_node_can_tell_all_is_passed_over_and_told(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """With new blocks in each step, and orders that are final later: documents and orders are both read in each, apart."""
    market.ledger._network = replace(market.ledger.network, confirmations=20)
    before = publish(market, name="Before")
    market.ledger.advance_blocks(1)
    full = market.ledger.head().number
    after = publish(market, name="After")
    happened = market.ledger.happened

    def too_large(first: int, last: int) -> Happened:
        if not first <= full <= last:
            return happened(first, last)
        if first != last:
            raise AnswerTooLarge("more than can be read")
        return replace(happened(first, last), untold=("MetadataState",))

    monkeypatch.setattr(market.ledger, "happened", too_large)
    told = []
    for _ in range(60):
        market.ledger.advance_blocks(3)
        with suppress(Unavailable):
            told.append(index(market) or {})
    assets = market.services.provider.assets
    assert assets.find(before.did) is not None
    assert assets.find(after.did) is not None
    lines = [each["untold"] for each in told if "untold" in each]
    assert lines, "though the step that read it failed after that, with the orders of several blocks"
    assert all(each == {str(full): ("MetadataState",)} for each in lines)
    for name in (DOCUMENTS, ORDERS):
        cursor = assets.cursor(name)
        assert cursor is not None
        assert cursor.block > full + 16
