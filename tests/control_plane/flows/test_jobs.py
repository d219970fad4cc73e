"""A job is ordered with a payment, followed and stopped by its owner, and its payment is worth one job that did not fail."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from control_plane.chain.fees import compute_time, sign_provider_fee
from control_plane.did import Address, Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import BadInput, Conflict, Forbidden, IntegrityBroken, NotFound, PosthumanError, TooMany, Unavailable
from control_plane.flows.jobs import JobOrder, job_of, order_job, stop_job
from control_plane.jobs.access import Paid
from control_plane.jobs.environments import FREE, PAID, find
from control_plane.jobs.job import Job, Reason
from control_plane.jobs.states import Kind, State
from control_plane.jobs.store import JobStore
from control_plane.postgresql import CONNECTIONS
from control_plane.serving.listing import Listing
from tests.fixtures_jobs import index
from tests.fixtures_market import CONTEXT_LENGTH, ONE, Market, market, open_market

__all__ = ["market"]

ALGORITHM = Did("did:op:" + "a" * 64)
COMPUTE = 1
WORKER = "e" * 32


def pay(market: Market, name: str, listing: Listing, minutes: int = 10, environment: str = PAID) -> TransactionHash:
    """An order of the model's service for computing, whose fee pays for these minutes."""
    services, wallet = market.services, market.wallet(name)
    fee = sign_provider_fee(
        services.operator,
        listing.datatoken,
        COMPUTE,
        services.network.ocean,
        find(services.environments, environment).fee(minutes * 60),
        UnixSeconds(int(market.clock.now) + minutes * 60),
        market.clock,
        environment,
    )
    market.ledger.mint(services.network.ocean, wallet.address, 10 * ONE)
    key = f"{name} computes {len(market.ledger.writes)}"
    market.ledger.buy_datatoken(wallet, f"{key} buy", listing.datatoken, listing.exchange, TokenWei(5 * ONE))
    sent = market.ledger.start_order(wallet, f"{key} order", listing.datatoken, wallet.address, COMPUTE, fee)
    return sent.transaction


def asking(market: Market, name: str, payment: TransactionHash, listing: Listing | None = None, **changes: Any) -> JobOrder:
    listing = listing or market.gpt
    service = replace(listing, service_index=COMPUTE)
    asked = JobOrder(
        kind=Kind.TRAIN,
        owner=market.wallet(name).address,
        listing=listing,
        model=Paid.by_order(service, market.ledger.order_facts(payment, listing.datatoken)),
        algorithm=ALGORITHM,
        trusted=frozenset({ALGORITHM}),
        environment=PAID,
        parameters={"steps": 20},
    )
    return replace(asked, **changes)


def order(market: Market, name: str = "bob", **changes: Any) -> Job:
    return order_job(market.services, asking(market, name, pay(market, name, market.gpt), **changes))


def fail(market: Market, job: Job, code: str = "worker_lost") -> Job:
    store = market.services.jobs
    claimed = store.claim(WORKER)
    assert claimed is not None and claimed.job_id == job.job_id
    return store.advance(job.job_id, State.PROVISIONING, State.FAILED, worker=WORKER, reason=Reason(code, "as it happens"))


def test_a_paid_order_becomes_a_job_with_the_time_that_was_paid(market: Market) -> None:
    payment = pay(market, "bob", market.gpt, minutes=10)
    job = order_job(market.services, asking(market, "bob", payment))
    assert (job.state, job.payment, job.paid_s, job.environment) == (State.QUEUED, payment, 600, PAID)
    assert (job.did, job.model_digest) == (market.gpt.did, market.gpt.model_digest)
    assert job.valid_until == int(market.clock.now) + 600
    assert '"steps":20' in job.parameters
    assert f'"sequence_length":{CONTEXT_LENGTH}' in job.parameters


