"""A job's dataset is paid for with it, once; its order is judged before a model is paid for.

A job that has both its payments is asked for before an offer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from control_plane.chain.compute import compute_object
from control_plane.chain.fees import sign_fee
from control_plane.chain.ledger import Terms
from control_plane.did import Address, Did, TokenWei, UnixSeconds
from control_plane.errors import OutcomeUnknown, PosthumanError, Refused, Unavailable
from control_plane.flows import dataset_offer
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.states import Kind
from deploy.commands.job_buyer import price_lines
from deploy.market import MarketRefused
from tests.fixtures_jobs import offered, put
from tests.fixtures_market import ONE
from tests.fixtures_stand import Stand, silent, stand
from tests.ocean_assets import document_of, publish

__all__ = ["stand"]


class Words:
    """A text dataset of Alice's, sold for one OCEAN; its files are counted when they are looked at."""

    def __init__(self, stand: Stand, monkeypatch: pytest.MonkeyPatch, rate: int = ONE) -> None:
        market = stand.market
        self.stand, self.looked = stand, 0
        self.asset = publish(market, rate=rate)
        put(market, self.asset.did, self.asset.nft, self.asset.document)
        monkeypatch.setattr(market.services.provider.files, "open", self._open)
        self.wanted = {"parameters": {"steps": 20, "dataset": self.asset.did}}
        self.cost = ONE + ONE // 1000

    def _open(self, _file: Any) -> Any:
        self.looked += 1
        return SimpleNamespace(close=lambda: None)

    def trust(self, *kinds: Kind) -> None:
        """Alice sells computing on it, for these algorithms alone."""
        algorithms = [self.stand.market.services.algorithms[kind] for kind in kinds]
        service = {**self.asset.document["services"][0], "id": "compute", "type": "compute", "compute": compute_object(algorithms)}
        put(self.stand.market, self.asset.did, self.asset.nft, {**self.asset.document, "services": [service]})


