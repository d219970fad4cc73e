"""Reserve, complete, release, reap, readmit: one charge and one receipt a call, whoever is at it and whoever dies."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, update

from control_plane.database import calls, open_database, receipts, sessions
from control_plane.did import ZERO_BYTES32, Bytes32, TransactionHash
from control_plane.errors import BadInput, Conflict, Forbidden, NotFound, Unauthenticated, Unavailable
from control_plane.receipts.receipt import CallStatus, SignedReceipt, receipt_id
from control_plane.receipts.signing import ReceiptSigner, recover_signer
from control_plane.receipts.store import Issued
from control_plane.receipts.workers import is_alive
from tests.fixtures_database import is_postgresql, shown_whole
from tests.fixtures_log import TOKEN, WORKER, LogMarket, market_on_either, open_session

__all__ = ["market_on_either"]

REPOSITORY = Path(__file__).parents[3]
HASH = Bytes32("0x" + "aa" * 32)


def used(market: LogMarket, token: str = TOKEN) -> int:
    with market.engine.connect() as connection:
        return connection.execute(select(sessions.c.calls_used).where(sessions.c.token_hash == token)).scalar_one()


def open_calls(market: LogMarket) -> int:
    with market.engine.connect() as connection:
        return len(connection.execute(select(calls.c.call_id)).all())


def check_chain_of(market: LogMarket, order: TransactionHash | None = None) -> list[Issued]:
    """Every stored receipt of the order verifies, and they chain without a gap."""
    found = list(market.store.receipts_of(order=order or market.order, limit=100_000))
    previous: Bytes32 = ZERO_BYTES32
    for number, issued in enumerate(found):
        receipt = issued.signed.receipt
        assert (receipt.sequence, receipt.previous) == (number, previous)
        assert recover_signer(issued.signed) == market.signer.address
        assert issued.id == receipt_id(issued.signed)
        previous = issued.id
    return found


def test_a_completed_call_is_a_signed_receipt_and_one_charge(market: LogMarket) -> None:
    reservation = market.reserve()
    assert (used(market), open_calls(market)) == (1, 1)
    issued = market.store.complete(reservation, response_hash=HASH, units_in=2, units_out=3)
    receipt = issued.signed.receipt
    assert (used(market), open_calls(market)) == (1, 0)
    assert (receipt.units_in, receipt.units_out, receipt.status) == (2, 3, CallStatus.DONE)
    assert receipt.merge_by == receipt.finished_at + 3_600_000
    assert receipt.started_at <= receipt.finished_at
    assert recover_signer(issued.signed) == market.signer.address
    assert market.store.receipt(issued.id) == issued
    assert market.store.receipt_of_call(reservation.call_id) == issued
    assert Issued.from_json(json.loads(json.dumps(issued.to_json()))) == issued


def test_a_settled_call_is_charged_and_receipted_at_once(market: LogMarket) -> None:
    reservation = market.begin()
    assert (used(market), open_calls(market)) == (0, 0)
    issued = market.store.settle(reservation, response_hash=HASH, units_in=2, units_out=3)
    assert (used(market), open_calls(market)) == (1, 0)
    assert check_chain_of(market) == [issued]
    assert market.store.receipt_of_call(reservation.call_id) == issued


def test_a_call_is_settled_once(market: LogMarket) -> None:
    reservation = market.begin()
    issued = market.store.settle(reservation, response_hash=HASH, units_in=2, units_out=3)
    with pytest.raises(Unavailable):
        market.store.settle(reservation, response_hash=HASH, units_in=2, units_out=3)
    assert used(market) == 1
    assert check_chain_of(market) == [issued]


@pytest.mark.parametrize("is_done", [False, True], ids=["failed", "failed but done"])
def test_a_settling_that_fails_leaves_both_or_neither(market: LogMarket, monkeypatch: pytest.MonkeyPatch, is_done: bool) -> None:
    def commit(connection: Connection) -> None:
        if is_done:
            do_commit(connection)
        raise market.engine.dialect.loaded_dbapi.OperationalError("disk I/O error")

    do_commit = market.engine.dialect.do_commit
    monkeypatch.setattr(market.engine.dialect, "do_commit", commit)
    with pytest.raises(Unavailable, match="could not store a receipt"):
        market.store.settle(market.begin(), response_hash=HASH, units_in=2, units_out=3)
    monkeypatch.undo()
    assert len(check_chain_of(market)) == used(market) == int(is_done)
    market.issue(1)
    assert len(check_chain_of(market)) == used(market) == 1 + int(is_done)


def test_a_call_beyond_the_quota_is_not_settled(market: LogMarket) -> None:
    with market.engine.begin() as connection:
        connection.execute(update(sessions).values(calls_limit=1))
    first, second = market.begin(), market.begin()
    market.store.settle(first, response_hash=HASH, units_in=1, units_out=1)
    with pytest.raises(Forbidden) as caught:
        market.store.settle(second, response_hash=HASH, units_in=1, units_out=1)
    assert caught.value.code == "quota_exhausted"
    assert len(check_chain_of(market)) == used(market) == 1


def test_a_released_call_costs_nothing_and_leaves_no_receipt(market: LogMarket) -> None:
    reservation = market.reserve()
    assert market.store.release(reservation)
    assert not market.store.release(reservation)
    assert (used(market), open_calls(market)) == (0, 0)
    with pytest.raises(Conflict):
        market.store.complete(reservation, response_hash=HASH, units_in=0, units_out=0)
    assert market.store.receipts_of(order=market.order) == ()


def test_a_call_cannot_be_completed_twice(market: LogMarket) -> None:
    reservation = market.reserve()
    first = market.store.complete(reservation, response_hash=HASH, units_in=0, units_out=0)
    with pytest.raises(Conflict):
        market.store.complete(reservation, response_hash=HASH, units_in=0, units_out=0)
    assert market.store.receipts_of(order=market.order) == (first,)
    assert not market.store.release(reservation)
    assert used(market) == 1


def test_a_used_up_session_cannot_call(market: LogMarket) -> None:
    open_session(market.engine, market.did, market.bob.address, market.order, token="c" * 64, limit=2)
    market.reserve(token="c" * 64)
    second = market.reserve(token="c" * 64)
    with pytest.raises(Forbidden, match="2 calls") as caught:
        market.reserve(token="c" * 64)
    assert caught.value.code == "quota_exhausted"
    market.store.release(second)
    market.reserve(token="c" * 64)


@pytest.mark.parametrize("is_reserved", [False, True], ids=["settled", "reserved"])
def test_threads_in_several_sessions_of_one_order_never_pass_its_quota(market: LogMarket, is_reserved: bool) -> None:
    tokens = [str(number) * 64 for number in range(4)]
    for token in tokens:
        open_session(market.engine, market.did, market.bob.address, market.order, token=token, limit=25)

    def call_until_refused(token: str) -> int:
        for made in itertools.count():
            try:
                if is_reserved:
                    market.reserve(token=token)
                else:
                    market.store.settle(market.begin(token=token), response_hash=HASH, units_in=1, units_out=1)
            except Forbidden as error:
                assert error.code == "quota_exhausted"
                return made
        raise AssertionError("unreachable")

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(call_until_refused, tokens * 3)) == 25
    assert sum(used(market, token) for token in tokens) == 25
    assert len(check_chain_of(market)) + open_calls(market) == 25


def test_an_unknown_expired_or_revoked_session_cannot_call(market: LogMarket) -> None:
    open_session(market.engine, market.did, market.bob.address, market.order, token="c" * 64, expires_at=market.ledger.now())
    open_session(market.engine, market.did, market.bob.address, market.order, token="d" * 64)
    with market.engine.begin() as connection:
        connection.execute(update(sessions).where(sessions.c.token_hash == "d" * 64).values(revoked_at=1.0, revoked_why="stolen"))
    for token, code in (("e" * 64, "session_unknown"), ("c" * 64, "session_expired"), ("d" * 64, "session_revoked")):
        with pytest.raises(Unauthenticated) as caught:
            market.reserve(token=token)
        assert caught.value.code == code
    assert open_calls(market) == 0


def test_a_clock_that_is_set_back_does_not_end_a_call_before_it_began(market: LogMarket) -> None:
    reservation = market.reserve()
    market.ledger.advance_time(-1000)
    receipt = market.store.complete(reservation, response_hash=HASH, units_in=0, units_out=0).signed.receipt
    assert receipt.finished_at == receipt.started_at


def test_receipts_are_listed_by_order_and_by_consumer(market: LogMarket) -> None:
    made = market.issue(5)
    assert list(market.store.receipts_of(order=market.order)) == made
    assert list(market.store.receipts_of(consumer=market.bob.address, limit=2)) == made[:2]
    assert list(market.store.receipts_of(order=market.order, from_sequence=3)) == made[3:]
    assert market.store.receipts_of(consumer=market.alice.address) == ()
    assert market.store.standing(market.folder / "log").waiting == 5
    with pytest.raises(BadInput):
        market.store.receipts_of()
    with pytest.raises(NotFound):
        market.store.receipt(HASH)


def test_threads_share_one_order_without_a_gap(market: LogMarket) -> None:
    def one_call(number: int) -> None:
        reservation = market.reserve()
        if number % 5 == 0:
            market.store.release(reservation)
        else:
            market.store.complete(reservation, response_hash=HASH, units_in=1, units_out=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one_call, range(200)))
    assert len(check_chain_of(market)) == 160 == used(market)
    assert open_calls(market) == 0


def test_a_database_that_is_locked_by_another_charges_nothing(market: LogMarket) -> None:
    other = open_database(shown_whole(market.engine))
    lock = "LOCK TABLE sessions" if is_postgresql(market.engine) else "SELECT 1"  # SQLite's is taken by beginning
    with market.engine.connect() as connection:  # the pool hands this connection out again
        connection.exec_driver_sql("SET lock_timeout = 50" if is_postgresql(market.engine) else "PRAGMA busy_timeout=50")
        connection.commit()
    with other.begin() as holding:
        holding.exec_driver_sql(lock)
        with pytest.raises(Unavailable):
            market.reserve()
    other.dispose()
    assert (used(market), open_calls(market)) == (0, 0)
    market.reserve()


# the death of a worker


def test_calls_of_a_dead_worker_are_closed_and_those_of_a_living_one_are_not(market: LogMarket) -> None:
    whole, stream = market.reserve(), market.reserve(is_streaming=True)
    assert market.store.reap(lambda _name: True) == market.store.reap(lambda _name: True)
    assert open_calls(market) == 2
    reaped = market.store.reap(lambda name: name != WORKER)
    assert (reaped.cut, reaped.released) == (1, 1)
    assert (used(market), open_calls(market)) == (1, 0)
    (issued,) = check_chain_of(market)
    receipt = issued.signed.receipt
    assert (receipt.status, receipt.response_hash, receipt.request_hash) == (CallStatus.CUT, ZERO_BYTES32, stream.request_hash)
    for reservation in (whole, stream):
        with pytest.raises(Conflict):
            market.store.complete(reservation, response_hash=HASH, units_in=0, units_out=0)
    assert market.store.reap(lambda _name: False).cut == 0


CALLER = textwrap.dedent(
    """
    import json, pathlib, sys
    from control_plane.database import open_database
    from control_plane.receipts.receipt import request_hash
    from control_plane.receipts.signing import ReceiptSigner
    from control_plane.receipts.store import ReceiptStore
    from control_plane.receipts.workers import Worker

    given = json.loads(sys.argv[1])
    folder = pathlib.Path(given["folder"])
    store = ReceiptStore(
        open_database(given["database"]),
        ReceiptSigner(bytes([9]) * 32, given["chain_id"], given["log"]),
        worker=Worker(folder / "workers").name,
        merge_delay_s=3600,
    )
    number = 0
    while number < given["calls"]:
        salt = store.new_salt()
        reservation = store.begin(
            token_hash=given["token"], did=given["did"], model_digest="0x" + "d1" * 32, consumer=given["consumer"],
            order=given["order"], request_hash=request_hash(salt, b"x"), salt=salt, is_streaming=number % 3 == 0,
        )
        store_it = store.settle
        if reservation.is_streaming:
            store.reserve(reservation)
            store_it = store.complete
        if number % 7 != 3:
            issued = store_it(reservation, response_hash="0x" + "aa" * 32, units_in=1, units_out=1)
            print(issued.id, flush=True)   # what the client has seen
        elif reservation.is_streaming:
            store.release(reservation)
        number += 1
    """
)


def start_caller(market: LogMarket, count: int, out: Path) -> subprocess.Popen[bytes]:
    given = {
        "folder": str(market.folder),
        "database": shown_whole(market.engine),
        "chain_id": market.signer.chain_id,
        "log": market.log_nft,
        "did": market.did,
        "order": market.order,
        "consumer": market.bob.address,
        "token": TOKEN,
        "calls": count,
    }
    with out.open("wb") as stream:
        return subprocess.Popen([sys.executable, "-c", CALLER, json.dumps(given)], cwd=REPOSITORY, stdout=stream)


def test_processes_share_one_order_without_a_gap(market: LogMarket, tmp_path: Path) -> None:
    outs = [tmp_path / f"out-{number}" for number in range(3)]
    processes = [start_caller(market, 70, out) for out in outs]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    seen = [line for out in outs for line in out.read_text().split()]
    assert sorted(seen) == sorted(issued.id for issued in check_chain_of(market))
    assert len(seen) == 180 == used(market)


@pytest.mark.slow
def test_kill_9_in_mid_call_loses_no_receipt_and_no_charge(market: LogMarket, tmp_path: Path) -> None:
    chosen = random.Random(7)  # noqa: S311  # moments to kill at, not secrets
    seen: list[str] = []
    kills = 6 if is_postgresql(market.engine) else 24  # a process takes longer to begin there, and dies the same way
    for number in range(kills):
        out = tmp_path / f"out-{number}"
        process = start_caller(market, 10**9, out)
        try:
            until = time.monotonic() + 20
            while out.stat().st_size == 0 and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(chosen.random() * 0.05)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)
        seen += [line for line in out.read_text().split() if len(line) == 66]
        market.store.reap(lambda name: is_alive(market.folder / "workers", name))
        assert open_calls(market) == 0
        stored = check_chain_of(market)
        assert len(stored) == used(market)  # no double charge, no lost one
        assert set(seen) <= {issued.id for issued in stored}  # every answer a client saw has its receipt
    assert len(seen) > kills


# what a buyer hands back


def test_a_lost_receipt_is_taken_back_and_the_order_goes_on_after_it(market: LogMarket) -> None:
    made = market.issue(3)
    with market.engine.begin() as connection:  # a power cut takes the last two
        connection.execute(receipts.delete().where(receipts.c.sequence >= 1))
    assert market.store.readmit(made[2].signed, made[2].salt) == made[2]
    assert market.store.readmit(made[1].signed, made[1].salt) == made[1]
    assert market.store.readmit(made[1].signed, made[1].salt) == made[1]
    market.issue(1)
    assert len(check_chain_of(market)) == 4
    assert market.log.integrate().size == 4


def test_a_receipt_whose_sequence_is_taken_is_a_conflict(market: LogMarket) -> None:
    (made,) = market.issue(1)
    twin = market.resign(made, units_out=99)
    with pytest.raises(Conflict) as caught:
        market.store.readmit(twin.signed, twin.salt)
    assert caught.value.code == "sequence_taken"
    assert check_chain_of(market) == [made]


def test_a_receipt_that_is_not_ours_is_not_taken_back(market: LogMarket) -> None:
    (made,) = market.issue(1)
    stranger = ReceiptSigner(b"\x11" * 32, market.signer.chain_id, market.log_nft)
    forged: list[SignedReceipt] = [
        stranger.sign(made.signed.receipt),
        replace(made.signed, receipt=replace(made.signed.receipt, sequence=5)),
        replace(made.signed, chain_id=1),
        replace(made.signed, log=market.nft),
        replace(made.signed, signature=b"\x00" * 65),
    ]
    for signed in forged:
        with pytest.raises(BadInput):
            market.store.readmit(signed, made.salt)
    with pytest.raises(BadInput, match="32 bytes"):
        market.store.readmit(made.signed, b"short")


def test_an_envelope_whose_id_is_not_its_own_is_bad_input(market: LogMarket) -> None:
    (made,) = market.issue(1)
    record = made.to_json()
    for change in ({"id": HASH}, {"salt": "0x00"}, {"more": 1}, {"signed": None}, {"signed": {}}):
        with pytest.raises(BadInput):
            Issued.from_json({**record, **change})
    with pytest.raises(BadInput):
        Issued.from_json([])  # type: ignore[arg-type]  # what a stranger may send