@pytest.mark.parametrize("name", ["bob", "carol"])
def test_one_payment_starts_one_job_whoever_asks(market: Market, name: str) -> None:
    payment = pay(market, "bob", market.gpt)
    first = order_job(market.services, asking(market, "bob", payment))
    with pytest.raises((Conflict, Forbidden)) as caught:
        order_job(market.services, asking(market, name, payment, parameters={"steps": 21}))
    assert caught.value.code == ("payment_used" if name == "bob" else "order_not_yours")
    assert market.services.jobs.of_payment(payment) == (first,)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_order_whose_answer_was_lost_is_sent_again_and_makes_one_job(
    market: Market, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    payment = pay(market, "bob", market.gpt)
    whole = JobStore.add

    def broken(*given: Any) -> Any:
        monkeypatch.undo()
        if when == "after":
            whole(*given)
        raise Unavailable("the database does not answer")

    monkeypatch.setattr(JobStore, "add", broken)
    with pytest.raises(Unavailable):
        order_job(market.services, asking(market, "bob", payment))
    job = order_job(market.services, asking(market, "bob", payment))
    assert order_job(market.services, asking(market, "bob", payment)) == job
    assert market.services.jobs.of_payment(payment) == (job,)


def test_a_failed_jobs_payment_starts_one_more_also_when_its_order_has_ended(market: Market) -> None:
    payment = pay(market, "bob", market.gpt)
    failed = fail(market, order_job(market.services, asking(market, "bob", payment)))
    assert not failed.holds_payment
    market.clock.now += 3600
    other = pay(market, "bob", market.gpt)
    market.clock.now += 3600
    with pytest.raises(Forbidden) as caught:
        order_job(market.services, asking(market, "bob", other))
    assert caught.value.code == "order_expired"
    again = order_job(market.services, asking(market, "bob", payment))
    assert (again.paid_s, again.state) == (failed.paid_s, State.QUEUED)
    with pytest.raises(Conflict):
        order_job(market.services, asking(market, "bob", payment, parameters={}))
    assert [job.state for job in market.services.jobs.of_payment(payment)] == [State.FAILED, State.QUEUED]


def test_parameters_that_keep_failing_wear_a_payment_out(market: Market) -> None:
    payment = pay(market, "bob", market.gpt)
    for _ in range(3):
        fail(market, order_job(market.services, asking(market, "bob", payment)), "loss_not_finite")
    with pytest.raises(Forbidden) as caught:
        order_job(market.services, asking(market, "bob", payment))
    assert caught.value.code == "payment_used_up"


def test_an_order_of_calls_computes_nothing_and_an_order_of_computing_calls_nothing(market: Market) -> None:
    calls = market.order("bob", market.gpt)
    with pytest.raises(Forbidden) as caught:
        order_job(market.services, asking(market, "bob", calls))
    assert caught.value.code == "order_wrong_service"
    index(market, market.gpt, sells_jobs=False)
    text = market.message("bob", market.gpt.did, pay(market, "bob", market.gpt))
    assert market.hand_in(text, market.sign("bob", text)).get_json()["error"]["code"] == "order_wrong_service"


def test_free_time_is_not_paid_time_and_one_owner_has_one_free_job(market: Market) -> None:
    first, second = (pay(market, "bob", market.gpt, environment=FREE) for _ in range(2))
    with pytest.raises(Forbidden) as caught:
        order_job(market.services, asking(market, "bob", first))
    assert caught.value.code == "environment_not_paid"
    order_job(market.services, asking(market, "bob", first, environment=FREE))
    with pytest.raises(TooMany):
        order_job(market.services, asking(market, "bob", second, environment=FREE))
    assert market.services.jobs.of_payment(second) == ()
    stop_job(market.services.jobs, market.services.jobs.of_payment(first)[0].job_id, market.wallet("bob").address)
    assert order_job(market.services, asking(market, "bob", second, environment=FREE)).state is State.QUEUED


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"parameters": {"steps": 10**9}}, BadInput, "steps"),
        ({"parameters": {"sequence_length": CONTEXT_LENGTH + 1}}, BadInput, "sequence_length"),
        ({"parameters": None}, BadInput, "parameters"),
        ({"parameters": {"dataset": "did:op:" + "b" * 64}}, Forbidden, "dataset_not_ordered"),
        ({"kind": Kind.INFER, "parameters": {"prompts": ["word " * 200]}}, BadInput, "prompts"),
        ({"kind": Kind.EVALUATE, "parameters": {"texts": ["x" * 10_000_000]}}, BadInput, "texts"),
        ({"environment": "gpu"}, NotFound, "environment_unknown"),
        ({"environment": None}, NotFound, "environment_unknown"),
        ({"trusted": frozenset()}, Forbidden, "algorithm_not_trusted"),
    ],
)
def test_what_is_refused_costs_nothing(market: Market, changes: dict[str, Any], error: type[PosthumanError], named: str) -> None:
    payment = pay(market, "bob", market.gpt)
    with pytest.raises(error) as caught:
        order_job(market.services, asking(market, "bob", payment, **changes))
    assert named in (caught.value.code, getattr(caught.value, "field", None))
    assert market.services.jobs.of_payment(payment) == ()
    assert order_job(market.services, asking(market, "bob", payment)).state is State.QUEUED


