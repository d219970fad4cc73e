"""Each check of an order and of a call refuses what it is for, and no other check does its work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from control_plane.chain.ledger import OrderFacts, ProviderFee
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import Forbidden, IntegrityBroken, Unauthenticated
from control_plane.serving.access import (
    CALL_CHECKS,
    CALLS_CHECKS,
    NEVER,
    ORDER_CHECKS,
    CallQuestion,
    Decision,
    OrderQuestion,
    may_call,
    may_order_be_used,
    order_ends_at,
    session_only,
)
from control_plane.serving.listing import Listing
from control_plane.serving.sessions import Session

NOW = 1_700_000_000.0
OPERATOR, BOB, MALLORY = (Address("0x" + letter * 40) for letter in "abc")
DATATOKEN, OTHER_DATATOKEN, NFT, OTHER_NFT = (Address("0x" + digit * 40) for digit in "1234")
TX = TransactionHash("0x" + "5" * 64)
DIGEST = Bytes32("0x" + "6" * 64)
DID, OTHER_DID = Did("did:op:" + "7" * 64), Did("did:op:" + "8" * 64)

LISTING = Listing(
    did=DID,
    name="gpt",
    task="text-generation",
    entry_name="m-6666666666666666",
    model_digest=DIGEST,
    chain_id=8996,
    nft=NFT,
    datatoken=DATATOKEN,
    exchange=None,
    publisher=Address("0x" + "d" * 40),
    service_index=0,
    timeout_s=3600,
    rate=TokenWei(0),
    base_token=Address("0x" + "e" * 40),
    publish_fee=TokenWei(0),
    swap_fee=0,
    published_at=NOW - 5000,
)
FEE = ProviderFee(
    OPERATOR, Address("0x" + "e" * 40), TokenWei(1), UnixSeconds(int(NOW) + 1000), b'{"calls":true}', 27, DIGEST, DIGEST
)
GOOD = OrderFacts(
    transaction=TX,
    chain_id=8996,
    found=True,
    status=1,
    emitter=DATATOKEN,
    nft=NFT,
    is_from_factory=True,
    consumer=BOB,
    payer=BOB,
    amount=TokenWei(10**18),
    service_index=0,
    block=7,
    block_hash=DIGEST,
    ordered_at=UnixSeconds(int(NOW) - 100),
    confirmations=3,
    provider_fee=FEE,
)
QUESTION = OrderQuestion(GOOD, LISTING, BOB, OPERATOR, confirmations=3, now=NOW)


@dataclass(frozen=True)
class OrderCase:
    """One fault in an otherwise good order, and the refusal that it must meet."""

    code: str
    change: dict[str, Any]


ORDER_CASES = (
    OrderCase("order_wrong_chain", {"chain_id": 137}),
    OrderCase("order_not_found", {"found": False}),
    OrderCase("order_reverted", {"status": 0}),
    OrderCase("order_reverted", {"status": None}),
    OrderCase("order_foreign", {"emitter": OTHER_DATATOKEN}),
    OrderCase("order_foreign", {"emitter": None}),
    OrderCase("order_wrong_nft", {"nft": OTHER_NFT}),
    OrderCase("order_not_ocean", {"is_from_factory": False}),
    OrderCase("order_wrong_service", {"service_index": 1}),
    OrderCase("order_unpaid", {"amount": TokenWei(10**18 - 1)}),
    OrderCase("order_not_yours", {"consumer": MALLORY}),
    OrderCase("order_without_provider_fee", {"provider_fee": None}),
    OrderCase("order_without_provider_fee", {"provider_fee": replace(FEE, provider=MALLORY)}),
    OrderCase("order_expired", {"ordered_at": UnixSeconds(int(NOW) - 3600)}),
    OrderCase("order_expired", {"provider_fee": replace(FEE, valid_until=UnixSeconds(int(NOW)))}),
    OrderCase("order_not_alone", {"orders": 2}),
    OrderCase("order_not_final", {"confirmations": 2}),
)


def refusal_of(decision: Decision) -> str | None:
    return decision.refusal.code if decision.refusal else None


@pytest.mark.parametrize("data", [b"{}", b'{"environment":null}', b'{"environment":"free","calls":true}', b"["])
def test_calls_are_opened_by_the_fee_of_calls_alone(data: bytes) -> None:
    other = replace(QUESTION, facts=replace(GOOD, provider_fee=replace(FEE, data=data)))
    assert refusal_of(may_order_be_used(other, CALLS_CHECKS)) == "order_not_for_calls"
    assert may_order_be_used(QUESTION, CALLS_CHECKS).is_allowed and may_order_be_used(other).is_allowed


def test_a_good_order_may_be_used() -> None:
    assert may_order_be_used(QUESTION).is_allowed


@pytest.mark.parametrize("case", ORDER_CASES, ids=lambda case: f"{case.code}-{'-'.join(case.change)}")
def test_one_fault_of_an_order_meets_its_own_refusal(case: OrderCase) -> None:
    decision = may_order_be_used(replace(QUESTION, facts=replace(GOOD, **case.change)))
    assert refusal_of(decision) == case.code
    assert decision.refusal is not None
    assert decision.refusal.status == 403
    with pytest.raises(Forbidden) as caught:
        decision.enforce()
    assert caught.value.code == case.code


@pytest.mark.parametrize("removed", ORDER_CHECKS, ids=lambda check: check.__name__)
def test_without_one_order_check_some_bad_order_passes(removed: Any) -> None:
    """The mutation test: no check is covered by the others, and none is without a case above."""
    left = tuple(check for check in ORDER_CHECKS if check is not removed)
    asked = [replace(QUESTION, facts=replace(GOOD, **case.change)) for case in ORDER_CASES]
    assert any(may_order_be_used(question, left).is_allowed for question in asked)


def test_an_order_that_is_not_final_says_how_many_confirmations_it_has() -> None:
    decision = may_order_be_used(replace(QUESTION, facts=replace(GOOD, confirmations=1)))
    assert decision.refusal is not None
    assert "1 of 3 confirmations" in decision.refusal.message
    assert decision.refusal.retry_after_s is not None


def test_an_order_ends_at_the_earlier_of_its_timeout_and_its_provider_fee() -> None:
    assert order_ends_at(GOOD, LISTING) == int(NOW) + 1000
    assert order_ends_at(GOOD, replace(LISTING, timeout_s=50)) == int(NOW) - 50
    assert order_ends_at(GOOD, replace(LISTING, timeout_s=0)) == int(NOW) + 1000
    assert order_ends_at(replace(GOOD, provider_fee=None), replace(LISTING, timeout_s=0)) == NEVER


def test_an_order_is_good_until_its_last_second_and_not_in_it() -> None:
    end = order_ends_at(GOOD, LISTING)
    assert may_order_be_used(replace(QUESTION, now=end - 0.001)).is_allowed
    assert refusal_of(may_order_be_used(replace(QUESTION, now=float(end)))) == "order_expired"


SESSION = Session(
    token_hash="9" * 64,
    wallet=BOB,
    did=DID,
    order=TX,
    order_block=7,
    order_block_hash=DIGEST,
    expires_at=NOW + 10,
    calls_limit=5,
    calls_used=4,
)
CALL = CallQuestion(SESSION, DID, LISTING, NOW)
CALL_CASES: tuple[tuple[str, int, CallQuestion], ...] = (
    ("session_unknown", 401, replace(CALL, session=None)),
    ("session_revoked", 401, replace(CALL, session=replace(SESSION, revoked_at=NOW - 1))),
    ("session_expired", 401, replace(CALL, now=NOW + 10)),
    ("token_of_another_did", 403, replace(CALL, did=OTHER_DID, listing=replace(LISTING, did=OTHER_DID))),
    ("order_for_jobs", 403, replace(CALL, session=replace(SESSION, calls_limit=0, calls_used=0))),
    ("quota_exhausted", 403, replace(CALL, session=replace(SESSION, calls_used=5))),
    ("model_withdrawn", 503, replace(CALL, listing=replace(LISTING, state="withdrawn", reason="weights differ"))),
)


def test_a_good_session_may_call() -> None:
    assert may_call(CALL).is_allowed
    may_call(CALL).enforce()


@pytest.mark.parametrize(("code", "status", "question"), CALL_CASES, ids=[case[0] for case in CALL_CASES])
def test_one_fault_of_a_call_meets_its_own_refusal(code: str, status: int, question: CallQuestion) -> None:
    decision = may_call(question)
    assert refusal_of(decision) == code
    kind = {401: Unauthenticated, 403: Forbidden, 503: IntegrityBroken}[status]
    with pytest.raises(kind) as caught:
        decision.enforce()
    assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize("removed", CALL_CHECKS, ids=lambda check: check.__name__)
def test_without_one_call_check_some_bad_call_passes(removed: Any) -> None:
    left = tuple(check for check in CALL_CHECKS if check is not removed)
    assert any(may_call(question, left).is_allowed for _code, _status, question in CALL_CASES)


def test_a_withdrawn_model_says_why() -> None:
    decision = may_call(CALL_CASES[-1][2])
    assert decision.refusal is not None
    assert "weights differ" in decision.refusal.message


def test_receipts_may_be_read_after_the_quota_is_used_up_but_not_after_the_session_ended() -> None:
    assert session_only(replace(SESSION, calls_used=5), NOW).is_allowed
    assert refusal_of(session_only(SESSION, NOW + 10)) == "session_expired"
    assert refusal_of(session_only(replace(SESSION, revoked_at=NOW), NOW)) == "session_revoked"
