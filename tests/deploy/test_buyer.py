"""What a buyer keeps, and that one purchase has one key until it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.fees import sign_provider_fee
from control_plane.did import Address, Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import BadInput, Refused
from control_plane.flows import order as order_flow
from control_plane.flows.offer import Offer, make_offer
from control_plane.flows.publish import publish
from control_plane.receipts.receipt import CallStatus, Issued, Receipt, SignedReceipt, receipt_id
from deploy.buyer import BuyerFiles, KeptCall, KeptSession
from deploy.commands.trade import bought_lines, bought_record, missing_sequences, tokens
from deploy.local.chain import local_account
from deploy.trading import Bought, buy
from tests.fixtures_chain import ONE, simulated_chain
from tests.fixtures_publish import open_stand

WALLET = Address("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
DID, OTHER = Did("did:op:" + "a" * 64), Did("did:op:" + "b" * 64)
FIRST, SECOND = TransactionHash("0x" + "1" * 64), TransactionHash("0x" + "2" * 64)
MARKET = "http://127.0.0.1:8030"


def issued() -> Issued:
    receipt = Receipt.from_json(
        {
            **dict.fromkeys(("model_digest", "request_hash", "response_hash", "order", "previous"), "0x" + "0" * 64),
            **dict.fromkeys(("sequence", "started_at", "finished_at", "units_in", "units_out", "merge_by"), 1),
            "did": DID,
            "consumer": WALLET,
            "status": int(CallStatus.DONE),
        }
    )
    signed = SignedReceipt(receipt, 8996, local_account("operator").address, bytes(65))
    return Issued(signed, bytes(32), receipt_id(signed))


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
    path = files.keep_call(call_with(issued().to_json()))
    assert (files.folder / "sessions.json").stat().st_mode & 0o777 == 0o600
    assert path.stat().st_mode & 0o777 == 0o600
    assert files.calls() == [path]


def call_with(receipt: Mapping[str, Any]) -> KeptCall:
    return KeptCall(DID, "/v1/completions", b"{}", b"{}", receipt, 0.1)


@pytest.mark.parametrize(
    "changes", [{"id": "0x../../../../x"}, {"id": None}, {"id": "0x" + "3" * 64}, {"signed": {}}, {"salt": ""}]
)
def test_a_receipt_that_is_none_names_no_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    files = BuyerFiles(tmp_path / "home", WALLET)
    with pytest.raises(BadInput):
        files.keep_call(call_with({**issued().to_json(), **changes}))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Offers:
    """A market that makes one offer; as much as `buy` asks of one."""

    def __init__(self, offer: Offer) -> None:
        self.made = offer

    def offer(self, _did: Did, _consumer: Address, _valid_for_s: int | None) -> Offer:
        return self.made


class Shop:
    """Bob, a simulated chain with an asset of Alice's on it, and an offer for it."""

    def __init__(self, folder: Path) -> None:
        self.stand = open_stand(simulated_chain()[1], folder)
        self.chain, self.bob = self.stand.chain, self.stand.chain.wallets["bob"]
        listing = publish(self.stand.market, self.chain.wallets["alice"], self.stand.request()).listing
        self.files = BuyerFiles(folder / "home", self.bob.address)
        self.offer = make_offer(listing, self.chain.wallets["operator"], TokenWei(10**16), 600, self.chain.now)

    def fee(self, amount: int, later_s: int = 0) -> Offer:
        old = self.offer.provider_fee
        until = UnixSeconds(old.valid_until + later_s)
        operator = self.chain.wallets["operator"]
        return replace(
            self.offer,
            provider_fee=sign_provider_fee(operator, self.offer.datatoken, 0, old.token, TokenWei(amount), until, self.chain.now),
        )

    def buy(self, offer: Offer, most: int | None = None) -> Bought:
        limit = None if most is None else TokenWei(most)
        return buy(Offers(offer), self.chain.ledger, self.bob, self.files, offer.did, most=limit)  # type: ignore[arg-type]  # a market's stand-in

    def balance(self) -> int:
        return self.chain.ledger.balance(self.chain.ocean, self.bob.address)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_unasked_a_market_cannot_hide_a_price_in_its_fees(shop: Shop) -> None:
    before = shop.balance()
    for hostile in (shop.fee(777 * ONE), shop.fee(2 * ONE), replace(shop.offer, swap_fee=3 * ONE)):
        with pytest.raises(Refused, match=f"at most {3 * ONE} are to be paid"):
            shop.buy(hostile)
    assert shop.balance() == before
    bought = shop.buy(shop.fee(ONE))
    assert before - shop.balance() == bought.total == bought.purchase.paid + sum(fee.amount for fee in bought.fees)


def test_the_buyer_says_what_it_may_cost(shop: Shop) -> None:
    dear, before = shop.fee(5 * ONE), shop.balance()
    cost = order_flow.cost_of(dear)
    with pytest.raises(Refused, match=f"may cost {cost} wei, at most {cost - 1}"):
        shop.buy(dear, cost - 1)
    assert shop.balance() == before
    assert shop.buy(dear, cost).total <= cost
    lines = "\n".join(bought_lines(shop.buy(shop.offer)))
    assert "paid 1.071 OCEAN in all" in lines


def test_a_purchase_that_goes_on_shows_the_order_that_was_made(shop: Shop) -> None:
    key = shop.files.purchase_key(shop.offer.did)
    order_flow.buy(shop.chain.ledger, shop.bob, shop.offer, key)
    sent = order_flow.order(shop.chain.ledger, shop.bob, shop.offer, key)
    bought = shop.buy(shop.fee(10**16, later_s=5000))
    assert bought.sent == sent
    assert bought.valid_until == shop.offer.provider_fee.valid_until
    assert bought_record(bought)["valid_until"] == bought.valid_until
    until = datetime.fromtimestamp(bought.valid_until, UTC)
    assert f"good until {until:%Y-%m-%d %H:%M:%S} UTC" in bought_lines(bought)[-1]


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
