"""The path of a receipt, from call to verified anchor, the same on the simulated and on the real contracts."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.receipts.receipt import Issued
from tests.fixtures_chain import BOTH, anvil, either_chain
from tests.fixtures_log import REQUEST, RESPONSE, LogMarket

__all__ = ["anvil"]


@pytest.fixture(params=BOTH)
def market(request: pytest.FixtureRequest, tmp_path: Path) -> LogMarket:
    return LogMarket(tmp_path, either_chain(request.param, request, tmp_path))


def test_a_receipt_is_verified_by_a_stranger_once_it_is_anchored(market: LogMarket) -> None:
    made = market.issue(3)
    market.log.integrate()
    assert not market.verify(made[0]).is_verified
    found = market.anchor()
    assert found is not None and found.size == 3
    assert market.anchor() is None
    others = [issued.signed for issued in made]
    verified = market.verify(made[1], request=REQUEST, response=RESPONSE, others=others)
    assert verified.is_verified, verified.to_json()
    assert {check.verdict.value for check in verified.checks} == {"ok"}
    more = market.issue(2)
    market.log.integrate()
    second = market.anchor()
    assert second is not None and [anchor.size for anchor in market.log.anchors()] == [3, 5]
    assert market.verify(more[0]).is_verified and market.verify(made[0]).is_verified


def test_a_forged_receipt_fails_by_name(market: LogMarket) -> None:
    made = market.issue(2)
    market.log.integrate()
    market.anchor()
    edited = market.resign(made[0], units_out=9)
    assert {check.name for check in market.verify(edited).failed} == set()  # not in the log, and its promise still holds
    assert not market.verify(edited).is_verified
    unpaid: Issued = market.resign(made[0], order=market.did.replace("did:op:", "0x"))
    assert {"order", "asset", "operator", "model"} <= {check.name for check in market.verify(unpaid).failed}
