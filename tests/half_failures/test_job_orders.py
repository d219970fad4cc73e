"""A job is paid for once and queued once, whatever breaks on the way; and nothing is paid for a job that cannot be."""

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
from control_plane.errors import BadInput, Forbidden, OutcomeUnknown, PosthumanError, Refused, Unavailable
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.job import Reason
from control_plane.jobs.states import Kind, State
from deploy import job_trading
from deploy.commands.job_buyer import duration, price_lines
from deploy.job_trading import Due, follow, order_job
from deploy.market import JobOffers, MarketRefused
from tests.fixtures_jobs import offered, put
from tests.fixtures_market import ONE
from tests.fixtures_stand import Stand, stand
from tests.ocean_assets import document_of, publish

__all__ = ["stand"]

WORKER = "e" * 32


def test_the_price_that_is_shown_is_what_is_paid_and_it_is_shown_first(stand: Stand) -> None:
    paid_when_told: list[int] = []

    def tell(due: Due) -> None:
        stand.told.append(due)
        paid_when_told.append(stand.paid())

    job = order_job(stand.buyers, stand.market.ledger, stand.bob, stand.files, stand.wanted, tell)
    (due,) = stand.told
    assert paid_when_told == [0]
    assert (job["state"], job["owner"]) == ("queued", stand.bob.address)
    assert due.model is not None and due.model.provider_fee.amount == 10**17 and due.dataset is None
    assert stand.paid() == ONE + ONE // 1000 + 10**17
    assert "600 s of computing in posthuman: 0.1 OCEAN" in price_lines(due, stand.wanted)


def test_asked_again_when_all_was_well_it_is_another_job(stand: Stand) -> None:
    first, second = stand.order(), stand.order()
    assert first["job_id"] != second["job_id"] and first["payment"] != second["payment"]
    assert {job["job_id"] for job in stand.jobs()} == {first["job_id"], second["job_id"]}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["buy_datatoken", "start_order"])
