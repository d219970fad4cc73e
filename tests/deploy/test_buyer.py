"""What a buyer keeps, and that one purchase has one key until it is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.did import Address, Did, TransactionHash
from control_plane.errors import BadInput
from deploy.buyer import BuyerFiles, KeptCall, KeptSession
from deploy.commands.trade import missing_sequences, tokens

WALLET = Address("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
DID, OTHER = Did("did:op:" + "a" * 64), Did("did:op:" + "b" * 64)
FIRST, SECOND = TransactionHash("0x" + "1" * 64), TransactionHash("0x" + "2" * 64)
MARKET = "http://127.0.0.1:8030"


def test_a_purchase_keeps_its_key_until_it_is_done(tmp_path: Path) -> None:
    key = BuyerFiles(tmp_path, WALLET).purchase_key(DID)
    again = BuyerFiles(tmp_path, WALLET)
    assert again.purchase_key(DID) == key
    assert again.purchase_key(OTHER) != key
    again.purchased(DID, FIRST)
    assert again.purchase_key(DID) != key


def test_the_newest_order_is_used(tmp_path: Path) -> None:
    files = BuyerFiles(tmp_path, WALLET)
    assert files.latest_order(DID) is None
    for order in (FIRST, SECOND, FIRST):
        files.purchased(DID, order)
    assert files.latest_order(DID) == FIRST
    assert files.latest_order(OTHER) is None


def test_a_session_that_ends_soon_is_not_used(tmp_path: Path) -> None:
    files = BuyerFiles(tmp_path, WALLET, clock=lambda: 1000.0)
    files.keep_session(MARKET, DID, KeptSession("ph_x", FIRST, 2000.0))
    assert files.session(MARKET, DID) == KeptSession("ph_x", FIRST, 2000.0)
    assert files.session(MARKET, OTHER) is None
    assert files.session("http://another", DID) is None
    assert BuyerFiles(tmp_path, WALLET, clock=lambda: 1990.0).session(MARKET, DID) is None
    files.keep_session(MARKET, DID, None)
    assert files.session(MARKET, DID) is None


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    files = BuyerFiles(tmp_path, WALLET)
    files.keep_session(MARKET, DID, KeptSession("ph_x", FIRST, 2000.0))
    path = files.keep_call(KeptCall(DID, "/v1/completions", b"{}", b"{}", {"id": "0x" + "3" * 64}, 0.1))
    assert (files.folder / "sessions.json").stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
    assert files.calls() == [path]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    files = BuyerFiles(tmp_path, WALLET)
    files.purchased(DID, FIRST)
    (files.folder / "orders.json").write_text("not json")
    with pytest.raises(BadInput, match=r"orders\.json"):
        files.latest_order(DID)


def test_a_receipt_that_is_not_here_shows_as_a_gap() -> None:
    rows = [{"order": FIRST, "sequence": number} for number in (0, 1, 3, 5)] + [{"order": SECOND, "sequence": 0}]
    assert missing_sequences(rows) == {FIRST: [2, 4]}


@pytest.mark.parametrize(("wei", "text"), [(0, "0"), (10**18, "1"), (15 * 10**17, "1.5"), (1, "0.000000000000000001")])
def test_amounts_are_shown_exactly(wei: int, text: str) -> None:
    assert tokens(wei) == text
