"""Published evaluations: each finding once, newest first, whoever publishes it and however often."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from control_plane.did import Address, Bytes32, Did, UnixMillis
from control_plane.errors import Conflict, NotFound, Unavailable
from control_plane.receipts.evaluation import SignedEvaluation, statement_hash
from control_plane.receipts.evaluations import MOST_OF_AN_EVALUATOR, MOST_SHOWN_OF_AN_EVALUATOR, Evaluations, finding_of
from tests.control_plane.receipts.test_evaluation import SIGNER, STATEMENT
from tests.fixtures_market import Clock

SAID = SignedEvaluation.from_json(STATEMENT).evaluation
DID, EVALUATOR = SAID.did, SAID.evaluator


def signed(**changes: Any) -> SignedEvaluation:
    return SIGNER.sign_evaluation(replace(SAID, **changes))


@pytest.fixture
def published(open_engine: Callable[[], Engine]) -> Evaluations:
    return Evaluations(open_engine(), Clock(1000.0))


def test_the_same_finding_is_one_record_and_another_is_another(published: Evaluations) -> None:
    first = published.publish(signed())
    assert published.publish(signed()) == published.publish(signed(evaluated_at=UnixMillis(5))) == first
    others: list[dict[str, Any]] = [{"loss_micronats": 1}, {"tokens": 3}, {"sample_seed": 9}]
    others.append({"evaluator": Address("0x" + "12" * 20)})
    for changes in others:
        published.publish(signed(**changes))
    assert len(published.of_asset(DID, 100)) == 1 + len(others)
    assert published.of_asset(Did("did:op:" + "0" * 64), 100) == []


def test_the_newest_comes_first_and_no_more_than_asked(published: Evaluations) -> None:
    clock: Any = published._clock
    for number in range(4):
        clock.now += 1
        published.publish(signed(tokens=number + 1))
    assert [each.signed.evaluation.tokens for each in published.of_asset(DID, 3)] == [4, 3, 2]


def test_several_who_publish_at_once_make_one_record(published: Evaluations) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _number: published.publish(signed()), range(8)))
    assert len(set(made)) == 1 and len(published.of_asset(DID, 10)) == 1


@pytest.mark.parametrize("when", ["before_cursor_execute", "commit"])
def test_a_write_that_fails_is_repeated_and_makes_one_record(published: Evaluations, when: str) -> None:
    """commit: the row is written, and whoever wrote it does not hear of it."""
    broken = [True]

    def breaking(*arguments: Any) -> None:
        if broken and (when == "commit" or "INSERT" in arguments[2]):
            broken.clear()
            if when == "commit":
                arguments[0].exec_driver_sql("COMMIT")
            raise OperationalError("INSERT secret", {}, Exception("secret: disk I/O error"))

    event.listen(published._engine, when, breaking)
    try:
        with pytest.raises(Unavailable) as caught:
            published.publish(signed())
    finally:
        event.remove(published._engine, when, breaking)
    assert not broken and "secret" not in caught.value.message
    assert published.publish(signed()).signed == signed()
    assert len(published.of_asset(DID, 10)) == 1


def test_a_database_that_cannot_be_read_is_told_as_one_that_may_answer_later(published: Evaluations) -> None:
    def silent(*_: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("database is locked"))

    event.listen(published._engine, "before_cursor_execute", silent)
    asks = (
        lambda: published.find(signed()),
        lambda: published.of_asset(DID, 1),
        lambda: published.check_room(DID, EVALUATOR),
    )
    for ask in asks:
        with pytest.raises(Unavailable):
            ask()


def test_an_evaluator_who_publishes_much_hides_nobody_and_all_of_it_can_be_found(published: Evaluations) -> None:
    clock: Any = published._clock
    quiet = Address("0x" + "12" * 20)
    first = published.publish(signed(evaluator=quiet))
    for number in range(3 * MOST_SHOWN_OF_AN_EVALUATOR):
        clock.now += number % 2  # some at the same moment
        published.publish(signed(tokens=number + 1))
    listed = published.of_asset(DID, 100)
    assert listed[-1] == first and len(listed) == MOST_SHOWN_OF_AN_EVALUATOR + 1
    found, before = [], None
    while page := published.of_asset(DID, 7, EVALUATOR, before):
        found += page
        before = statement_hash(page[-1].signed)
    assert len(found) == len(set(found)) == 3 * MOST_SHOWN_OF_AN_EVALUATOR
    assert [each.published_at for each in found] == sorted((each.published_at for each in found), reverse=True)
    assert published.of_asset(DID, 100, before=statement_hash(listed[4].signed)) == listed[5:]
    for unknown in (Bytes32("0x" + "0" * 64), statement_hash(signed(did=Did("did:op:" + "0" * 64)))):
        with pytest.raises(NotFound):
            published.of_asset(DID, 100, before=unknown)


def test_one_evaluator_does_not_fill_the_list(published: Evaluations) -> None:
    published.check_room(DID, EVALUATOR)
    for number in range(MOST_OF_AN_EVALUATOR):
        published.publish(signed(tokens=number + 1))
    with pytest.raises(Conflict) as caught:
        published.check_room(DID, EVALUATOR)
    assert caught.value.code == "too_many_evaluations"
    published.check_room(DID, Address("0x" + "12" * 20))


def test_what_makes_a_record_is_all_but_the_time(published: Evaluations) -> None:
    assert finding_of(signed()) == finding_of(signed(evaluated_at=UnixMillis(1)))
    assert len({finding_of(signed(**{name: getattr(SAID, name) + 1})) for name in ("samples", "tokens", "max_tokens")}) == 3
