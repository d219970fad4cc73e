"""How far receipts are, as anybody sees it who shares the disk: also while the keeper is away, and the list of anchors is long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from control_plane.receipts.anchors import Anchor
from control_plane.receipts.standing import Standing, look
from tests.fixtures_log import LogMarket, market_on_either

__all__ = ["market_on_either"]


def looked(market: LogMarket) -> Standing:
    found = market.store.standing(market.folder / "log")
    assert found == look(market.engine, market.folder / "log"), "asked twice, answered the same"
    return found


def test_nothing_yet(market: LogMarket) -> None:
    assert looked(market) == Standing(0, 0, 0, 0.0, 0, 0.0, None)


def test_a_receipt_is_followed_from_its_issue_to_its_anchor(market: LogMarket) -> None:
    first, second = (issued.signed.receipt for issued in market.issue(2))
    waiting = looked(market)
    assert (waiting.waiting, waiting.leaves, waiting.published, waiting.oldest_unanchored) == (2, 0, 0, first.finished_at)

    market.log.integrate()
    logged = looked(market)
    assert (logged.waiting, logged.leaves, logged.published, logged.anchored) == (0, 2, 2, 0)
    assert logged.oldest_unanchored == first.finished_at
    assert logged.published_at > 0

    anchor = market.anchor()
    assert anchor is not None
    anchored = looked(market)
    assert (anchored.anchored, anchored.anchored_at, anchored.oldest_unanchored) == (2, anchor.written_at, None)

    (third,) = (issued.signed.receipt for issued in market.issue(1))
    late = looked(market)
    assert (late.waiting, late.leaves, late.oldest_unanchored) == (1, 2, third.finished_at)
    market.issue(3)
    market.log.integrate()
    assert looked(market).oldest_unanchored == third.finished_at, "the oldest of those that no anchor covers"
    assert second.finished_at <= third.finished_at


def test_the_newest_anchor_is_found_at_the_end_of_a_long_list(market: LogMarket) -> None:
    market.issue(1)
    market.log.integrate()
    anchor = market.anchor()
    assert anchor is not None
    many = [{**anchor.to_json(), "size": number, "block": number} for number in range(1, 5001)]
    (market.folder / "log" / "anchors.json").write_text(json.dumps(many, indent=1) + "\n")
    assert look(market.engine, market.folder / "log").anchored == 5000
    assert Anchor.from_json(many[-1]).size == 5000


@pytest.mark.parametrize("damage", ["", "[", "[]", '[{"size": 1}]', "\xff\xfe", "{}" * 3000])
def test_a_damaged_list_or_checkpoint_counts_as_none(market: LogMarket, damage: str) -> None:
    market.issue(1)
    market.log.integrate()
    for name in ("anchors.json", "checkpoint"):
        (market.folder / "log" / name).write_bytes(damage.encode("latin-1"))
    found = look(market.engine, market.folder / "log")
    assert (found.leaves, found.published, found.anchored) == (1, 0, 0)
    assert found.oldest_unanchored is not None


def test_a_writer_that_does_not_end_is_not_waited_for(market: LogMarket) -> None:
    market.issue(1)
    with market.engine.begin() as busy:  # a write transaction of another thread, or of the keeper
        busy.exec_driver_sql("UPDATE sessions SET calls_used = calls_used")
        assert market.store.standing(market.folder / "log").waiting == 1


def test_a_database_that_is_gone_is_an_error_of_its_own_kind(market: LogMarket, tmp_path: Path) -> None:
    with market.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE receipts RENAME TO gone")
    with pytest.raises(SQLAlchemyError):
        market.store.standing(tmp_path)
