"""Every way in which a stock client's job goes wrong: a clear error in Ocean's shapes, and the payment is as good as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from control_plane.chain.fees import sign_fee
from control_plane.did import TokenWei, TransactionHash, UnixSeconds
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.job import BUYERS_FAULTS, Reason
from control_plane.jobs.states import Kind, State
from control_plane.web import create_app
from tests.control_plane.web.asking import UNKNOWN_DID
from tests.control_plane.web.ocean_client import signed
from tests.control_plane.web.test_provider_compute import ask, result
from tests.control_plane.web.test_provider_jobs import Shop, open_shop
from tests.fixtures_market import ONE
from tests.ocean_assets import index, publish

WORKER = "e" * 32
CANARY = "canary-41c7-text"
MEGABYTES_10 = [f"{CANARY} " + "a whale at sea " * 699_050]


@dataclass(frozen=True)
class Wrong:
    """start: asks for a job with something wrong in it; gets an order that is good. says: what the error must tell. status: 400, of
    which `ocean.py` shows the text, but for what a body or a full market is refused with."""

    name: str
    start: Callable[[Shop, TransactionHash], Any]
    code: str
    says: str
    status: int = 400


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One for all: each test pays for its own order, and leaves what the others need."""
    opened = open_shop(tmp_path_factory.mktemp("shop") / "home")
    yield opened
    opened.market.engine.dispose()


def message(shop: Shop) -> str:
    return f"{shop.market.wallet('bob').address}{shop.market.gpt.did}"


def training(told: Any) -> Callable[[Shop, TransactionHash], Any]:
    return lambda shop, order: shop.start(order, kind=Kind.TRAIN, told=told)


def model(shop: Shop, order: str, **changes: str) -> dict[str, Any]:
    return {"dataset": {"documentId": shop.market.gpt.did, "serviceId": "1", "transferTxId": order, **changes}}


def fee_of_mallory(shop: Shop, _order: TransactionHash) -> Any:
    """An order whose fee somebody else signed, who is paid by it."""
    market, gpt, wallet = shop.market, shop.market.gpt, shop.market.wallet("bob")
    ends_at, ocean = UnixSeconds(int(market.clock.now) + 600), market.ledger.network.ocean
    fee = sign_fee(market.wallet("mallory"), gpt.datatoken, "1", ocean, TokenWei(1), ends_at, market.clock, PAID)
    market.ledger.mint(ocean, wallet.address, 10 * ONE)
    market.ledger.buy_datatoken(wallet, "buy one more", gpt.datatoken, gpt.exchange, TokenWei(5 * ONE))
    return shop.start(market.ledger.start_order(wallet, "pay mallory", gpt.datatoken, wallet.address, 1, fee).transaction)


def expired(shop: Shop, _order: TransactionHash) -> Any:
    short = shop.order(seconds=60)
    shop.market.clock.now += 61
    return shop.start(short)


def trojan(shop: Shop, order: TransactionHash) -> Any:
    other = publish(shop.market, name="Trojan")
    index(shop.market)
    return shop.start(order, algorithm={"documentId": other.did, "serviceId": "0"})


def widened(shop: Shop, order: TransactionHash) -> Any:
    """Where bodies may be longer than any parameter."""
    services, usual = shop.market.services, shop.market.client
    settings = replace(services.settings, max_body_bytes=64 << 20)
    shop.market.client = create_app(replace(services, settings=settings), shop.market.journal).test_client()
    try:
        return shop.start(order, told={"texts": MEGABYTES_10})
    finally:
        shop.market.client = usual


def resent(shop: Shop, order: TransactionHash) -> Any:
    return shop.start(order, **signed(shop.market, "bob", message(shop), 1))


def uncountable(shop: Shop, order: TransactionHash) -> Any:
    return shop.start(order, **signed(shop.market, "bob", message(shop), 2**53))


def of_another_datatoken(shop: Shop, _order: TransactionHash) -> Any:
    return shop.start(shop.market.order("bob", shop.market.other_gpt))


def of_calls(shop: Shop, _order: TransactionHash) -> Any:
    return shop.start(shop.market.order("bob", shop.market.gpt))


def for_calls(shop: Shop, order: TransactionHash) -> Any:
    return shop.start(order, **model(shop, order, serviceId="0"))


def free(shop: Shop, _order: TransactionHash) -> Any:
    return shop.start(shop.order(environment=FREE, seconds=60))