@pytest.fixture
def words(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Words:
    return Words(stand, monkeypatch)


def test_a_dataset_is_paid_for_with_the_job_and_used_again_while_its_order_is_good(stand: Stand, words: Words) -> None:
    first = stand.order(**words.wanted)
    (due,) = stand.told
    shown = "one datatoken of the dataset: at most 1.003 OCEAN, the exchange's fees inside"
    assert due.dataset is not None and shown in price_lines(due, stand.wanted)
    assert (stand.orders(), stand.paid()) == (2, 2 * words.cost + 10**17) and due.cost >= stand.paid()
    assert first["dataset_did"] == words.asset.did
    second = stand.order(**words.wanted)
    assert second["dataset_order"] == first["dataset_order"] and stand.orders() == 3
    stand.market.clock.now += 3601  # the orders of a dataset last an hour
    stand.market.ledger.advance_time(3601)
    third = stand.order(**words.wanted)
    assert third["dataset_order"] != first["dataset_order"] and stand.orders() == 5


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("method", ["buy_datatoken", "start_order"])
def test_a_payment_for_a_dataset_that_broke_off_is_gone_on_with(
    stand: Stand, words: Words, method: str, number: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """number: of the two payments of a job, which one breaks."""
    ledger, calls = stand.market.ledger, []
    act = getattr(ledger, method)

    def breaking(*arguments: Any) -> Any:
        calls.append(method)
        if len(calls) == number:
            ledger.fail_next(method, when)
        return act(*arguments)

    monkeypatch.setattr(ledger, method, breaking)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        stand.order(**words.wanted)
    job = stand.order(**words.wanted)
    assert [each["job_id"] for each in stand.jobs()] == [job["job_id"]]
    assert (stand.orders(), stand.paid()) == (2, 2 * words.cost + 10**17)


def test_an_order_of_a_dataset_that_is_not_final_is_waited_for_and_not_paid_twice(stand: Stand, words: Words) -> None:
    stand.order(**words.wanted)
    network = replace(stand.market.services.network, confirmations=10**6)
    object.__setattr__(stand.market.services, "network", network)  # the services' record is frozen
    with pytest.raises(MarketRefused) as caught:
        stand.order(**words.wanted)
    assert (caught.value.code, caught.value.retry_after_s, stand.orders()) == ("order_not_final", 2, 2)


def test_nothing_is_paid_for_a_dataset_that_is_not_for_this_job(stand: Stand, words: Words) -> None:
    cases = [(Did("did:op:" + "b" * 64), "dataset_unknown"), (stand.market.gpt.did, "is_a_model")]
    words.trust(Kind.EVALUATE)
    cases.append((words.asset.did, "algorithm_not_trusted"))
    for did, code in cases:
        with pytest.raises(MarketRefused) as caught:
            stand.order(parameters={"steps": 20, "dataset": did})
        assert caught.value.code == code
    words.trust(Kind.TRAIN)
    assert stand.paid() == 0
    assert stand.order(**words.wanted)["state"] == "queued"


def test_nothing_is_paid_for_a_dataset_that_nobody_sells_or_that_is_too_dear(
    stand: Stand, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Refused) as dear:
        stand.order(most=TokenWei(2 * ONE), **words.wanted)
    assert (dear.value.code, stand.paid()) == ("too_expensive", 0)
    facts = stand.market.ledger.datatoken_facts(words.asset.nft, words.asset.datatoken)
    assert facts is not None
    unsold = replace(facts, price=None, exchange=None)
    with monkeypatch.context() as only:
        only.setattr(stand.market.ledger, "datatoken_facts", lambda _nft, _datatoken: unsold)
        with pytest.raises(MarketRefused) as nobody:
            stand.order(**words.wanted)
    assert (nobody.value.code, stand.paid()) == ("not_for_sale", 0)
    assert stand.order(most=TokenWei(3 * ONE), **words.wanted)["state"] == "queued"


def test_no_other_datatoken_of_a_dataset_is_read_however_many_there_are(
    stand: Stand, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks for a price is a stranger, and the owner of an NFT may make datatokens without end."""
    ledger = stand.market.ledger
    terms = Terms(TokenWei(0), ledger.network.ocean, TokenWei(0), stand.bob.address)
    others = [ledger.add_datatoken(words.asset.nft, terms) for _ in range(3)]
    read: list[str] = []
    told = ledger._told

    def counted(address: Address, found: Any) -> Any:
        read.append(address)
        return told(address, found)

    monkeypatch.setattr(ledger, "_told", counted)
    assert stand.order(**words.wanted)["state"] == "queued"
    assert set(read) == {words.asset.datatoken} and not set(read) & set(others)


def of_access_alone(stand: Stand, words: Words) -> None:
    """What was paid was the access; by now Alice sells computing."""
    shut = {**words.asset.document["services"][0], "id": "compute", "type": "compute"}
    shut["compute"] = compute_object([stand.market.services.algorithms[Kind.TRAIN]])
    put(
        stand.market,
        words.asset.did,
        words.asset.nft,
        {**words.asset.document, "services": [*words.asset.document["services"], shut]},
    )


def of_another_datatoken(stand: Stand, words: Words) -> None:
    ledger = stand.market.ledger
    terms = Terms(TokenWei(0), ledger.network.ocean, TokenWei(0), stand.bob.address)
    datatoken = ledger.add_datatoken(words.asset.nft, terms)
    document = document_of(stand.market, words.asset.nft, datatoken, "https://words.example/words.txt")
    put(stand.market, words.asset.did, words.asset.nft, document)


def of_another_market(stand: Stand, words: Words) -> None:
    ledger, clock = stand.market.ledger, stand.market.clock
    elsewhere, ends_at = stand.market.wallet("carol"), UnixSeconds(int(clock.now) + 600)
    fee = sign_fee(elsewhere, words.asset.datatoken, "0", ledger.network.ocean, TokenWei(0), ends_at, clock)
    ledger.buy_datatoken(stand.bob, "elsewhere", words.asset.datatoken, words.asset.exchange, TokenWei(5 * ONE))
    sent = ledger.start_order(stand.bob, "ordered elsewhere", words.asset.datatoken, stand.bob.address, 0, fee)
    _, paid = stand.files.dataset_payment(words.asset.did)
    assert paid is not None
    stand.files.dataset_ended(words.asset.did, paid)
    stand.files.dataset_payment(words.asset.did)
    stand.files.dataset_paid(words.asset.did, sent.transaction)


@pytest.mark.parametrize("change", [of_access_alone, of_another_datatoken, of_another_market])
def test_a_remembered_order_that_fits_no_more_does_not_stand_in_a_buyers_way(
    stand: Stand, words: Words, change: Callable[[Stand, Words], None]
) -> None:
    first = stand.order(**words.wanted)
    change(stand, words)
    _, remembered = stand.files.dataset_payment(words.asset.did)
    again = stand.order(**words.wanted)
    assert again["state"] == "queued" and again["dataset_order"] not in (remembered, first["dataset_order"])
    third = stand.order(**words.wanted)
    assert third["dataset_order"] == again["dataset_order"]


def test_an_order_of_a_dataset_that_does_not_fit_is_named_with_its_reason(stand: Stand, words: Words) -> None:
    order = stand.order(**words.wanted)["dataset_order"]
    assert offered(stand.market, "bob", parameters=words.wanted["parameters"]).get_json()["dataset_order_refused"] is None
    of_access_alone(stand, words)
    told = offered(stand.market, "bob", parameters=words.wanted["parameters"], dataset_order=order).get_json()
    assert told["dataset_offer"]["service_id"] == "compute"
    assert told["dataset_order_refused"] == "order: expected service 1, found 0"
    unknown = offered(stand.market, "bob", parameters=words.wanted["parameters"], dataset_order="0x" + "2" * 64)
    assert unknown.get_json()["error"]["code"] == "order_not_found"


@pytest.mark.parametrize("environment", [FREE, PAID])
def test_a_job_with_a_dataset_whose_answer_was_lost_is_found_and_not_refused_for_itself(
    stand: Stand, words: Words, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free environment takes one job of an owner: the one that is asked for again."""
    add = stand.market.services.jobs.add

    def lost(*arguments: Any) -> Any:
        add(*arguments)
        raise Unavailable("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(stand.market.services.jobs, "add", lost)
        with pytest.raises(PosthumanError):
            stand.order(environment=environment, **words.wanted)
    (queued,) = stand.jobs()
    assert stand.order(environment=environment, **words.wanted)["job_id"] == queued["job_id"]
    assert (len(stand.jobs()), stand.orders()) == (1, 2)


def test_a_dataset_order_that_ended_before_its_job_was_queued_is_replaced_and_the_model_is_not_paid_again(
    stand: Stand, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(stand.buyers, "order_job", silent)
        with pytest.raises(Unavailable):
            stand.order(environment=PAID, **words.wanted)
    order_facts, dataset = stand.market.ledger.order_facts, words.asset.datatoken

    def ended(transaction: Any, datatoken: Any) -> Any:
        facts = order_facts(transaction, datatoken)
        is_first = transaction == first and datatoken == dataset
        return replace(facts, ordered_at=UnixSeconds(facts.ordered_at - 3601)) if is_first else facts

    _, first = stand.files.dataset_payment(words.asset.did)
    monkeypatch.setattr(stand.market.ledger, "order_facts", ended)
    job = stand.order(**words.wanted)
    assert stand.orders() == 3 and job["dataset_order"] != first


def test_an_order_of_a_dataset_that_is_named_is_judged_before_the_model_is_paid(
    stand: Stand, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = stand.order(**words.wanted)["dataset_order"]
    before = stand.orders()

    def unsold(*_: Any) -> Any:
        raise Refused("its owner may give it", code="not_for_sale")

    with monkeypatch.context() as only:  # its owner hands it out himself: an order of his is as good as any
        only.setattr(dataset_offer, "_offer", unsold)
        price = words.cost + 10**17
        second = stand.order(most=TokenWei(price + price // 100), dataset_order=named, **words.wanted)
    assert (second["dataset_order"], stand.orders()) == (named, before + 1)
    assert stand.told[-1].dataset is None
    stand.market.clock.now += 3601
    stand.market.ledger.advance_time(3601)
    spent = stand.paid()
    with pytest.raises(Refused, match="that ended at") as over:
        stand.order(dataset_order=named, **words.wanted)
    assert over.value.code == "dataset_order_not_good"
    with pytest.raises((Refused, MarketRefused)):  # of another asset
        stand.order(dataset_order=second["payment"], **words.wanted)
    with pytest.raises(MarketRefused):  # and beside a job that reads no dataset
        stand.order(dataset_order=named)
    assert stand.paid() == spent
    assert stand.order(**words.wanted)["dataset_order"] != named
    lines = price_lines(stand.told[-1], stand.wanted)
    assert any(line.startswith("the dataset was paid for before, but not for this job: order: expected") for line in lines)
