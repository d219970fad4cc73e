"""A job is paid for once and queued once, whatever breaks on the way; and nothing is paid for a job that cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from control_plane.did import Did, TokenWei
from control_plane.errors import BadInput, Forbidden, OutcomeUnknown, PosthumanError, Refused, Unavailable
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.job import Reason
from control_plane.jobs.states import State
from deploy import job_trading
from deploy.commands.job_buyer import duration, price_lines
from deploy.job_trading import Due, follow, order_job
from deploy.market import JobOffers, MarketRefused
from tests.fixtures_market import ONE
from tests.fixtures_stand import Stand, silent, stand

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
    monkeypatch.setattr(stand.buyers, "order_job", silent)
    with pytest.raises(Unavailable):
        stand.order()
    monkeypatch.undo()
    stand.order(order=first["payment"])
    waiting = stand.order()
    assert waiting["payment"] != first["payment"] and stand.orders() == 2


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


def test_a_market_that_stayssilent_is_told() -> None:
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
