"""Each check of a job's question refuses what it is for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from control_plane.chain.ledger import OrderFacts, ProviderFee
from control_plane.did import Address, Bytes32, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import Conflict, Forbidden, TooMany
from control_plane.jobs.access import GIVEN_BACK_FOR_S, JOB_CHECKS, MOST_FAULTS, JobQuestion, Paid, Service, may_have_job, paid_time
from control_plane.jobs.environments import FREE, PAID, Environment
from control_plane.jobs.job import TIMED_OUT, Job, Reason
from control_plane.jobs.states import Kind, State
from control_plane.jobs.store import Standing
from tests.control_plane.jobs.asking import A_JOB, ALGORITHM, ALICE, BOB, CHARLIE, MODEL, OTHER_MODEL, OUT_OF_MEMORY

NOW = 1_700_000_000.0
OPERATOR, ENVIRONMENT = Address("0x" + "d" * 40), Address("0x" + "e" * 40)
OCEAN, DATATOKEN, OTHER_DATATOKEN, NFT = (Address("0x" + digit * 40) for digit in "1234")
DIGEST = Bytes32("0x" + "6" * 64)
ORDER, OTHER_ORDER, REUSE = (TransactionHash("0x" + digit * 64) for digit in "789")
PLACE = Environment(PAID, "", TokenWei(10**16), OCEAN, ENVIRONMENT, 2, "x86_64", 0, "", 8, 10, 86_400, 10, 3, 60)
SERVICE = Service(MODEL, 8996, NFT, DATATOKEN, 1, 3600)


def fee(**changes: Any) -> ProviderFee:
    data = {"environment": PAID, "timestamp": NOW - 60, "dt": DATATOKEN, "id": "1"} | changes
    return ProviderFee(
        OPERATOR, OCEAN, TokenWei(6 * 10**17), UnixSeconds(int(NOW) + 3540), json.dumps(data).encode(), 27, DIGEST, DIGEST
    )


FACTS = OrderFacts(
    transaction=ORDER,
    chain_id=8996,
    found=True,
    status=1,
    emitter=DATATOKEN,
    nft=NFT,
    is_from_factory=True,
    consumer=BOB,
    payer=BOB,
    amount=TokenWei(10**18),
    service_index=1,
    block=7,
    block_hash=DIGEST,
    ordered_at=UnixSeconds(int(NOW) - 50),
    confirmations=3,
    provider_fee=fee(),
)
OTHER = Paid.by_order(replace(SERVICE, did=OTHER_MODEL, datatoken=OTHER_DATATOKEN), replace(FACTS, emitter=OTHER_DATATOKEN))
QUESTION = JobQuestion(
    owner=BOB,
    model=Paid.by_order(SERVICE, FACTS),
    algorithm=ALGORITHM,
    trusted=frozenset({ALGORITHM}),
    environment=PLACE,
    operator=OPERATOR,
    confirmations=3,
    now=NOW,
)


def ended(state: State = State.FAILED, reason: Reason | None = OUT_OF_MEMORY, holds: bool = False, **changes: Any) -> Job:
    known = {name: getattr(A_JOB, name) for name in A_JOB.__dataclass_fields__} | {"kind": Kind.TRAIN}
    times = {"created_at": NOW - 30, "finished_at": NOW - 10}
    return Job(**{**known, "job_id": "0" * 32, "state": state, "reason": reason, "holds_payment": holds, **times, **changes})


def code_of(question: JobQuestion, standing: Standing = Standing()) -> str | None:  # noqa: B008  # frozen
    refusal = may_have_job(question, standing).refusal
    return None if refusal is None else refusal.code


def ordered(**changes: Any) -> JobQuestion:
    return replace(QUESTION, model=Paid.by_order(SERVICE, replace(FACTS, **changes)))


def test_a_paid_order_may_have_a_job() -> None:
    assert may_have_job(QUESTION, Standing()).is_allowed
    time = paid_time(QUESTION.model)
    assert time is not None
    assert (time.environment, time.seconds) == (PAID, 3600)


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("order_not_found", {"found": False}),
        ("order_reverted", {"status": 0}),
        ("order_foreign", {"emitter": OTHER_DATATOKEN}),
        ("order_not_ocean", {"is_from_factory": False}),
        ("order_wrong_service", {"service_index": 0}),
        ("order_unpaid", {"amount": TokenWei(1)}),
        ("order_not_yours", {"consumer": ALICE, "payer": ALICE}),
        ("order_not_yours", {"consumer": ALICE, "payer": BOB}),
        ("order_not_yours", {"consumer": ENVIRONMENT, "payer": ALICE}),
        ("order_without_provider_fee", {"provider_fee": None}),
        ("order_without_provider_fee", {"provider_fee": replace(fee(), provider=ALICE)}),
        ("order_expired", {"provider_fee": replace(fee(), valid_until=UnixSeconds(int(NOW)))}),
        ("order_expired", {"ordered_at": UnixSeconds(int(NOW) - 3600)}),
        ("order_not_final", {"confirmations": 2}),
        ("order_not_alone", {"orders": 2}),
        ("environment_not_paid", {"provider_fee": fee(environment=None)}),
        ("environment_not_paid", {"provider_fee": fee(environment=FREE)}),
        ("environment_not_paid", {"provider_fee": fee(environment=["posthuman"])}),
        ("environment_not_paid", {"provider_fee": fee(timestamp="now")}),
        ("environment_not_paid", {"provider_fee": fee(timestamp=NOW + 3540)}),
        ("environment_not_paid", {"provider_fee": replace(fee(), data=b"[]")}),
        ("environment_not_paid", {"provider_fee": replace(fee(), data=b"\xff")}),
    ],
)
def test_one_fault_of_the_payment_meets_its_own_refusal(code: str, changes: dict[str, Any]) -> None:
    question = ordered(**changes)
    assert code_of(question) == code
    with pytest.raises(Forbidden):
        may_have_job(question, Standing()).enforce()


def test_who_paid_through_the_environment_owns_the_job_and_so_does_who_was_given_it() -> None:
    assert code_of(ordered(consumer=ENVIRONMENT, payer=BOB)) is None
    assert code_of(ordered(consumer=BOB, payer=CHARLIE)) is None


def test_an_algorithm_that_the_models_owner_does_not_trust_is_refused() -> None:
    assert code_of(replace(QUESTION, trusted=frozenset())) == "algorithm_not_trusted"
    assert code_of(replace(QUESTION, algorithm=OTHER_MODEL)) == "algorithm_not_trusted"


def test_an_ordered_algorithm_must_be_this_one_and_its_order_good() -> None:
    good = Paid.by_order(replace(OTHER.service, did=ALGORITHM), OTHER.facts)
    assert code_of(replace(QUESTION, algorithm_paid=good)) is None
    assert code_of(replace(QUESTION, algorithm_paid=OTHER)) == "order_foreign"
    expired = replace(good, facts=replace(good.facts, ordered_at=UnixSeconds(0)))
    refusal = may_have_job(replace(QUESTION, algorithm_paid=expired), Standing()).refusal
    assert refusal is not None
    assert (refusal.code, refusal.message.startswith("algorithm order:")) == ("algorithm_order_expired", True)


def test_a_dataset_must_be_ordered_exactly_when_the_parameters_name_it() -> None:
    assert code_of(replace(QUESTION, dataset=OTHER_MODEL, dataset_paid=OTHER)) is None
    assert code_of(replace(QUESTION, dataset=OTHER_MODEL)) == "dataset_not_ordered"
    assert code_of(replace(QUESTION, dataset=ALGORITHM, dataset_paid=OTHER)) == "dataset_not_ordered"
    assert code_of(replace(QUESTION, dataset_paid=OTHER)) == "dataset_not_ordered"
    foreign = replace(OTHER, facts=replace(OTHER.facts, consumer=ALICE, payer=ALICE))
    assert code_of(replace(QUESTION, dataset=OTHER_MODEL, dataset_paid=foreign)) == "dataset_order_not_yours"


def test_a_payment_that_another_job_has_is_refused_and_only_its_owner_is_told_which() -> None:
    for owner in (BOB, ALICE):
        standing = Standing(of_payment=(ended(State.FINISHED, None, holds=True, owner=owner, job_id="9" * 32),))
        with pytest.raises(Conflict) as caught:
            may_have_job(QUESTION, standing).enforce()
        assert caught.value.code == "payment_used"
        assert ("9" * 32 in caught.value.message) == (owner == BOB)


def test_a_payment_given_back_pays_once_more_after_its_order_has_ended_for_a_week() -> None:
    over = replace(QUESTION, now=NOW + 10_000)
    assert code_of(over) == "order_expired"
    failed = ended(finished_at=NOW + 9_000)
    assert code_of(over, Standing(of_payment=(failed,))) is None
    late = ended(created_at=NOW + 9_500, finished_at=NOW + 9_900, reason=Reason("worker_lost", ""))
    assert code_of(over, Standing(of_payment=(failed, late))) is None
    week_later = replace(QUESTION, now=NOW + 9_000 + GIVEN_BACK_FOR_S)
    assert code_of(week_later, Standing(of_payment=(failed,))) == "order_expired"
    assert code_of(replace(week_later, now=week_later.now - 1), Standing(of_payment=(failed,))) is None


def test_a_failure_mends_no_other_fault_of_an_order() -> None:
    standing = Standing(of_payment=(ended(),))
    assert code_of(ordered(consumer=ALICE, payer=ALICE), standing) == "order_not_yours"
    assert code_of(ordered(found=False), standing) == "order_not_found"


def test_a_payment_is_worn_out_by_its_owners_faults_and_not_by_the_markets() -> None:
    theirs = [ended() for _ in range(MOST_FAULTS)]
    ours = [ended(reason=Reason("worker_lost", "")) for _ in range(20)]
    assert code_of(QUESTION, Standing(of_payment=tuple(theirs[1:] + ours))) is None
    refusal = may_have_job(QUESTION, Standing(of_payment=tuple(theirs + ours))).refusal
    assert refusal is not None
    assert refusal.code == "payment_used_up"
    assert OUT_OF_MEMORY.message in refusal.message


def test_a_job_that_used_its_time_or_was_stopped_while_it_ran_is_paid_for() -> None:
    for state, code in ((State.FAILED, TIMED_OUT), (State.STOPPED, "stopped")):
        assert code_of(QUESTION, Standing(of_payment=(ended(state, Reason(code, ""), holds=True),))) == "payment_used"


def test_a_full_environment_or_owner_waits_and_keeps_the_payment() -> None:
    for standing, code in ((Standing(in_environment=10), "environment_full"), (Standing(of_owner=3), "too_many_jobs")):
        with pytest.raises(TooMany) as caught:
            may_have_job(QUESTION, standing).enforce()
        assert (caught.value.code, caught.value.retry_after_s) == (code, 60)
    assert code_of(QUESTION, Standing(in_environment=9, of_owner=2)) is None


def test_an_order_made_again_is_a_payment_of_its_own() -> None:
    question = replace(QUESTION, model=Paid(SERVICE, FACTS, REUSE))
    refusal = may_have_job(question, Standing(of_payment=(ended(State.FINISHED, None, holds=True),))).refusal
    assert refusal is not None
    assert REUSE in refusal.message


def test_no_check_is_superfluous() -> None:
    """Leaving any one of them out lets something pass that it refuses."""
    bad = (
        (replace(QUESTION, trusted=frozenset()), Standing()),
        (ordered(found=False), Standing()),
        (ordered(provider_fee=fee(environment=None)), Standing()),
        (QUESTION, Standing(of_payment=(ended(State.FINISHED, None, holds=True),))),
        (QUESTION, Standing(of_payment=(ended(),) * MOST_FAULTS)),
        (replace(QUESTION, algorithm_paid=OTHER), Standing()),
        (replace(QUESTION, dataset=OTHER_MODEL), Standing()),
        (QUESTION, Standing(in_environment=10)),
    )
    for left_out, (question, standing) in zip(JOB_CHECKS, bad, strict=True):
        others = tuple(check for check in JOB_CHECKS if check is not left_out)
        assert not may_have_job(question, standing).is_allowed
        assert may_have_job(question, standing, others).is_allowed
