"""Calls at once and calls a minute: counted by all workers together, and right again when one is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.did import Address, Bytes32, TransactionHash, did_of
from control_plane.errors import TooMany
from control_plane.serving.byte_locks import lock, open_locks, try_lock, unlock
from control_plane.serving.limits import Allowed, CallLimits
from control_plane.serving.rates import Rates
from control_plane.serving.sessions import Session
from control_plane.serving.slots import Slots

REPOSITORY = Path(__file__).parents[3]
NOW = 1_800_000_000.0


def session(name: str = "a", wallet: str = "b") -> Session:
    address = Address("0x" + wallet * 40)
    return Session(name * 64, address, did_of(address, 1), TransactionHash("0x" + "c" * 64), 1, Bytes32("0x" + "d" * 64), NOW, 9)


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs `script` until it is told to go on by a line, or killed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_byte_is_locked_by_one_handle_at_a_time(tmp_path: Path) -> None:
    one, other = open_locks(tmp_path / "locks"), open_locks(tmp_path / "locks")
    assert try_lock(one, 2**63 - 2)
    assert try_lock(one, 2**63 - 2)
    assert not try_lock(other, 2**63 - 2)
    assert try_lock(other, 7)
    unlock(one, 2**63 - 2)
    waiting = threading.Thread(target=lambda: lock(one, 7))
    waiting.start()
    assert try_lock(other, 2**63 - 2)
    unlock(other, 7)
    waiting.join(10)
    assert not waiting.is_alive()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["alice", "bob"]), st.booleans()), max_size=60), st.integers(1, 5))
def test_an_owner_never_has_more_places_than_allowed_and_is_refused_only_then(
    moves: list[tuple[int, str, bool]], most: int
) -> None:
    with TemporaryDirectory() as folder:
        workers = [Slots(Path(folder) / "slots") for _ in range(3)]
        held: list[tuple[int, str, int]] = []
        for worker, owner, is_taking in moves:
            own = [each for each in held if each[:2] == (worker, owner)]
            if is_taking:
                under_way = sum(name == owner for _, name, _ in held)
                place = workers[worker].take(owner, most)
                assert (place is None) == (under_way == most)
                if place is not None:
                    held.append((worker, owner, place))
            elif own:
                held.remove(own[0])
                workers[worker].give_back(own[0][2])
                workers[worker].give_back(own[0][2])
        assert len({place for _, _, place in held}) == len(held)
        for slots in workers:
            slots.close()


HOLDING = """
import sys, pathlib
from control_plane.serving.slots import Slots
slots = Slots(pathlib.Path(sys.argv[1]))
print(sum(slots.take("alice", 5) is not None for _ in range(int(sys.argv[2]))), flush=True)
sys.stdin.readline()
"""


def test_processes_share_the_places_and_a_killed_one_gives_its_own_back(tmp_path: Path) -> None:
    path = tmp_path / "slots"
    ours = Slots(path)
    assert ours.take("alice", 5) is not None
    with child(HOLDING, path, 3) as first, child(HOLDING, path, 9) as second:
        assert int(said(first)) + int(said(second)) == 4
        assert ours.take("alice", 5) is None
        assert ours.take("bob", 5) is not None
        for process in (first, second):
            process.kill()
            process.wait(10)
        assert [ours.take("alice", 5) is not None for _ in range(5)] == [True] * 4 + [False]
    ours.close()


@settings(max_examples=80)
@given(st.integers(1, 90), st.lists(st.floats(0, 20), max_size=80))
def test_a_bucket_holds_a_minutes_calls_and_fills_evenly(per_minute: int, pauses: list[float]) -> None:
    """Against a bucket that counts its calls, which no two processes could share in one number."""
    now, full = NOW, float(per_minute)
    with TemporaryDirectory() as folder:
        rates = Rates(Path(folder) / "rates", lambda: now)
        for pause in pauses:
            now += pause
            full = min(per_minute, full + pause * per_minute / 60)
            wait = rates.take("alice", per_minute)
            if full > 1 - 1e-4 and not wait:
                full -= 1
            else:
                assert wait == pytest.approx((1 - full) * 60 / per_minute, abs=1e-3)
                now += wait
                full = min(per_minute, full + wait * per_minute / 60) - 1
                assert rates.take("alice", per_minute) == 0
        rates.close()


TAKING = """
import sys, pathlib
from control_plane.serving.rates import Rates
rates = Rates(pathlib.Path(sys.argv[1]), lambda: float(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(sum(rates.take("alice", 500) == 0 for _ in range(600)), flush=True)
"""


def test_processes_that_call_at_the_same_moment_share_one_bucket(tmp_path: Path) -> None:
    path = tmp_path / "rates"
    with child(TAKING, path, NOW) as first, child(TAKING, path, NOW) as second:
        assert (said(first), said(second)) == ("ready", "ready")
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert int(said(first)) + int(said(second)) == 500


def test_a_clock_that_is_set_back_keeps_nobody_waiting_longer_than_a_minute(tmp_path: Path) -> None:
    now = NOW
    rates = Rates(tmp_path / "rates", lambda: now)
    assert [rates.take("alice", 2) for _ in range(2)] == [0, 0]
    now -= 3600
    assert rates.take("alice", 2) == pytest.approx(30)
    now += 30
    assert rates.take("alice", 2) == 0


def test_more_owners_than_a_shelf_has_room_for_are_never_refused_what_is_theirs(tmp_path: Path) -> None:
    rates = Rates(tmp_path / "rates", lambda: NOW)
    assert {rates.take(f"owner {number}", 1) for number in range(20_000)} == {0.0}
    assert rates.take("owner 19999", 1) == pytest.approx(60)


def test_a_session_and_a_buyer_each_have_their_limit(tmp_path: Path) -> None:
    limits = CallLimits(tmp_path, Allowed(2, 3, 0), lambda: NOW)
    first = limits.take(session("a"))
    with limits.take(session("a")):
        with pytest.raises(TooMany, match="2 under way at once in this session") as caught:
            limits.take(session("a"))
        assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "too_many_calls", 1)
        with limits.take(session("e")), pytest.raises(TooMany, match="3 under way at once in all sessions of 0xbbb"):
            limits.take(session("e"))
        with limits.take(session("f", "1")):
            pass
    first.give_back()
    first.give_back()
    for _ in range(3):  # what was refused held nothing
        limits.take(session("e" if _ else "a"))
    limits.close()


def test_too_fast_says_when_and_holds_no_place(tmp_path: Path) -> None:
    now = NOW
    limits = CallLimits(tmp_path, Allowed(1, 1, 7), lambda: now)
    for _ in range(7):
        limits.take(session()).give_back()
    for _ in range(3):
        with pytest.raises(TooMany, match="7 a minute") as caught:
            limits.take(session())
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (429, "too_fast", 9)
    now += 9
    limits.take(session()).give_back()
    limits.close()
