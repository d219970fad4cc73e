"""Nonces are good once, sessions are known by a hash, and what one worker ends another one sees."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from control_plane.database import sessions
from control_plane.did import Address, Bytes32, Did, TransactionHash
from control_plane.errors import Unauthenticated
from control_plane.serving.nonces import NONCE_TTL_S
from control_plane.serving.sessions import Session, Sessions
from tests.fixtures_market import Clock

WALLET, DID = Address("0x" + "a" * 40), Did("did:op:" + "b" * 64)
ORDER, OTHER_ORDER = TransactionHash("0x" + "c" * 64), TransactionHash("0x" + "d" * 64)
BLOCK = Bytes32("0x" + "e" * 64)
KEY = b"k" * 32


def opened(store: Sessions, order: TransactionHash = ORDER) -> tuple[str, Session]:
    return store.open(WALLET, DID, order, 7, BLOCK, 1_700_001_000.0, 10)


def test_a_nonce_is_good_once(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    nonce = store.issue_nonce().nonce
    store.check_nonce(nonce)
    store.use_nonce(nonce)
    for again in (store.use_nonce, store.check_nonce):
        with pytest.raises(Unauthenticated) as caught:
            again(nonce)
        assert caught.value.code == "nonce_used"


def test_a_nonce_that_is_too_old_or_was_never_given_out_is_told_so(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    nonce = store.issue_nonce()
    assert nonce.expires_at == clock.now + NONCE_TTL_S
    clock.now += NONCE_TTL_S + 1
    for code, text in (("nonce_expired", nonce.nonce), ("nonce_unknown", "f" * 32)):
        for use in (store.use_nonce, store.check_nonce):
            with pytest.raises(Unauthenticated) as caught:
                use(text)
            assert caught.value.code == code


def test_of_many_threads_that_use_one_nonce_one_succeeds(engine: Engine, clock: Clock) -> None:
    nonce = Sessions(engine, KEY, clock).issue_nonce().nonce
    outcomes: list[str] = []

    def use() -> None:
        try:
            Sessions(engine, KEY, clock).use_nonce(nonce)
            outcomes.append("used")
        except Unauthenticated as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["nonce_used"] * 7 + ["used"]


def test_a_token_opens_its_session_in_every_worker(engine: Engine, clock: Clock) -> None:
    token, session = opened(Sessions(engine, KEY, clock))
    assert token.startswith("ph_")
    assert len(token) == 46
    assert Sessions(engine, KEY, clock).find(token) == session


def test_the_database_holds_no_token(engine: Engine, clock: Clock, tmp_path: Path) -> None:
    token, session = opened(Sessions(engine, KEY, clock))
    with engine.connect() as connection:
        row = connection.execute(select(sessions)).one()
    assert row.token_hash == session.token_hash
    assert token not in str(row)
    assert not any(token.encode() in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "token", ["", "ph_", "ph_" + "a" * 42, "ph_" + "a" * 44, "xx_" + "a" * 43, "ph_" + "ä" * 43, "ph_" + "a" * 43]
)
def test_what_is_no_token_of_ours_opens_nothing(engine: Engine, clock: Clock, token: str) -> None:
    opened(Sessions(engine, KEY, clock))
    assert Sessions(engine, KEY, clock).find(token) is None


def test_a_revoked_session_says_so_at_once_here_and_soon_elsewhere(engine: Engine, clock: Clock) -> None:
    here, elsewhere, remembering = (
        Sessions(engine, KEY, clock),
        Sessions(engine, KEY, clock, cache_ttl_s=0.0),
        Sessions(engine, KEY, clock, cache_ttl_s=60.0),
    )
    token, session = opened(here)
    for store in (here, elsewhere, remembering):
        found = store.find(token)
        assert found is not None
        assert found.revoked_at is None
    assert here.revoke(session.token_hash, "by its owner")
    for store, is_seen in ((here, True), (elsewhere, True), (remembering, False)):
        found = store.find(token)
        assert found is not None
        assert (found.revoked_at is not None) is is_seen


def test_revoking_again_keeps_the_first_reason(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    token, session = opened(store)
    assert store.revoke(session.token_hash, "first")
    assert store.revoke(session.token_hash, "second")
    found = store.find(token)
    assert found is not None
    assert found.revoked_why == "first"
    assert not store.revoke("0" * 64, "nobody's")


def test_an_order_that_the_chain_undid_ends_all_its_sessions_and_no_other(engine: Engine, clock: Clock) -> None:
    store = Sessions(engine, KEY, clock)
    mine = [opened(store)[0] for _ in range(3)]
    other = opened(store, OTHER_ORDER)[0]
    assert store.revoke_order(ORDER, "reorganised") == 3
    for token in mine:
        found = store.find(token)
        assert found is not None
        assert found.revoked_why == "reorganised"
    kept = store.find(other)
    assert kept is not None
    assert kept.revoked_at is None
