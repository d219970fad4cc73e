"""Buying, ordering and anchoring, broken once at each outside write, before and after it was done; then healed and repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from control_plane.chain.ledger import LOG_LABEL, Ledger, data_key
from control_plane.did import Address, Did, TokenWei
from control_plane.errors import OutcomeUnknown, Unavailable
from control_plane.flows.offer import Offer, make_offer
from control_plane.flows.order import buy, order
from control_plane.flows.publish import publish
from control_plane.serving.listing import Listing
from deploy.buyer import BuyerFiles
from deploy.trading import Bought
from deploy.trading import buy as buy_command
from tests.check_market import Seen, check_market
from tests.fixtures_chain import BOTH, ONE, Chain, anvil, either_chain, real_chain, simulated_chain
from tests.fixtures_publish import Breaking, Stand, open_stand
from tests.simulators.rpc_proxy import running_proxy

__all__ = ["anvil"]

PUBLISH_FEE, PROVIDER_FEE = 5 * 10**16, 10**16
PRICE = ONE + 10**16 + 10**15


@pytest.fixture(params=BOTH)
def stand(request: pytest.FixtureRequest, tmp_path: Path) -> Stand:
    return open_stand(either_chain(request.param, request, tmp_path), tmp_path)


def offer_of(stand: Stand, rate: int = ONE) -> Offer:
    published = publish(stand.market, stand.chain.wallets["alice"], stand.request(rate=TokenWei(rate)))
    return make_offer(published.listing, stand.chain.wallets["operator"], TokenWei(PROVIDER_FEE), 3600, stand.chain.now)


class Balances:
    """What each side has, as the chain says; `check` after one purchase and one order at full price."""

    def __init__(self, chain: Chain, offer: Offer) -> None:
        self._chain, self._offer = chain, offer
        self._before = self._read()

    def _read(self) -> tuple[int, int, int]:
        ledger, wallets = self._chain.ledger, self._chain.wallets
        return (
            ledger.balance(self._chain.ocean, wallets["bob"].address),
            ledger.balance(self._chain.ocean, wallets["operator"].address),
            ledger.balance(self._offer.datatoken, wallets["alice"].address),
        )

    def check(self, price: int) -> None:
        bob, operator, datatokens = (now - then for now, then in zip(self._read(), self._before, strict=True))
        assert bob == -(price + PUBLISH_FEE + PROVIDER_FEE)
        assert operator == PUBLISH_FEE + PROVIDER_FEE
        assert datatokens == ONE * 97 // 100
        assert self._chain.ledger.balance(self._offer.datatoken, self._chain.wallets["bob"].address) == 0


def until_done(act: Callable[[], object], times: int = 3) -> object:
    """Repeat as a person would, until it is done."""
    for _ in range(times):
        try:
            return act()
        except (Unavailable, OutcomeUnknown):
            continue
    return act()


@pytest.mark.parametrize("rate", [ONE, 0], ids=["sold", "free"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["buy_datatoken", "start_order"])
def test_an_order_interrupted_at_a_write_and_repeated_is_paid_once(stand: Stand, method: str, when: str, rate: int) -> None:
    offer = offer_of(stand, rate)
    bob, ledger, balances = stand.chain.wallets["bob"], Breaking(stand.chain.ledger), Balances(stand.chain, offer)
    ledger.break_call(method, when)

    def act() -> object:
        buy(ledger, bob, offer, "first")
        return order(ledger, bob, offer, "first")

    with pytest.raises((Unavailable, OutcomeUnknown), match=f"broken {when}"):
        act()
    sent = act()
    assert act() == sent
    balances.check(PRICE if rate else 0)
    check_market(
        stand.chain.ledger,
        Seen(stand.catalogue.listings(), stand.market.log_nft, orders=[(sent.transaction, offer.did)]),  # type: ignore[attr-defined]
    )


class OfferingMarket:
    """The one page of a market that a purchase needs; each offer is newer than the one before, as on a real one."""

    def __init__(self, stand: Stand, listing: Listing) -> None:
        self._stand, self._listing = stand, listing

    def offer(self, did: Did, consumer: Address, valid_for_s: int | None) -> Offer:
        assert did == self._listing.did
        self._stand.chain.advance_blocks(1)
        fee = TokenWei(PROVIDER_FEE)
        return make_offer(self._listing, self._stand.chain.wallets["operator"], fee, valid_for_s or 3600, self._stand.chain.now)


@pytest.mark.parametrize(
    ("part", "method", "when"),
    [
        ("files", "purchase_key", "after"),
        ("ledger", "buy_datatoken", "before"),
        ("ledger", "buy_datatoken", "after"),
        ("ledger", "start_order", "before"),
        ("ledger", "start_order", "after"),
        ("ledger", "order_facts", "before"),
        ("files", "purchased", "before"),
    ],
)
def test_a_buy_command_that_ended_anywhere_is_run_again_and_orders_once(
    stand: Stand, tmp_path: Path, part: str, method: str, when: str
) -> None:
    """Also when the order was mined and only the buyer's own file does not know it yet."""
    published = publish(stand.market, stand.chain.wallets["alice"], stand.request())
    bob, market, did = stand.chain.wallets["bob"], OfferingMarket(stand, published.listing), published.listing.did
    balances = Balances(stand.chain, market.offer(did, bob.address, None))
    files, ledger = Breaking(BuyerFiles(tmp_path, bob.address)), Breaking(stand.chain.ledger)
    {"files": files, "ledger": ledger}[part].break_call(method, when)

    def run() -> Bought:
        return buy_command(market, ledger, bob, files, did)  # type: ignore[arg-type]  # calls pass through

    with pytest.raises((Unavailable, OutcomeUnknown), match=f"broken {when}"):
        run()
    bought = run()
    balances.check(PRICE)
    assert files.latest_order(did) == bought.sent.transaction
    assert bought.facts.consumer == bob.address
    check_market(
        stand.chain.ledger, Seen(stand.catalogue.listings(), stand.market.log_nft, orders=[(bought.sent.transaction, did)])
    )
    assert run().sent.transaction != bought.sent.transaction, "the next purchase is another one"