def test_a_precision_that_deepspeed_was_not_tried_with_is_refused_and_costs_nothing(market: Market) -> None:
    payment, settings = pay(market, "bob", market.gpt), market.services.settings
    shared = replace(settings, jobs=replace(settings.jobs, workers=2, sharding="deepspeed-zero2"))
    with pytest.raises(BadInput, match="'fp32' or 'bf16'"):
        order_job(replace(market.services, settings=shared), asking(market, "bob", payment, parameters={"precision": "fp16"}))
    assert market.services.jobs.of_payment(payment) == ()
    assert order_job(market.services, asking(market, "bob", payment, parameters={"precision": "fp16"})).state is State.QUEUED


def test_a_model_of_another_task_or_one_that_is_withdrawn_has_no_jobs(market: Market) -> None:
    payment = pay(market, "bob", market.embedder)
    with pytest.raises(BadInput) as caught:
        order_job(market.services, asking(market, "bob", payment, market.embedder))
    assert caught.value.code == "wrong_task"
    payment = pay(market, "bob", market.gpt)
    market.services.catalogue.withdraw(market.gpt.did, "its owner revoked it")
    with pytest.raises(IntegrityBroken):
        order_job(market.services, asking(market, "bob", payment, market.services.catalogue.find(market.gpt.did)))
    assert market.services.jobs.of_payment(payment) == ()


def test_a_job_is_shown_to_its_owner_alone(market: Market) -> None:
    job, jobs = order(market), market.services.jobs
    assert job_of(jobs, job.job_id, market.wallet("bob").address) == job
    refusals = []
    for job_id, name in ((job.job_id, "carol"), ("0" * 32, "carol")):
        for act in (job_of, stop_job):
            with pytest.raises(NotFound) as caught:
                act(jobs, job_id, market.wallet(name).address)
            refusals.append((caught.value.code, caught.value.message.replace(job_id, "ID")))
    assert len(set(refusals)) == 1
    assert jobs.get(job.job_id) == job


def test_an_owner_stops_a_job_in_the_queue_and_has_the_payment_back(market: Market) -> None:
    payment = pay(market, "bob", market.gpt)
    job = order_job(market.services, asking(market, "bob", payment))
    stopped = stop_job(market.services.jobs, job.job_id, market.wallet("bob").address)
    assert (stopped.state, stopped.holds_payment) == (State.STOPPED, False)
    assert order_job(market.services, asking(market, "bob", payment)).state is State.QUEUED


def test_a_fee_says_which_time_it_pays_for(market: Market) -> None:
    facts = market.ledger.order_facts(pay(market, "bob", market.gpt, minutes=7), market.gpt.datatoken)
    assert facts.provider_fee is not None
    time = compute_time(facts.provider_fee)
    assert time is not None
    assert (time.environment, time.seconds) == (PAID, 420)
    calls = market.ledger.order_facts(market.order("bob", market.gpt), market.gpt.datatoken)
    assert calls.provider_fee is not None
    assert compute_time(calls.provider_fee) is None


def bound(market: Market, derived: int, of_owner: int) -> None:
    """As many derived models may be on sale from now on."""
    settings = market.services.settings
    jobs = replace(settings.jobs, derived=derived, derived_of_owner=of_owner)
    market.services = replace(market.services, settings=replace(settings, jobs=jobs))


