"""May this payment have this job: facts in, decision out.

In: what the chain says of the orders, what the store says of the payment and the queue, the time. Out: a `Decision`, with one named
refusal a check. This module must never do I/O: no chain, no database, no clock.

What a payment can be worth after a failure: the datatoken and the fees are with those they were paid to, and no contract takes them
back. But Ocean's orders are not single use: that one payment pays for one job is our own rule. So a job that failed gives its
payment back, and the same order starts one more job without a new fee, with the whole time that it paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from control_plane.chain.fees import ComputeTime, compute_time
from control_plane.chain.ledger import OrderFacts
from control_plane.did import Address, Did, TransactionHash
from control_plane.jobs.environments import Environment
from control_plane.jobs.job import BUYERS_FAULTS
from control_plane.jobs.store import Standing
from control_plane.serving.access import (
    REORDER_CHECKS,
    Decision,
    OrderQuestion,
    Refusal,
    may_order_be_used,
)
from control_plane.serving.listing import Ordered

GIVEN_BACK_FOR_S = 7 * 24 * 3600
"""How long after its job failed a payment may pay for one more, even where the order itself ends before."""
MOST_FAULTS = 3
"""Jobs of one payment that may fail through their own parameters or data: their time was used, and only the market paid."""
_QUEUE_AGAIN_S = 60


@dataclass(frozen=True)
class Service:
    """One service of an asset, as far as an order of it is concerned; see `Ordered`."""

    did: Did
    chain_id: int
    nft: Address
    datatoken: Address
    service_index: int
    timeout_s: int


@dataclass(frozen=True)
class Paid:
    """A service and what the chain says of its order. payment: the transaction that paid the fee of `facts`: the order's own, or
    one that ordered it again (`reuseOrder`); then the fee and the confirmations of `facts` are that one's."""

    service: Ordered
    facts: OrderFacts
    payment: TransactionHash

    @classmethod
    def by_order(cls, service: Ordered, facts: OrderFacts) -> Paid:
        return cls(service, facts, facts.transaction)


@dataclass(frozen=True)
class JobQuestion:
    """May `owner` have a job for these orders now?

    model: its order is the job's payment. algorithm: the asset that stands for the kind of job; trusted: those that the model's
    owner lets near it. algorithm_paid: None where it is not ordered: the market's own need not be.
    dataset: the text asset that the parameters name. dataset_trusts: algorithms that its owner lets near it, None where its
    files are sold themselves. operator: who signs fees. confirmations: blocks an order needs. now: seconds
    since 1970.
    """

    owner: Address
    model: Paid
    algorithm: Did
    trusted: frozenset[Did]
    environment: Environment
    operator: Address
    confirmations: int
    now: float
    algorithm_paid: Paid | None = None
    dataset: Did | None = None
    dataset_paid: Paid | None = None
    dataset_trusts: frozenset[Did] | None = None


def paid_time(paid: Paid) -> ComputeTime | None:
    """What the payment's fee pays for; None where it pays for no computing."""
    fee = paid.facts.provider_fee
    return None if fee is None else compute_time(fee)


def _no(code: str, message: str, status: int = 403, retry_after_s: int | None = None) -> Refusal:
    return Refusal(status, code, message, retry_after_s)


def _algorithm_is_trusted(q: JobQuestion, _s: Standing) -> Refusal | None:
    if q.algorithm in q.trusted:
        return None
    return _no("algorithm_not_trusted", f"algorithm: the owner of {q.model.service.did} does not let {q.algorithm} near it")


def _payment_is_free(q: JobQuestion, s: Standing) -> Refusal | None:
    for job in s.of_payment:
        if job.holds_payment:
            message = f"payment {q.model.payment}: it has paid for job {job.job_id}; one payment pays for one job"
            return _no(
                "payment_used", message if job.owner == q.owner else f"payment {q.model.payment}: it has paid for a job", 409
            )
    return None


def _payment_is_not_worn_out(q: JobQuestion, s: Standing) -> Refusal | None:
    faults = [job for job in s.of_payment if job.reason is not None and job.reason.code in BUYERS_FAULTS]
    if len(faults) < MOST_FAULTS:
        return None
    last = faults[-1].reason
    message = f"payment {q.model.payment}: {len(faults)} of its jobs failed through their own parameters or data, the last one: "
    return _no("payment_used_up", message + (last.message if last is not None else ""))


def _model_is_ordered(q: JobQuestion, s: Standing) -> Refusal | None:
    given_back_at = max((job.finished_at or 0.0 for job in s.of_payment if not job.holds_payment), default=None)
    if given_back_at is None or q.now >= given_back_at + GIVEN_BACK_FOR_S:
        return _order_refused(q, q.model, q.now)
    return _order_refused(
        q, q.model, min(q.now, s.of_payment[0].created_at)
    )  # what was good for the first job is good for this one


