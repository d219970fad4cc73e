"""No nonce of an address is good twice, in however many workers and however it is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, func, select

from control_plane.database import user_nonces
from control_plane.errors import BadInput
from control_plane.provider.nonces import END, UserNonces, parse_nonce, shown_nonce
from tests.fixtures_market import wallet_of

BOB = wallet_of("bob").address


@pytest.fixture
def nonces(open_engine: Callable[[], Engine]) -> UserNonces:
    return UserNonces(open_engine())


def test_an_address_counts_from_one(nonces: UserNonces) -> None:
    assert nonces.last(BOB) == 1
    nonces.use(BOB, 2)
    assert nonces.last(BOB) == 2


def test_asking_for_a_nonce_stores_nothing(nonces: UserNonces) -> None:
    nonces.last(BOB)
    with pytest.raises(BadInput):
        nonces.check(BOB, 1)
    with nonces._engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(user_nonces)).scalar_one() == 0


@pytest.mark.parametrize("again", [1, 6, 7, 6.5])
def test_an_equal_or_lower_nonce_is_refused(nonces: UserNonces, again: float) -> None:
    nonces.use(BOB, 7)
    for ask in (nonces.check, nonces.use):
        with pytest.raises(BadInput, match="a number above 7") as caught:
            ask(BOB, again)
        assert caught.value.code == "nonce_used"
    nonces.use(BOB, 8)


def test_addresses_count_apart(nonces: UserNonces) -> None:
    nonces.use(BOB, 1000)
    nonces.use(wallet_of("carol").address, 5)
    assert (nonces.last(BOB), nonces.last(wallet_of("carol").address)) == (1000, 5)


@pytest.mark.parametrize("has_a_count", [False, True])
def test_of_many_workers_that_use_one_nonce_at_once_one_gets_past(nonces: UserNonces, has_a_count: bool) -> None:
    if has_a_count:
        nonces.use(BOB, 2)

    def use(_: int) -> bool:
        try:
            UserNonces(nonces._engine).use(BOB, 50)
        except BadInput:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(use, range(16))) == 1


@pytest.mark.parametrize(
    ("text", "nonce"), [("2", 2), (2, 2), ("1764300000000", 1764300000000), (str(END - 1), END - 1), ("17.25", 17.25)]
)
def test_a_nonce_is_read_as_clients_write_it(text: object, nonce: float) -> None:
    assert parse_nonce(text) == nonce
    assert shown_nonce(float(nonce)) == nonce


@pytest.mark.parametrize("text", [None, True, "", "-1", "1e9", " 7", "07", "\u0667", "0x7", "nan", [], {}, "1.", 1e30, "9" * 40])
def test_what_is_no_nonce_is_refused(text: object) -> None:
    with pytest.raises(BadInput) as caught:
        parse_nonce(text)
    assert caught.value.code == "nonce_malformed"


@pytest.mark.parametrize("text", [END, str(END), str(2**60), "1764300000000000000"])
def test_a_nonce_that_would_lock_its_account_is_refused_with_the_bound(text: object) -> None:
    with pytest.raises(BadInput, match=r"below 2\*\*53") as caught:
        parse_nonce(text)
    assert caught.value.code == "nonce_too_large"
