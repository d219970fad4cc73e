"""A call under its buyer's name: kept with its receipt or not at all, found by every worker, free where it was not answered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from control_plane.database import answers, calls, open_database, sessions
from control_plane.did import Bytes32, TransactionHash
from control_plane.errors import Conflict, Forbidden
from control_plane.receipts.kept import KeptAnswer, Once
from control_plane.receipts.receipt import response_hash
from control_plane.receipts.store import Issued, ReceiptStore, Reservation
from control_plane.receipts.workers import is_alive
from control_plane.settings import REPOSITORY
from tests.fixtures_database import shown_whole
from tests.fixtures_log import WORKER, LogMarket, market_on_either

__all__ = ["market_on_either"]

ANSWER = b'{"text":"world"}'
ONCE = Once("order 66", Bytes32("0x" + "11" * 32), kept_s=60, most_bytes=100)
OTHER = replace(ONCE, fingerprint=Bytes32("0x" + "22" * 32))


def reserved(market: LogMarket, once: Once = ONCE) -> Reservation:
    reservation = market.begin()
    market.store.reserve(reservation, once)
    return reservation


def answered(market: LogMarket, once: Once = ONCE, body: bytes = ANSWER, header_length: int | None = None) -> Issued:
    reservation = reserved(market, once)
    digest = response_hash(reservation.salt, body)
    kept = (once, KeptAnswer(reservation.call_id, body, header_length))
    return market.store.complete(reservation, response_hash=digest, units_in=1, units_out=1, kept=kept)


def state(market: LogMarket) -> tuple[int, int, int]:
    """Charges, calls under way, names."""
    with market.engine.connect() as connection:
        used = connection.execute(select(sessions.c.calls_used)).scalar_one()
        return used, len(connection.execute(select(calls)).all()), len(connection.execute(select(answers)).all())


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(Conflict) as caught:
        act()
    assert caught.value.status == 409
    assert (caught.value.retry_after_s is not None) == (caught.value.code == "idempotency_in_flight")
    return caught.value.code


@pytest.mark.parametrize("header_length", [None, 5])
def test_an_answer_is_kept_byte_for_byte_and_found_after_a_restart(market: LogMarket, header_length: int | None) -> None:
    assert market.store.kept_answer(market.order, ONCE) is None
    answered(market, body=bytes(range(90)), header_length=header_length)
    assert state(market) == (1, 0, 1)
    engine = open_database(shown_whole(market.engine))
    store = ReceiptStore(engine, market.signer, worker="c" * 32, merge_delay_s=1, clock=market.chain.now)
    found = store.kept_answer(market.order, ONCE)
    assert found is not None
    assert (found.body, found.header_length) == (bytes(range(90)), header_length)
    issued = store.receipt_of_call(found.call_id)
    assert issued is not None
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, found.body)
    assert refused(lambda: reserved(market)) == "idempotency_in_flight"
    assert state(market) == (1, 0, 1)
    engine.dispose()


def test_another_body_under_the_same_name_is_a_conflict_and_another_name_is_not(market: LogMarket) -> None:
    reservation = reserved(market)
    for _ in range(2):
        assert refused(lambda: market.store.kept_answer(market.order, OTHER)) == "idempotency_conflict"
        assert refused(lambda: reserved(market, OTHER)) == "idempotency_conflict"
        assert refused(lambda: market.store.kept_answer(market.order, ONCE)) == "idempotency_in_flight"
        assert refused(lambda: reserved(market)) == "idempotency_in_flight"
    assert state(market) == (1, 1, 1)
    market.store.release(reservation)
    answered(market, OTHER)
    answered(market, replace(ONCE, key="order 67"))
    assert market.store.kept_answer(TransactionHash("0x" + "99" * 32), ONCE) is None
    assert state(market) == (2, 0, 2)


def test_a_call_that_is_released_frees_its_name(market: LogMarket) -> None:
    for _ in range(2):
        reservation = reserved(market)
        assert market.store.release(reservation)
        assert not market.store.release(reservation)
        assert state(market) == (0, 0, 0)
    assert market.store.kept_answer(market.order, ONCE) is None


def test_a_name_that_cannot_be_paid_for_is_not_taken(market: LogMarket) -> None:
    with market.engine.begin() as connection:
        connection.execute(sessions.update().values(calls_limit=1))
    answered(market)
    with pytest.raises(Forbidden):
        reserved(market, replace(ONCE, key="another"))
    assert state(market) == (1, 0, 1)


def test_an_answer_too_long_to_keep_is_never_charged_twice(market: LogMarket) -> None:
    answered(market, body=b"x" * 100)
    found = market.store.kept_answer(market.order, ONCE)
    assert found is not None
    long = replace(ONCE, key="long")
    answered(market, long, body=b"x" * 101)
    assert refused(lambda: market.store.kept_answer(market.order, long)) == "idempotency_not_kept"
    assert refused(lambda: reserved(market, long)) == "idempotency_not_kept"
    assert state(market) == (2, 0, 2)


def test_a_name_counts_for_as_long_as_is_said_and_is_then_forgotten(market: LogMarket) -> None:
    answered(market)
    market.ledger.advance_time(59)
    assert market.store.kept_answer(market.order, ONCE) is not None
    assert market.store.sweep_answers() == 0
    market.ledger.advance_time(1)
    assert market.store.kept_answer(market.order, OTHER) is None
    waiting = reserved(market, replace(ONCE, key="still under way"))
    answered(market, OTHER)
    assert state(market) == (3, 1, 2)
    market.ledger.advance_time(60)
    assert (market.store.sweep_answers(), market.store.sweep_answers()) == (1, 0)
    assert state(market) == (3, 1, 1)
    market.store.release(waiting)
    assert state(market) == (2, 0, 0)


def test_of_many_that_come_at_once_one_is_charged(market: LogMarket) -> None:
    def ask(_number: int) -> str:
        try:
            answered(market)
        except Conflict as error:
            return error.code
        return "answered"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(16)))
    assert sorted(set(found)) == ["answered", "idempotency_in_flight"]
    assert found.count("answered") == 1
    assert state(market) == (1, 0, 1)


RESERVING = """
import sys, pathlib
from control_plane.receipts.workers import Worker
from tests.control_plane.receipts.test_kept import ONCE
from tests.fixtures_log import LogMarket
market = LogMarket(pathlib.Path(sys.argv[1]), database_url=sys.argv[2])
market.store._worker = Worker(pathlib.Path(sys.argv[1]) / "workers").name
try:
    reservation = market.begin()
    market.store.reserve(reservation, ONCE)
    print("reserved", flush=True)
except Exception as error:
    print(error.code, flush=True)
sys.stdin.readline()
"""


def child(market: LogMarket, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", RESERVING, str(folder), shown_whole(market.engine)]
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_kill_9_in_mid_call_frees_the_name_with_the_charge(market: LogMarket, tmp_path: Path) -> None:
    with child(market, tmp_path) as first, child(market, tmp_path) as second:
        assert {said(first), said(second)} == {"reserved", "idempotency_in_flight"}
        assert market.store.reap(lambda name: name == WORKER or is_alive(tmp_path / "workers", name)).released == 0
        first.kill()
        second.kill()
    assert refused(lambda: reserved(market)) == "idempotency_in_flight"
    assert state(market) == (1, 1, 1)
    assert market.store.reap(lambda name: is_alive(tmp_path / "workers", name)).released == 1
    assert state(market) == (0, 0, 0)
    answered(market)
    assert state(market) == (1, 0, 1)