def _environment_is_the_paid_one(q: JobQuestion, _s: Standing) -> Refusal | None:
    time = paid_time(q.model)
    if time is not None and time.environment == q.environment.id and time.seconds >= 1:
        return None
    found = "no computing" if time is None else f"{time.seconds} s in {time.environment!r:.80}"
    return _no("environment_not_paid", f"order: expected a provider fee for time in {q.environment.id}, found one for {found}")


def _algorithm_is_ordered(q: JobQuestion, _s: Standing) -> Refusal | None:
    if q.algorithm_paid is None:
        return None
    if q.algorithm_paid.service.did != q.algorithm:
        return _no("order_foreign", f"algorithm: expected an order of {q.algorithm}, found one of {q.algorithm_paid.service.did}")
    return _named("algorithm", _order_refused(q, q.algorithm_paid, q.now))


def _dataset_is_ordered(q: JobQuestion, _s: Standing) -> Refusal | None:
    found = None if q.dataset_paid is None else q.dataset_paid.service.did
    if found != q.dataset:
        return _no("dataset_not_ordered", f"dataset: expected an order of {q.dataset or 'no dataset'}, found {found or 'none'}")
    if q.dataset_trusts is not None and q.algorithm not in q.dataset_trusts:
        return _no("algorithm_not_trusted", f"algorithm: the owner of {q.dataset} does not let {q.algorithm} near it")
    return None if q.dataset_paid is None else _named("dataset", _order_refused(q, q.dataset_paid, q.now))


def has_room(environment: Environment, standing: Standing) -> Decision:
    """Whether the environment takes one more job of the owner's: to be asked before anything is paid, too."""
    if standing.of_owner >= environment.max_jobs_of_an_owner:
        # who asks is not known to be the owner: the sentence says no more than that the answer is no
        found = f"{environment.id}: an owner may have at most {environment.max_jobs_of_an_owner} jobs under way there"
        return Decision(_no("too_many_jobs", found, 429, _QUEUE_AGAIN_S))
    if standing.in_environment >= environment.max_jobs:
        found = f"{environment.id}: {standing.in_environment} jobs are under way, as many as there may be, until one of them ends"
        return Decision(_no("environment_full", found, 429, _QUEUE_AGAIN_S))
    return Decision()


def _environment_has_room(q: JobQuestion, s: Standing) -> Refusal | None:
    return has_room(q.environment, s).refusal


JobCheck = Callable[[JobQuestion, Standing], Refusal | None]
PAYMENT_CHECKS: tuple[JobCheck, ...] = (
    _model_is_ordered,
    _environment_is_the_paid_one,
    _payment_is_free,
    _payment_is_not_worn_out,
)
"""Whether the payment is still worth a job, whichever it is."""
JOB_CHECKS: tuple[JobCheck, ...] = (
    _algorithm_is_trusted,
    *PAYMENT_CHECKS,
    _algorithm_is_ordered,
    _dataset_is_ordered,
    _environment_has_room,
)
"""In this order, so that nobody who has not ordered the model learns what its payment has paid for."""


def may_have_job(question: JobQuestion, standing: Standing, checks: tuple[JobCheck, ...] = JOB_CHECKS) -> Decision:
    """The first refusal of `checks`, or allowed."""
    return next((Decision(refusal) for check in checks if (refusal := check(question, standing)) is not None), Decision())


def consumer_for(facts: OrderFacts, owner: Address, environments: Sequence[Environment]) -> Address:
    """Whom an order of `owner`'s must name as consumer: the owner, or an environment where the owner has paid."""
    consumers = {each.consumer for each in environments}
    return facts.consumer if facts.consumer in consumers and facts.payer == owner else owner


def part_question(
    paid: Paid, owner: Address, environment: Environment, operator: Address, confirmations: int, now: float
) -> OrderQuestion:
    """About the order of one part of a job: as of a call, except that Ocean's clients let the environment consume what the job's
    owner paid."""
    consumer = consumer_for(paid.facts, owner, (environment,))
    return OrderQuestion(paid.facts, paid.service, consumer, operator, confirmations, now)


def may_be_ordered_again(q: JobQuestion) -> Decision:
    """Whether the model's order is good for one more fee (`reuseOrder`), whatever its own paid for."""
    bare = replace(q.model, facts=replace(q.model.facts, provider_fee=None))
    return may_order_be_used(_about(q, bare, q.now), REORDER_CHECKS)


def _order_refused(q: JobQuestion, paid: Paid, now: float) -> Refusal | None:
    return may_order_be_used(_about(q, paid, now)).refusal


def _about(q: JobQuestion, paid: Paid, now: float) -> OrderQuestion:
    return part_question(paid, q.owner, q.environment, q.operator, q.confirmations, now)


def _named(what: str, refusal: Refusal | None) -> Refusal | None:
    return (
        None
        if refusal is None
        else _no(f"{what}_{refusal.code}", f"{what} {refusal.message}", refusal.status, refusal.retry_after_s)
    )
