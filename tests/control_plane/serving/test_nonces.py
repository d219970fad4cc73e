"""Asking for nonces costs the market nothing; using one is decided by one row that only the first can write."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, func, inspect, select

from control_plane.database import nonces
from control_plane.errors import BadInput, Unauthenticated
from control_plane.serving.nonces import NONCE_TTL_S, make_nonce, open_nonce_key, read_nonce
from control_plane.serving.sessions import NONCE_KEPT_S, Sessions
from tests.fixtures_database import is_postgresql
from tests.fixtures_market import Clock, Market, market

__all__ = ["market"]

KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def rows(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(nonces)).scalar_one()


def refused(store: Sessions, nonce: str) -> str:
    codes = set()
    for use in (store.check_nonce, store.use_nonce):
        with pytest.raises(Unauthenticated) as caught:
            use(nonce)
        codes.add(caught.value.code)
    (code,) = codes
    return code


def test_strangers_who_ask_for_nonces_touch_no_database(market: Market) -> None:
    said: list[str] = []
    event.listen(market.engine, "before_cursor_execute", lambda *given: said.append(given[2]))
    given = {market.nonce() for _ in range(50)}
    assert len(given) == 50
    assert said == []
    assert rows(market.engine) == 0


def test_a_nonce_is_what_eip_4361_wants_and_repeats_for_the_same_arguments_alone() -> None:
    first = make_nonce(KEY, 1_700_000_000.9, b"r" * 12)
    assert first == make_nonce(KEY, 1_700_000_000.0, b"r" * 12)
    assert first.nonce.isalnum()
    assert 8 <= len(first.nonce) <= 64
    assert first.expires_at == 1_700_000_000 + NONCE_TTL_S
    others = (
        make_nonce(OTHER_KEY, 1_700_000_000, b"r" * 12),
        make_nonce(KEY, 1_700_000_001, b"r" * 12),
        make_nonce(KEY, 1, b"s" * 12),
    )
    assert len({first.nonce, *(other.nonce for other in others)}) == 4


def test_a_nonce_changed_in_any_place_is_unknown(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    good = store.issue_nonce().nonce
    for place in range(len(good)):
        changed = good[:place] + ("0" if good[place] != "0" else "1") + good[place + 1 :]
        assert read_nonce(KEY, changed) is None
    for text in (good.upper(), good + "0", good[:-1], "", " " + good[1:], good.replace(good[0], "٣"), "f" * 64, "z" * 64):
        if text != good:
            assert refused(store, text) == "nonce_unknown"
    assert refused(Sessions(engine, OTHER_KEY, clock), good) == "nonce_unknown"
    assert rows(engine) == 0
    store.use_nonce(good)


def test_only_a_used_nonce_is_stored_and_only_until_it_would_be_too_old(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    first, unused = store.issue_nonce().nonce, store.issue_nonce().nonce
    store.check_nonce(first)
    assert rows(engine) == 0
    store.use_nonce(first)
    assert rows(engine) == 1
    assert refused(store, first) == "nonce_used"
    clock.now += NONCE_TTL_S
    store.use_nonce(unused)
    clock.now += 1
    assert refused(store, first) == refused(store, unused) == "nonce_expired"
    assert rows(engine) == 2
    clock.now += NONCE_KEPT_S
    last = store.issue_nonce().nonce
    store.use_nonce(last)
    assert rows(engine) == 1
    assert refused(store, last) == "nonce_used"
    assert refused(store, first) == "nonce_expired"


def test_a_clock_set_back_makes_no_used_nonce_good_again(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    used = store.issue_nonce().nonce
    store.use_nonce(used)
    clock.now += NONCE_TTL_S + 1
    store.use_nonce(store.issue_nonce().nonce)
    clock.now -= NONCE_TTL_S
    assert refused(store, used) == "nonce_used"


def test_old_rows_are_found_by_an_index(engine: Engine, clock: Clock) -> None:
    assert [index["column_names"] for index in inspect(engine).get_indexes("nonces")] == [["expires_at"]]
    explain, scan = ("EXPLAIN ", "Seq Scan") if is_postgresql(engine) else ("EXPLAIN QUERY PLAN ", "SCAN")
    with engine.connect() as connection:
        if is_postgresql(engine):  # a table without rows is read whole there, since nothing is quicker
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        for question in ("DELETE FROM nonces WHERE expires_at < 1.0", "SELECT nonce FROM nonces WHERE nonce = 'x'"):
            plan = str(connection.exec_driver_sql(explain + question).all())
            assert scan not in plan, plan


def test_of_many_workers_that_use_one_nonce_one_succeeds(open_engine: Callable[[], Engine], clock: Clock) -> None:
    engines = [open_engine() for _ in range(6)]
    nonce = Sessions(engines[0], KEY, clock).issue_nonce().nonce
    start = threading.Barrier(len(engines))

    def use(engine: Engine) -> str:
        start.wait()
        try:
            Sessions(engine, KEY, clock).use_nonce(nonce)
        except Unauthenticated as error:
            return error.code
        return "used"

    with ThreadPoolExecutor(len(engines)) as pool:
        assert sorted(pool.map(use, engines)) == ["nonce_used"] * 5 + ["used"]


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "nonce.key"
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(open_nonce_key, [path] * 8))) == 1
    assert len(open_nonce_key(path)) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["nonce.key"]
    path.chmod(0o640)
    with pytest.raises(BadInput, match="chmod 600"):
        open_nonce_key(path)


@pytest.mark.parametrize("content", ["", "00", "zz" * 32, "00" * 33])
def test_a_file_that_holds_no_key_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "nonce.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(BadInput, match="not shown"):
        open_nonce_key(path)