APPROVE_AND_BUY = ["approve", "buyDT"]
APPROVE_AND_ORDER = ["approve", "startOrder"]


@pytest.mark.live
@pytest.mark.parametrize("what", ["request", "answer"])
@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=[f"{n} {w}" for n, w in enumerate(APPROVE_AND_BUY + APPROVE_AND_ORDER, 1)])
def test_a_node_that_loses_a_buyers_transaction_is_paid_once(anvil: str, tmp_path: Path, number: int, what: str) -> None:
    with running_proxy(anvil) as proxy:
        stand = open_stand(real_chain(proxy.url, tmp_path / "outbox"), tmp_path)
        offer = offer_of(stand)
        bob, balances, before = stand.chain.wallets["bob"], Balances(stand.chain, offer), len(proxy.sent)
        proxy.lose("eth_sendRawTransaction", what, number)
        lost = []

        def act() -> object:
            try:
                buy(stand.chain.ledger, bob, offer, "first")
                return order(stand.chain.ledger, bob, offer, "first")
            except OutcomeUnknown as error:
                lost.append(error)
                raise

        until_done(act)
        assert len(lost) == 1
        balances.check(PRICE)
        assert len(set(proxy.sent[before:])) == 4


def anchored(ledger: Ledger, chain: Chain, stand: Stand, name: str, size: int) -> object:
    value = size.to_bytes(8, "big") + bytes(32)
    return ledger.record_data(chain.wallets["operator"], name, stand.market.log_nft, data_key(LOG_LABEL), value)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_anchor_interrupted_and_repeated_is_written_once(stand: Stand, when: str) -> None:
    ledger = Breaking(stand.chain.ledger)
    ledger.break_call("record_data", when)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        anchored(ledger, stand.chain, stand, "anchor 7", 7)
    anchored(stand.chain.ledger, stand.chain, stand, "anchor 7", 7)
    anchored(stand.chain.ledger, stand.chain, stand, "anchor 7", 7)
    assert len(stand.chain.ledger.data_history(stand.market.log_nft, data_key(LOG_LABEL))) == 1
    check_market(stand.chain.ledger, Seen((), stand.market.log_nft))


@pytest.mark.live
@pytest.mark.parametrize("what", ["request", "answer"])
def test_a_node_that_loses_an_anchor_has_it_once(anvil: str, tmp_path: Path, what: str) -> None:
    with running_proxy(anvil) as proxy:
        stand = open_stand(real_chain(proxy.url, tmp_path / "outbox"), tmp_path)
        proxy.lose("eth_sendRawTransaction", what)
        with pytest.raises(OutcomeUnknown):
            anchored(stand.chain.ledger, stand.chain, stand, "anchor 7", 7)
        anchored(stand.chain.ledger, stand.chain, stand, "anchor 7", 7)
        assert len(stand.chain.ledger.data_history(stand.market.log_nft, data_key(LOG_LABEL))) == 1


def test_the_simulator_can_break_too() -> None:
    ledger, chain = simulated_chain()
    ledger.fail_next("create_log_nft", "after")
    with pytest.raises(OutcomeUnknown):
        ledger.create_log_nft(chain.wallets["operator"], "log", "log", "LOG")
    assert ledger.is_begun("log")
    ledger.fail_next("create_log_nft", "before")
    with pytest.raises(Unavailable):
        ledger.create_log_nft(chain.wallets["operator"], "log", "log", "LOG")
    assert ledger.writes == [("create_log_nft", "log")]