def test_a_payment_that_broke_off_is_gone_on_with(stand: Stand, method: str, when: str) -> None:
    stand.market.ledger.fail_next(method, when)
    with pytest.raises((Unavailable, OutcomeUnknown)):
        stand.order()
    job = stand.order()
    assert [each["job_id"] for each in stand.jobs()] == [job["job_id"]]
    assert (stand.orders(), stand.paid()) == (1, ONE + ONE // 1000 + 10**17)


@pytest.mark.parametrize("when", ["before", "after"])
def test_paid_and_not_queued_the_next_try_queues_it_and_pays_nothing(
    stand: Stand, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, broken = stand.market.services.jobs, [True]
    add = store.add

    def breaking(*arguments: Any) -> Any:
        if broken and when == "before":
            broken.clear()
            raise Unavailable("the database does not answer")
        job = add(*arguments)
        if broken:
            broken.clear()
            raise Unavailable("the database does not answer")
        return job

    monkeypatch.setattr(store, "add", breaking)
    with pytest.raises(PosthumanError):
        stand.order()
    spent = stand.paid()
    job = stand.order()
    assert stand.paid() == spent and stand.orders() == 1
    assert [each["job_id"] for each in stand.jobs()] == [job["job_id"]]


def test_a_payment_without_a_job_pays_for_the_same_time_with_other_parameters(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:

        def refuse(*_: Any) -> Any:
            raise Unavailable("the database does not answer")

        broken.setattr(stand.market.services.jobs, "add", refuse)
        with pytest.raises(PosthumanError):
            stand.order()
    with pytest.raises(MarketRefused):
        stand.order(parameters={"steps": 0})
    assert stand.order(parameters={"steps": 7})["parameters"]["steps"] == 7
    assert stand.orders() == 1


def test_a_payment_that_ended_unused_is_not_tried_for_ever(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:

        def refuse(*_: Any) -> Any:
            raise Unavailable("the database does not answer")

        broken.setattr(stand.market.services.jobs, "add", refuse)
        with pytest.raises(PosthumanError):
            stand.order()
    stand.market.clock.now += 601
    with pytest.raises(MarketRefused) as caught:
        stand.order()
    assert caught.value.code == "order_expired"
    assert stand.order()["state"] == "queued"
    assert stand.orders() == 2


def test_a_job_for_another_order_leaves_the_payment_that_waits(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stand.order()
    stand.market.services.jobs.request_stop(first["job_id"])  # in the queue: its payment is good for another job
    monkeypatch.setattr(stand.buyers, "order_job", _silent)
    with pytest.raises(Unavailable):
        stand.order()
    monkeypatch.undo()
    stand.order(order=first["payment"])
    waiting = stand.order()
    assert waiting["payment"] != first["payment"] and stand.orders() == 2


def _silent(*_arguments: Any) -> None:
    raise Unavailable("no answer")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"parameters": {"steps": 0}}, "bad_input"),
        ({"parameters": {"steps": 10**9}}, "bad_input"),
        ({"environment": "moon"}, "environment_unknown"),
        ({"environment": FREE, "duration_s": 10**6}, "bad_input"),
        ({"did": Did("did:op:" + "0" * 64)}, "model_unknown"),
    ],
    ids=str,
)
def test_nothing_is_paid_for_what_is_refused(stand: Stand, changes: dict[str, Any], code: str) -> None:
    with pytest.raises(MarketRefused) as caught:
        stand.order(**changes)
    assert caught.value.code == code
    assert (stand.paid(), stand.told) == (0, [])


def test_nothing_is_paid_above_the_most(stand: Stand) -> None:
    with pytest.raises(Refused) as caught:
        stand.order(most=TokenWei(ONE))
    assert (caught.value.code, stand.paid()) == ("too_expensive", 0)


def test_an_offer_for_other_time_than_was_asked_is_not_paid(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    other = stand.buyers.job_offer(stand.wanted.did, stand.bob.address, "train", {"steps": 20}, PAID, 60)
    monkeypatch.setattr(stand.buyers, "job_offer", lambda *_: other)
    with pytest.raises(Refused) as caught:
        stand.order()
    assert (caught.value.code, stand.paid()) == ("offer_differs", 0)


def test_an_order_whose_job_failed_starts_another_without_a_payment(stand: Stand) -> None:
    job = stand.order()
    store = stand.market.services.jobs
    assert store.claim(WORKER) is not None
    store.advance(job["job_id"], State.PROVISIONING, State.FAILED, worker=WORKER, reason=Reason("internal", "as it happens"))
    spent = stand.paid()
    again = stand.order(order=job["payment"], parameters={"steps": 3})
    assert (again["payment"], stand.paid()) == (job["payment"], spent)


def test_a_job_is_followed_to_its_end_through_a_silence(stand: Stand) -> None:
    states = iter(["queued", Unavailable("silent"), "running", "finished", "never"])

    def look() -> dict[str, Any]:
        state = next(states)
        if isinstance(state, Unavailable):
            raise state
        return {"state": state}

    assert [each["state"] for each in follow(look, sleep=lambda _: None)] == ["queued", "running", "finished"]


def test_a_market_that_stays_silent_is_told() -> None:
    now = iter(range(0, 10_000, 50))

    def look() -> dict[str, Any]:
        raise Unavailable("silent")

    with pytest.raises(Unavailable):
        list(follow(look, sleep=lambda _: None, clock=lambda: float(next(now))))


def test_a_wallet_without_an_order_of_jobs_is_told_what_to_do(stand: Stand) -> None:
    with pytest.raises(Forbidden, match="posthuman train"):
        stand.jobs()


def test_the_usual_time_is_an_hour_or_what_the_environment_gives(stand: Stand) -> None:
    offered = stand.buyers.environments()
    assert (duration(offered, PAID, None), duration(offered, FREE, None), duration(offered, PAID, 5)) == (3600, 600, 300)
    with pytest.raises(BadInput, match="posthuman-free"):
        duration(offered, "moon", None)


def test_a_model_whose_document_was_not_read_yet_is_waited_for(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    job_offer, refusals = stand.buyers.job_offer, [MarketRefused(503, "not_indexed", "not read yet", {}, 3)] * 2

    def asked(*wanted: Any) -> JobOffers:
        if refusals:
            raise refusals.pop()
        return job_offer(*wanted)

    waits: list[float] = []
    monkeypatch.setattr(stand.buyers, "job_offer", asked)
    found = job_trading._offered(stand.buyers, stand.bob, stand.wanted, sleep=waits.append)
    assert (found.model.did, waits) == (stand.wanted.did, [3, 3])


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
