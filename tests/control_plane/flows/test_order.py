"""A buyer compares the offer with the chain before paying."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.chain.fees import sign_provider_fee
from control_plane.did import Address, Bytes32, TokenWei, UnixSeconds
from control_plane.errors import BadInput, PosthumanError, Refused
from control_plane.flows.offer import Offer, make_offer
from control_plane.flows.order import buy, check_offer, cost_of, most_for_one, order
from control_plane.flows.publish import publish
from tests.fixtures_chain import BOTH, ONE, anvil, either_chain, simulated_chain
from tests.fixtures_publish import Stand, open_stand

__all__ = ["anvil"]

FEE = TokenWei(10**16)


@pytest.fixture(params=BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return open_stand(either_chain(request.param, request, tmp_path), tmp_path)


def offer_of(stand: Stand, rate: int = ONE, **changes: Any) -> Offer:
    listing = publish(stand.market, stand.chain.wallets["alice"], stand.request(rate=TokenWei(rate), **changes)).listing
    return make_offer(listing, stand.chain.wallets["operator"], FEE, 600, stand.chain.now)


def test_an_honest_offer_is_bought_and_ordered(stand: Stand) -> None:
    offer, bob = offer_of(stand), stand.chain.wallets["bob"]
    assert buy(stand.chain.ledger, bob, offer, "one").paid == ONE + 10**16 + 10**15
    sent = order(stand.chain.ledger, bob, offer, "one")
    facts = stand.chain.ledger.order_facts(sent.transaction, offer.datatoken)
    assert (facts.consumer, facts.provider_fee) == (bob.address, offer.provider_fee)


def test_an_order_may_be_for_somebody_else(stand: Stand) -> None:
    offer, bob, carol = offer_of(stand), stand.chain.wallets["bob"], stand.chain.wallets["carol"]
    buy(stand.chain.ledger, bob, offer, "one")
    sent = order(stand.chain.ledger, bob, offer, "one", consumer=carol.address)
    facts = stand.chain.ledger.order_facts(sent.transaction, offer.datatoken)
    assert (facts.consumer, facts.payer) == (carol.address, bob.address)


def test_another_key_buys_again(stand: Stand) -> None:
    offer, bob = offer_of(stand), stand.chain.wallets["bob"]
    first, second = (buy(stand.chain.ledger, bob, offer, key) for key in ("one", "two"))
    assert first.sent != second.sent
    assert stand.chain.ledger.balance(offer.datatoken, bob.address) == 2 * ONE


def test_the_same_key_of_two_buyers_are_two_purchases(stand: Stand) -> None:
    offer = offer_of(stand)
    bought = {buy(stand.chain.ledger, stand.chain.wallets[name], offer, "one").sent for name in ("bob", "carol")}
    assert len(bought) == 2


def test_a_newer_offer_with_the_same_key_finds_the_order_made_before(stand: Stand) -> None:
    offer, bob = offer_of(stand), stand.chain.wallets["bob"]
    buy(stand.chain.ledger, bob, offer, "one")
    sent = order(stand.chain.ledger, bob, offer, "one")
    fee = offer.provider_fee
    newer = sign_provider_fee(
        stand.chain.wallets["operator"], offer.datatoken, 0, fee.token, FEE, UnixSeconds(fee.valid_until + 60), lambda: 1.0
    )
    assert order(stand.chain.ledger, bob, replace(offer, provider_fee=newer), "one") == sent


def fee_in(stand: Stand, offer: Offer, token: Address, amount: int) -> Offer:
    """The same offer with another fee, honestly signed by the operator."""
    fee = offer.provider_fee
    signed = sign_provider_fee(
        stand.chain.wallets["operator"], offer.datatoken, 0, token, TokenWei(amount), fee.valid_until, lambda: 1.0
    )
    return replace(offer, provider_fee=signed)


LIES: dict[str, Any] = {
    "fee token": lambda offer, stand: fee_in(stand, offer, offer_of(stand, name="Another").datatoken, 777),
    "fee and base token": lambda offer, stand: replace(fee_in(stand, offer, offer.nft, 777), base_token=offer.nft),
    "free, in another token": lambda offer, stand: free_in_another_token(stand),
    "rate": lambda offer, _stand: replace(offer, rate=TokenWei(offer.rate + 1)),
    "publish fee": lambda offer, _stand: replace(offer, publish_fee=TokenWei(0)),
    "datatoken": lambda offer, stand: replace(offer, datatoken=offer_of(stand, name="Another").datatoken),
    "exchange": lambda offer, stand: replace(offer, exchange=offer_of(stand, name="Another").exchange),
    "no such exchange": lambda offer, _stand: replace(offer, exchange=Bytes32("0x" + "11" * 32)),
    "base token": lambda offer, _stand: replace(offer, base_token=offer.nft),
    "did": lambda offer, stand: replace(offer, did=offer_of(stand, name="Another").did),
    "chain": lambda offer, _stand: replace(offer, chain_id=1),
    "service": lambda offer, _stand: replace(offer, service_index=1),
    "fee": lambda offer, _stand: replace(offer, provider_fee=replace(offer.provider_fee, amount=TokenWei(1))),
    "fee of another": lambda offer, stand: replace(offer, provider_fee=offer_of(stand, name="Another").provider_fee),
    "free": lambda offer, _stand: replace(offer, exchange=None, rate=TokenWei(0)),
}


def free_in_another_token(stand: Stand) -> Offer:
    """No exchange and no publish fee name a token here: only the offer does."""
    stand.market = replace(stand.market, publish_fee=TokenWei(0))
    offer = offer_of(stand, rate=0, name="Free")
    return replace(fee_in(stand, offer, offer.nft, 777), base_token=offer.nft)


@pytest.mark.parametrize("lie", LIES)
def test_an_offer_that_differs_from_the_chain_is_not_paid(stand: Stand, lie: str) -> None:
    bob = stand.chain.wallets["bob"]
    false = LIES[lie](offer_of(stand), stand)
    before = stand.chain.ledger.balance(stand.chain.ocean, bob.address)
    for act in (buy, order):
        with pytest.raises(PosthumanError) as caught:
            act(stand.chain.ledger, bob, false, "one")
        assert caught.value.status < 500
    assert stand.chain.ledger.balance(stand.chain.ocean, bob.address) == before


def test_a_purchase_costs_no_more_than_the_buyer_says(stand: Stand) -> None:
    bob, offer = stand.chain.wallets["bob"], offer_of(stand)
    cost = cost_of(offer)
    assert cost == most_for_one(offer) + 5 * 10**16 + FEE
    before = stand.chain.ledger.balance(stand.chain.ocean, bob.address)
    greedy = fee_in(stand, offer, offer.base_token, 777 * ONE)
    for dear, most in ((greedy, cost), (offer, TokenWei(cost - 1))):
        for act in (buy, order):
            with pytest.raises(Refused, match=f"may cost {cost_of(dear)} wei, at most {most} are") as caught:
                act(stand.chain.ledger, bob, dear, "one", most=most)
            assert caught.value.code == "too_expensive"
    assert stand.chain.ledger.balance(stand.chain.ocean, bob.address) == before
    bought = buy(stand.chain.ledger, bob, offer, "one", most=cost)
    order(stand.chain.ledger, bob, offer, "one", most=cost, paid=bought.paid)
    assert before - stand.chain.ledger.balance(stand.chain.ocean, bob.address) <= cost


def test_what_the_datatoken_did_cost_counts_not_what_the_next_one_would(tmp_path: Path) -> None:
    stand = open_stand(simulated_chain()[1], tmp_path)
    offer, bob = offer_of(stand), stand.chain.wallets["bob"]
    bought = buy(stand.chain.ledger, bob, offer, "one")
    fees = offer.publish_fee + offer.provider_fee.amount
    with pytest.raises(Refused):
        order(stand.chain.ledger, bob, offer, "one", most=TokenWei(bought.paid + fees))
    order(stand.chain.ledger, bob, offer, "one", most=TokenWei(bought.paid + fees), paid=bought.paid)


def test_a_ledger_approves_no_fees_above_what_was_offered(stand: Stand) -> None:
    """The publish fee can rise between looking and ordering."""
    offer, bob = offer_of(stand), stand.chain.wallets["bob"]
    buy(stand.chain.ledger, bob, offer, "one")
    fees, ocean = TokenWei(offer.publish_fee + FEE), stand.chain.ocean
    before = stand.chain.ledger.balance(ocean, bob.address)
    arguments = (bob, "two", offer.datatoken, bob.address, 0)
    with pytest.raises(Refused, match=f"fees are {fees} wei, at most {fees - 1}"):
        stand.chain.ledger.start_order(*arguments, offer.provider_fee, TokenWei(fees - 1))
    other = fee_in(stand, offer, offer.nft, 1).provider_fee
    with pytest.raises(Refused, match=f"expected {offer.nft}"):
        stand.chain.ledger.start_order(*arguments, other, fees)
    assert stand.chain.ledger.balance(ocean, bob.address) == before


def test_an_asset_that_was_revoked_is_not_bought(tmp_path: Path) -> None:
    ledger, chain = simulated_chain()
    offer = offer_of(open_stand(chain, tmp_path))
    ledger.set_state(offer.nft, 3)
    with pytest.raises(Refused, match="state is 3"):
        check_offer(ledger, offer)
    ledger.set_state(offer.nft, 5)  # unlisted is still for use
    check_offer(ledger, offer)


@pytest.mark.parametrize(("rate", "swap_fee", "most"), [(ONE, 0, 1002 * 10**15), (ONE, 10**16, 1012 * 10**15), (1, 10**16, 2)])
def test_the_most_one_costs_is_the_rate_and_the_fees_rounded_up(tmp_path: Path, rate: int, swap_fee: int, most: int) -> None:
    offer = offer_of(open_stand(simulated_chain()[1], tmp_path))
    assert most_for_one(replace(offer, rate=TokenWei(rate), swap_fee=swap_fee)) == most
    assert most_for_one(replace(offer, exchange=None)) == 0


def test_an_offer_lasts_as_long_as_asked_and_no_longer_than_the_listing_allows(tmp_path: Path) -> None:
    stand = open_stand(simulated_chain()[1], tmp_path)
    listing = publish(stand.market, stand.chain.wallets["alice"], stand.request()).listing
    operator = stand.chain.wallets["operator"]
    for asked, given_s in ((60, 60), (3600, 3600), (10**9, 3600)):
        assert make_offer(listing, operator, FEE, asked, lambda: 1000.9).provider_fee.valid_until == 1000 + given_s
    with pytest.raises(BadInput, match="valid_for_s"):
        make_offer(listing, operator, FEE, 0, lambda: 1000.0)


def test_an_offer_goes_through_json_unchanged(tmp_path: Path) -> None:
    stand = open_stand(simulated_chain()[1], tmp_path)
    for offer in (offer_of(stand), offer_of(stand, rate=0, name="Free")):
        assert Offer.from_json(json.loads(json.dumps(offer.to_json()))) == offer
        assert offer.to_json()["rate"] == str(offer.rate)


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=8), st.just("²"), st.lists(st.integers(), max_size=1)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_an_offer_with_any_wrong_field_is_refused_or_unchanged(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    record = _a_record(tmp_path_factory)
    target = data.draw(st.sampled_from([record, record["provider_fee"]]))
    name = data.draw(st.sampled_from(sorted(target)))
    wrong = data.draw(WRONG)
    target[name] = wrong
    try:
        read = Offer.from_json(record)
    except BadInput:
        return
    assert read.to_json() == record


@pytest.mark.parametrize("record", [None, [], "offer", {}, {"did": 1}])
def test_what_is_no_offer_is_refused(record: object) -> None:
    with pytest.raises(BadInput):
        Offer.from_json(record)


_KEPT: list[str] = []


def _a_record(folders: pytest.TempPathFactory) -> dict[str, Any]:
    if not _KEPT:
        _KEPT.append(json.dumps(offer_of(open_stand(simulated_chain()[1], folders.mktemp("offer"))).to_json()))
    record: dict[str, Any] = json.loads(_KEPT[0])
    return record