def derived_by(market: Market, name: str, number: int) -> Listing:
    """A derived model on sale."""
    did, owner = Did(f"did:op:{number:064x}"), market.wallet(name).address
    listing = replace(market.gpt, did=did, nft=Address(f"0x{number:040x}"), publisher=owner, statement="{}")
    market.services.catalogue.put_on_sale(listing)
    return listing


def test_an_owner_has_no_more_derived_models_than_one_may_have_those_that_are_trained_among_them(market: Market) -> None:
    bound(market, derived=10, of_owner=2)
    sold = derived_by(market, "bob", 1)
    training = order(market)
    payment = pay(market, "bob", market.gpt)
    with pytest.raises(Conflict) as caught:
        order_job(market.services, asking(market, "bob", payment))
    assert caught.value.code == "too_many_derived"
    assert order(market, "carol").state is State.QUEUED
    assert order(market, kind=Kind.EVALUATE, parameters={"texts": ["a whale"]}).state is State.QUEUED
    stop_job(market.services.jobs, training.job_id, market.wallet("bob").address)
    job = order_job(market.services, asking(market, "bob", payment))  # the payment stayed good
    stop_job(market.services.jobs, job.job_id, market.wallet("bob").address)
    derived_by(market, "bob", 2)
    with pytest.raises(Conflict):
        order(market)
    market.services.catalogue.withdraw(sold.did, "revoked")
    assert order(market).state is State.QUEUED


def test_free_trainings_leave_half_of_the_places_to_those_who_pay(market: Market) -> None:
    bound(market, derived=4, of_owner=4)
    for number, name in enumerate(("alice", "carol"), 1):
        derived_by(market, name, number)
    with pytest.raises(Conflict) as caught:
        order_job(market.services, asking(market, "bob", pay(market, "bob", market.gpt, environment=FREE), environment=FREE))
    assert caught.value.code == "too_many_derived"
    for _ in range(2):
        assert order(market).state is State.QUEUED
    with pytest.raises(Conflict):
        order(market, "carol")


def test_jobs_asked_for_at_once_hold_one_connection_each_and_trainings_pass_no_bound(database_url: str, tmp_path: Path) -> None:
    market = open_market(tmp_path / "home", POSTHUMAN_DATABASE_URL=database_url)
    bound(market, derived=4, of_owner=4)
    roomy = tuple(replace(each, max_jobs=99, max_jobs_of_an_owner=99) for each in market.services.environments)
    services = market.services = replace(market.services, environments=roomy)
    evaluating = {"kind": Kind.EVALUATE, "parameters": {"texts": ["a whale"], "publish": True}}
    wanted: list[dict[str, Any]] = [{}, {"environment": FREE}, evaluating] * (CONNECTIONS // 2)  # more than there are connections
    payments = [pay(market, "bob", market.gpt, environment=changes.get("environment", PAID)) for changes in wanted]
    asked = [asking(market, "bob", payment, **changes) for payment, changes in zip(payments, wanted, strict=True)]
    together, held, most = threading.Barrier(len(asked)), Counter[int](), Counter[int]()

    def taken(*_: Any) -> None:
        held[threading.get_ident()] += 1
        most[threading.get_ident()] = max(most[threading.get_ident()], held[threading.get_ident()])

    def given_back(*_: Any) -> None:
        held[threading.get_ident()] -= 1

    def one(each: JobOrder) -> str:
        together.wait(10)
        try:
            return order_job(services, each).state.value
        except PosthumanError as error:
            return error.code

    event.listen(market.engine, "checkout", taken)
    event.listen(market.engine, "checkin", given_back)
    try:
        with ThreadPoolExecutor(len(asked)) as threads:
            said = Counter(threads.map(one, asked))
    finally:
        market.engine.dispose()
    assert said == {State.QUEUED.value: 4 + CONNECTIONS // 2, "too_many_derived": 2 * (CONNECTIONS // 2) - 4}
    assert set(most.values()) == {1}
