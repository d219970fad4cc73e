"""A batch's receipt is one of its order's: a stranger verifies it as a call's, and finds whatever was made up."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select

from control_plane.chain.fees import sign_provider_fee
from control_plane.chain.ledger import OrderFacts
from control_plane.database import reading, sessions
from control_plane.did import Address, TokenWei, TransactionHash, UnixSeconds
from control_plane.flows.job_receipts import leave_receipt, receipt_of
from control_plane.jobs.job import Job, canonical_json
from control_plane.jobs.states import Kind, State
from control_plane.jobs.store import JobStore
from control_plane.receipts.receipt import Issued
from control_plane.receipts.tiles import TileFolder
from control_plane.receipts.verify import verify
from tests.check_log import log_invariants
from tests.control_plane.jobs.asking import ONE_WORKER, a_job, anyone
from tests.control_plane.receipts.verifying import ForgedLog, assert_fails, verdicts
from tests.fixtures_log import DIGEST, LogMarket, market
from tests.simulators.network import SIMULATED

__all__ = ["market"]

ENVIRONMENT = "posthuman-cpu"
PARAMETERS = canonical_json({"prompts": ["the market", "wo steht er?"], "temperature": 1.0})
RESULT: dict[str, Any] = {"answers": '[{"text": " stands"}, {"text": " da"}]', "prompt_tokens": 5, "tokens": 2}


def finished(market: LogMarket, payment: TransactionHash, owner: Address | None = None, **changes: Any) -> tuple[Job, Issued]:
    """A batch that was answered a while after it was ordered, with its receipt."""
    store = JobStore(market.engine, market.chain.now)
    bob, what = owner or market.bob.address, {"did": market.did, "model_digest": DIGEST, "parameters": PARAMETERS}
    job = store.add(a_job(Kind.INFER, owner=bob, payment=payment, **what, **changes), anyone)
    assert store.claim(ONE_WORKER) is not None
    store.advance(job.job_id, State.PROVISIONING, State.RUNNING, worker=ONE_WORKER)
    assert store.begin(job.job_id, ONE_WORKER)
    along = partial(leave_receipt, market.store)
    job = store.advance(job.job_id, State.RUNNING, State.FINISHED, worker=ONE_WORKER, result=RESULT, along=along)
    issued = receipt_of(market.store, job)
    assert issued is not None
    return job, issued


def logged(market: LogMarket) -> None:
    market.log.integrate()
    market.anchor()


def checked(market: LogMarket, job: Job, issued: Issued) -> Any:
    return market.verify(issued, request=job.parameters.encode(), response=str(job.result).encode())


def test_a_stranger_verifies_a_batch_as_a_call(market: LogMarket) -> None:
    job, issued = finished(market, market.buy("job", environment=ENVIRONMENT))
    (call,) = market.issue()
    logged(market)
    found = checked(market, job, issued)
    assert found.is_verified and set(verdicts(found).values()) == {"ok"}, found.to_json()
    assert f"ordered a job of 86400 s in '{ENVIRONMENT}'" in next(each.evidence for each in found.checks if each.name == "order")
    assert market.verify(call).is_verified
    files = TileFolder(market.folder / "log")
    assert list(log_invariants(market.ledger, market.log_nft, files, [issued, call])) == []


def test_a_batch_is_no_call_of_any_session(market: LogMarket) -> None:
    _job, issued = finished(market, market.buy("job", environment=ENVIRONMENT))
    with reading(market.engine).connect() as connection:
        assert connection.execute(select(sessions.c.calls_used)).all() == [(0,)]
    assert market.store.receipts_of(order=market.order) == () and market.store.receipts_of(consumer=market.bob.address) == (issued,)


@pytest.mark.parametrize("part", ["request", "response"])
def test_other_bytes_than_those_of_the_job_are_found_out(part: str, market: LogMarket) -> None:
    _job, issued = finished(market, market.buy("job", environment=ENVIRONMENT))
    logged(market)
    found = market.verify(issued, **{part: b"something else"})
    assert [each.name for each in found.checks if each.verdict.value == "failed"] == [part]


def test_the_environment_may_be_the_consumer_of_what_the_owner_paid(market: LogMarket) -> None:
    order = market.buy("job", environment=ENVIRONMENT, consumer=market.operator.address)
    job, issued = finished(market, order)
    logged(market)
    assert checked(market, job, issued).is_verified
    files = TileFolder(market.folder / "log")
    assert list(log_invariants(market.ledger, market.log_nft, files, [issued])) == []


def test_who_neither_paid_nor_consumes_an_order_has_no_receipt_of_it(market: LogMarket) -> None:
    order = market.buy("job", environment=ENVIRONMENT)
    _job, issued = finished(market, order, market.alice.address)
    logged(market)
    assert_fails(market.verify(issued), "order", "consumer")


def test_a_payer_who_gave_a_job_away_has_no_receipt_of_it(market: LogMarket) -> None:
    """Only where an environment is the consumer the payer is the owner, as the market has it."""
    order = market.buy("given", environment=ENVIRONMENT, consumer=market.alice.address)
    _job, issued = finished(market, order)
    logged(market)
    assert_fails(market.verify(issued), "order", "consumer")
    files = TileFolder(market.folder / "log")
    assert [each for each in log_invariants(market.ledger, market.log_nft, files, [issued]) if "the order is by" in each]


def computing_again(
    market: LogMarket, order: TransactionHash, environment: str | None = ENVIRONMENT, service: int = 1
) -> TransactionHash:
    until, ocean = UnixSeconds(int(market.chain.now()) + 600), market.ledger.network.ocean
    clock = market.chain.now
    fee = sign_provider_fee(market.operator, market.datatoken, service, ocean, TokenWei(0), until, clock, environment)
    return market.ledger.reuse_order(order, market.datatoken, fee)


def test_each_payment_of_an_order_leaves_one_receipt_and_a_made_up_one_is_found_out(market: LogMarket) -> None:
    order = market.buy("job", environment=ENVIRONMENT)
    _job, first = finished(market, order)
    job, second = finished(market, computing_again(market, order), original_order=order)
    assert (second.signed.receipt.order, second.signed.receipt.sequence) == (order, 1)
    logged(market)
    assert market.verify(first).is_verified and checked(market, job, second).is_verified
    files = TileFolder(market.folder / "log")
    assert list(log_invariants(market.ledger, market.log_nft, files, [first, second])) == []
    computing_again(market, order, environment=None)  # these pay for no job, or for none of this order
    computing_again(market, order, service=0)
    computing_again(market, market.buy("other", environment=ENVIRONMENT))
    market.ledger.reuse_order(order, market.datatoken)
    third = market.resign(second, sequence=2, previous=second.id)
    forged = ForgedLog(market, [first, second, third])
    assert_fails(verify(market.ledger, third, log=forged.anchor().public()), "order", "the order has paid for 2 jobs")
    invariants = log_invariants(market.ledger, market.log_nft, forged.folder, [first, second, third])
    assert f"order {order}: of 2 jobs paid for there are 3 receipts" in list(invariants)


def test_a_payment_that_is_too_young_waits(market: LogMarket) -> None:
    order = market.buy("job", environment=ENVIRONMENT)
    _job, _first = finished(market, order)
    market.ledger.advance_blocks(60)
    _job, second = finished(market, computing_again(market, order), original_order=order)
    logged(market)
    market.ledger._network = replace(SIMULATED, confirmations=50)
    assert verdicts(market.verify(second))["order"] == "not checked"
    market.ledger.advance_blocks(60)
    assert market.verify(second).is_verified


def test_a_payer_who_gave_calls_away_has_no_receipt_of_them(market: LogMarket) -> None:
    """Only of computing the payer counts."""
    (made,) = market.issue()
    given: OrderFacts = market.ledger.order_facts(market.buy("given", consumer=market.alice.address))
    moved = market.resign(made, order=given.transaction)
    found = verify(market.ledger, moved, log=ForgedLog(market, [moved]).anchor().public())
    assert_fails(found, "order", "consumer")


def test_a_job_may_begin_after_the_time_that_its_order_names(market: LogMarket) -> None:
    """It waited for its turn, or an earlier one of the same payment failed."""
    order = market.buy("job", valid_for_s=600, environment=ENVIRONMENT)
    market.ledger.advance_time(4000)
    job, issued = finished(market, order)
    logged(market)
    found = checked(market, job, issued)
    assert found.is_verified
    assert "nothing on chain says how late it may begin" in next(each.evidence for each in found.checks if each.name == "term")
    early = market.resign(issued, started_at=issued.signed.receipt.started_at - 10_000_000)
    found = verify(market.ledger, early, log=ForgedLog(market, [early]).public())
    assert_fails(found, "term", "before the order")
