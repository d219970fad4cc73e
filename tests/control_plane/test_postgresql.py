"""PostgreSQL as a market's database: what its connections wait for, who writes alone, and what its death leaves behind."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, insert, select
from sqlalchemy.exc import InternalError

from control_plane.database import SILENT, answering, durably, nonces, open_database, reading, writing
from control_plane.did import Bytes32
from control_plane.errors import BadInput, PosthumanError, Unauthenticated, Unavailable
from control_plane.jobs.store import JobStore
from control_plane.provider.nonces import UserNonces
from control_plane.receipts.evaluations import Evaluations
from control_plane.receipts.store import ReceiptStore
from control_plane.serving.sessions import Sessions
from tests.control_plane.jobs.asking import a_job, anyone
from tests.control_plane.receipts.test_evaluations import signed
from tests.control_plane.receipts.test_receipt_store import check_chain_of, used
from tests.fixtures_database import PostgresServer
from tests.fixtures_log import WORKER, LogMarket
from tests.fixtures_market import Clock, wallet_of
from tests.simulators.cut_line import CutLine

HASH = Bytes32("0x" + "aa" * 32)
BOB = wallet_of("bob").address
Opened = Callable[..., Engine]


@pytest.fixture
def url(postgresql: PostgresServer) -> Iterator[str]:
    postgresql.start()
    with postgresql.database() as made:
        yield made


@pytest.fixture
def opened(url: str) -> Iterator[Opened]:
    """Engines on one database. options: as libpq takes them, in the URL. port: of somebody between."""
    engines: list[Engine] = []

    def one_more(options: str = "", port: int | None = None) -> Engine:
        there = url if port is None else url.replace(f":{url.rsplit(':', 1)[1].split('/')[0]}/", f":{port}/")
        engines.append(open_database(f"{there}?options={options}" if options else there))
        return engines[-1]

    yield one_more
    for engine in engines:
        engine.dispose()


def add_nonce(engine: Engine, nonce: str) -> None:
    with writing(engine) as connection:
        connection.execute(insert(nonces).values(nonce=nonce, expires_at=1.0))


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(nonces.c.nonce)).all())


@pytest.mark.parametrize(
    "wrong", ["mysql://bob:hidden@x/y", "postgresql+pg8000://bob:hidden@x/y", "postgresql+psycopg2://bob:hidden@x/y", "hidden"]
)
def test_another_kind_of_database_is_refused_and_its_password_not_shown(wrong: str) -> None:
    with pytest.raises(BadInput, match="POSTHUMAN_DATABASE_URL") as caught:
        open_database(wrong)
    assert "hidden" not in str(caught.value)


def test_without_its_driver_postgresql_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(BadInput, match=r"\.\[postgresql\]"):
        open_database("postgresql://bob:hidden@127.0.0.1/market")


def test_a_servers_own_defaults_change_nothing(postgresql: PostgresServer, url: str, opened: Opened) -> None:
    database = url.rsplit("/", 1)[1]
    changed = {"default_transaction_isolation": "serializable", "synchronous_commit": "off"}
    try:
        for name, value in changed.items():
            postgresql.ask(f"ALTER DATABASE {database} SET {name} = '{value}'")
        engine = opened()
        shown = "SELECT current_setting('transaction_isolation'), current_setting('synchronous_commit')"
        for asked, expected in (
            (engine, ("read committed", "off")),
            (reading(engine), ("repeatable read", "off")),
            (durably(engine), ("read committed", "on")),
            (engine, ("read committed", "off")),
        ):
            with asked.begin() as connection:
                assert tuple(connection.exec_driver_sql(shown).one()) == expected
    finally:
        postgresql.ask(f"ALTER DATABASE {database} RESET ALL")


def test_who_reads_sees_one_moment_and_cannot_write(opened: Opened) -> None:
    engine = opened()
    with reading(engine).connect() as connection:
        assert connection.execute(select(nonces)).all() == []
        add_nonce(engine, "meanwhile")
        assert connection.execute(select(nonces)).all() == []
        with pytest.raises(InternalError, match="read-only"):
            connection.execute(insert(nonces).values(nonce="other", expires_at=1.0))
    assert count(engine) == 1


def test_transactions_of_one_name_take_turns_and_others_do_not_wait(opened: Opened) -> None:
    engine, entered, may_end = opened("-c lock_timeout=200"), threading.Event(), threading.Event()

    def hold() -> None:
        with writing(engine, alone="one"):
            entered.set()
            may_end.wait(10)

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(hold)
        try:
            assert entered.wait(10)
            with writing(engine, alone="other"):
                pass
            with pytest.raises(Unavailable, match="LockNotAvailable"), answering("wait"), writing(engine, alone="one"):
                pass
        finally:
            may_end.set()
        held.result(10)
    with writing(engine, alone="one"):
        pass


def test_a_process_that_stands_still_in_its_turn_loses_it(opened: Opened) -> None:
    engine = opened("-c idle_in_transaction_session_timeout=300")
    with pytest.raises(Unavailable), answering("go on"), writing(engine, alone="one") as connection:
        connection.execute(insert(nonces).values(nonce="lost", expires_at=1.0))
        began = time.monotonic()
        with writing(opened(), alone="one"):
            assert time.monotonic() - began < 10
        connection.execute(select(nonces))
    assert count(engine) == 0


def test_the_password_is_in_no_error(opened: Opened, url: str) -> None:
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(SILENT) as caught, opened(port=1).connect():
        pass
    assert password not in f"{caught.value} {caught.value!r}"


# the server's death


def settle(market: LogMarket) -> str:
    return market.store.settle(market.begin(), response_hash=HASH, units_in=1, units_out=1).id


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_ends_amid_calls_loses_nothing_that_was_answered(
    postgresql: PostgresServer, url: str, tmp_path: Path, how: signal.Signals
) -> None:
    market = LogMarket(tmp_path, database_url=url)
    seen: list[str] = []
    failures: list[PosthumanError] = []
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            try:
                seen.append(settle(market))
            except PosthumanError as error:
                failures.append(error)
                time.sleep(0.02)

    try:
        with ThreadPoolExecutor(6) as threads:
            calling = [threads.submit(call) for _ in range(6)]
            try:
                wait_until(lambda: len(seen) > 20)
                postgresql.end(how)
                known, unavailable = len(seen), len(failures)
                wait_until(lambda: len(failures) > unavailable + 6)
                assert len(seen) <= known + 6
                postgresql.start()
                wait_until(lambda: len(seen) > known + 20)
            finally:
                is_over.set()
            for each in calling:
                each.result(30)
        assert {type(error) for error in failures} == {Unavailable}
        stored = check_chain_of(market)
        assert len(stored) == used(market)
        assert set(seen) <= {issued.id for issued in stored}
        assert len(set(seen)) == len(seen)
    finally:
        postgresql.start()
        market.engine.dispose()


def wait_until(is_so: Callable[[], bool], within_s: float = 30) -> None:
    until = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_after_a_restart_the_first_question_is_answered(postgresql: PostgresServer, opened: Opened) -> None:
    """Connections that were open before are found dead before anything is asked through them."""
    engine = opened()
    add_nonce(engine, "before")
    postgresql.end(signal.SIGKILL)
    with pytest.raises(Unavailable), answering("read"):
        count(engine)
    postgresql.start()
    assert count(engine) == 1
    add_nonce(engine, "after")


# a commit whose answer is lost


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_line_cut_in_a_commit_leaves_all_or_nothing_and_can_be_gone_on_with(
    postgresql: PostgresServer, url: str, opened: Opened, tmp_path: Path, when: str
) -> None:
    clock, is_done = Clock(1_700_000_000.0), when == "after"
    market = LogMarket(tmp_path, database_url=url)
    with CutLine(postgresql.port) as line:
        engine = opened(port=line.port)
        store = ReceiptStore(engine, market.signer, worker=WORKER, merge_delay_s=3600, clock=market.chain.now)
        jobs, users, tokens = JobStore(engine, clock), UserNonces(engine), Sessions(engine, b"k" * 32, clock)
        evaluations, asked, nonce = Evaluations(engine, clock), a_job(), tokens.issue_nonce().nonce

        def cut(act: Callable[[], object]) -> None:
            line.cut(when)
            with pytest.raises(Unavailable), answering("do it"):
                act()

        cut(lambda: store.settle(market.begin(), response_hash=HASH, units_in=1, units_out=1))
        wait_until(lambda: used(market) == int(is_done) or not is_done)
        assert len(check_chain_of(market)) == used(market) == int(is_done)
        store.settle(market.begin(), response_hash=HASH, units_in=1, units_out=1)
        assert len(check_chain_of(market)) == used(market) == 1 + int(is_done)

        cut(lambda: jobs.add(asked, anyone))
        wait_until(lambda: len(jobs.of_payment(asked.payment)) == int(is_done) or not is_done)
        job = jobs.add(asked, anyone)
        assert jobs.of_payment(asked.payment) == (job,)
        cut(lambda: jobs.claim(WORKER))
        claimed = jobs.claim(WORKER)
        assert claimed is not None and (claimed.job_id, claimed.attempts) == (job.job_id, 1)

        users.use(BOB, 2)
        cut(lambda: users.use(BOB, 50))
        wait_until(lambda: users.last(BOB) == 50 or not is_done)
        assert may(lambda: users.use(BOB, 50), BadInput) is not is_done
        cut(lambda: tokens.use_nonce(nonce))
        wait_until(lambda: count(engine) == 1 or not is_done)
        assert may(lambda: tokens.use_nonce(nonce), Unauthenticated) is not is_done

        cut(lambda: evaluations.publish(signed()))
        evaluations.publish(signed())
        assert len(evaluations.of_asset(signed().evaluation.did, 10)) == 1
        assert line.cuts == 6
    market.engine.dispose()


def may(act: Callable[[], object], refusal: type[PosthumanError]) -> bool:
    try:
        act()
    except refusal:
        return False
    return True


# many at once, through everything


def test_nobody_waits_in_a_circle_whoever_cleans_up_beside_whom(postgresql: PostgresServer, url: str, opened: Opened) -> None:
    """Sign-ins that remove thousands of old nonces at the same moment, in several processes' connections."""
    engines = [opened() for _ in range(4)]
    clock = Clock(1_700_000_000.0)
    store = Sessions(engines[0], b"k" * 32, clock)
    with writing(engines[0]) as connection:
        connection.execute(insert(nonces), [{"nonce": f"{number:064x}", "expires_at": 1.0 + number % 7} for number in range(3000)])

    def sign_in(number: int) -> None:
        Sessions(engines[number % 4], b"k" * 32, clock).use_nonce(store.issue_nonce().nonce)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(sign_in, range(40)))
    assert count(engines[0]) == 40
    assert postgresql.ask("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()", url.rsplit("/", 1)[1]) == [
        (0,)
    ]