WRONG = [
    Wrong("another's order", lambda shop, order: shop.start(order, "mallory"), "order_not_yours", "consumer"),
    Wrong("a used nonce", resent, "nonce_used", "nonce"),
    Wrong("a nonce above what floats count", uncountable, "nonce_too_large", "2**53"),
    Wrong("no number as nonce", lambda shop, order: shop.start(order, nonce="soon"), "nonce_malformed", "nonce"),
    Wrong("an order of another datatoken", of_another_datatoken, "order_foreign", "datatoken"),
    Wrong("an order of calls", of_calls, "order_wrong_service", "service 1"),
    Wrong("time that was paid as calls", lambda shop, _: shop.start(shop.order(service=0)), "order_wrong_service", "service 1"),
    Wrong("the service of calls", for_calls, "main_service_compute", "service"),
    Wrong("an unknown environment", lambda shop, order: shop.start(order, environment="moon"), "environment_unknown", "env"),
    Wrong("free time in the paid environment", free, "environment_not_paid", PAID),
    Wrong("a fee of somebody else's", fee_of_mallory, "order_without_provider_fee", "provider fee"),
    Wrong("an order that has ended", expired, "order_expired", "ended"),
    Wrong("an order that nobody made", lambda shop, _: shop.start("0x" + "3" * 64), "order_not_found", "transaction"),
    Wrong("no order", lambda shop, order: shop.start(order, **model(shop, order, transferTxId="")), "missing", "transferTxId"),
    Wrong("an algorithm that is not ours", trojan, "not_trusted_algo", "algorithm"),
    Wrong("a dataset without an order", training({"steps": 20, "dataset": UNKNOWN_DID}), "dataset_not_ordered", "dataset"),
    Wrong("no step", training({"steps": 0}), "bad_input", "steps"),
    Wrong("a thousand million steps", training({"steps": 10**9}), "bad_input", "100000"),
    Wrong("steps without a number", training({"steps": float("nan")}), "not_json", "JSON"),
    Wrong("a learning rate without a number", training('{"steps": 20, "learning_rate": NaN}'), "not_json", "JSON"),
    Wrong("an unknown parameter", training({"steps": 20, "code": CANARY}), "unknown_parameter", "parameter"),
    Wrong("10 MB of text", lambda shop, order: shop.start(order, told={"texts": MEGABYTES_10}), "body_too_large", "bytes", 413),
    Wrong("10 MB of text where a body may have them", widened, "bad_input", "65536 bytes"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_what_is_wrong_is_said_in_oceans_shape_and_costs_nothing(shop: Shop, wrong: Wrong) -> None:
    order, market, bob = shop.order(seconds=36_000), shop.market, shop.market.wallet("bob").address
    before = market.services.jobs.jobs_of(bob)
    answer = wrong.start(shop, order)
    told = answer.get_json()
    assert (answer.status_code, told.get("code")) == (wrong.status, wrong.code), answer.text
    assert isinstance(told["error"], str) and wrong.says in told["error"], answer.text
    assert CANARY not in answer.text + market.journal.getvalue()
    assert market.services.jobs.jobs_of(bob) == before
    writes = len(market.ledger.writes)
    assert shop.start(order).status_code == 200, "the payment is as good as it was"
    assert len(market.ledger.writes) == writes


def test_fields_that_are_missing_or_signed_by_another_are_told_as_flask_sieve_does(shop: Shop) -> None:
    order = shop.order()
    for changes in (
        signed(shop.market, "mallory", message(shop), 9),
        {"signature": ""},
        {"consumerAddress": ""},
        {"algorithm": {}},
    ):
        answer = shop.start(order, **changes)
        told = answer.get_json()
        assert (answer.status_code, told["success"], told["message"]) == (400, False, "Validation error"), answer.text
        assert all(isinstance(texts, list) for texts in told["errors"].values())
    assert shop.start(order).status_code == 200


@pytest.mark.parametrize("code", sorted(BUYERS_FAULTS))
def test_a_job_that_fails_says_why_and_its_payment_starts_another(shop: Shop, code: str) -> None:
    """A dataset that is no text, a loss that is no number, memory that was not enough, and their like."""
    order, jobs = shop.order(seconds=3600), shop.market.services.jobs
    for job in jobs.jobs_of(shop.market.wallet("bob").address):
        if job.state is State.QUEUED:
            jobs.request_stop(job.job_id)  # the next to be taken is the one below
    (started,) = shop.start(order).get_json()
    job_id = started["jobId"]
    assert jobs.claim(WORKER) is not None
    jobs.advance(job_id, State.PROVISIONING, State.RUNNING, worker=WORKER)
    jobs.advance(job_id, State.RUNNING, State.FAILED, worker=WORKER, reason=Reason(code, "what its owner can change"))
    (told,) = ask(shop.market, "GET", job_id, did=shop.market.gpt.did).get_json()
    assert (told["status"], told["statusText"]) == (41, "Algorithm failed: what its owner can change")
    assert (told["posthuman"]["has_failed"], told["posthuman"]["reason"]["code"]) == (True, code)
    assert result(shop.market, job_id).data == f"{code}: what its owner can change\n".encode()
    assert shop.price(order=order).get_json()["datasets"] == [{"validOrder": order}]
    writes = len(shop.market.ledger.writes)
    (again,) = shop.start(order).get_json()
    assert (again["status"], again["agreementId"]) == (1, order)
    assert again["jobId"] != job_id
    assert len(shop.market.ledger.writes) == writes
