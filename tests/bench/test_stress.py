"""The load test in small, on the shared stack: what `python -m bench.stress` does for two minutes with 64 clients."""

from __future__ import annotations

import pytest

from bench.crowd import Seat
from bench.stress import is_good, stress
from control_plane.did import parse_did, parse_transaction_hash
from deploy.buyer import BuyerFiles
from deploy.local.chain import local_accounts
from deploy.market import Market
from deploy.trading import session_for
from tests.fixtures_stack import LiveStack

pytestmark = pytest.mark.live


def test_under_load_every_answer_has_its_receipt_and_nothing_else_is_charged(stack: LiveStack, on_sale: str) -> None:
    settings, did, seats = stack.settings, parse_did(on_sale, "did"), []
    for buyer in ("carol", "elena"):
        bought = stack.run("buy", did, "--as", buyer, "--json")
        assert bought.code == 0, bought.err
        wallet, order = local_accounts()[buyer], parse_transaction_hash(bought.json["order"])
        files = BuyerFiles(stack.home, wallet.address)
        session = session_for(Market(settings.public_url), wallet, files, did, settings.chain_id, order)
        seats.append(Seat(did, "text-generation", session.token, session.order))
    report = stress(settings, seats, clients=8, duration_s=5)
    # five seconds are too short to tell growth from warming up
    del report["broken"]["memory is flat"]
    assert {name: found for name, found in report["broken"].items() if found["number"]} == {}
    assert is_good(report)
    kinds = report["calls"]
    assert all(kinds[kind]["statuses"].get("200", 0) > 0 for kind in ("completion", "stream")), kinds
    assert kinds["cut stream"]["statuses"].get("cut", 0) > 0, kinds
    assert report["counts"]["receipts"] > 0
