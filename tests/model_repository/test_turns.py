"""Generations take turns, and none can hurt another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tokenizers import Tokenizer, decoders, models

from generate.generation import Piece
from generate.turns import Cancelled, TooBusy, Turns


class Listener:
    """Writes down what it hears."""

    def __init__(self, log: list[tuple[str, str]], name: str, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        self.log, self.name, self.is_cancelled = log, name, is_cancelled
        self.error: BaseException | None = None
        self.is_over = threading.Event()

    def deliver(self, piece: Piece) -> None:
        self.log.append((self.name, piece.text))
        if piece.finish_reason:
            self.is_over.set()

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.is_over.set()


def counting(length: int) -> Iterator[Piece | None]:
    for count in range(1, length + 1):
        yield Piece(str(count), (count,), count, "length" if count == length else "")


@pytest.fixture
def turns() -> Iterator[Turns]:
    made = Turns(most_active=2, most_waiting=3)
    yield made
    made.close()


class Gate:
    """Holds the first step of a generation until it is opened."""

    def __init__(self) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()

    def guard(self, pieces: Iterator[Piece | None]) -> Iterator[Piece | None]:
        self.reached.set()
        assert self.opened.wait(10)
        yield from pieces


def test_a_short_generation_does_not_wait_for_a_long_one(turns: Turns) -> None:
    log: list[tuple[str, str]] = []
    gate, long, short = Gate(), Listener(log, "long"), Listener(log, "short")
    turns.add(gate.guard(counting(500)), long)
    assert gate.reached.wait(10)
    turns.add(counting(3), short)
    gate.opened.set()
    assert short.is_over.wait(10) and long.is_over.wait(10)
    assert log.index(("short", "3")) < 10
    assert [text for name, text in log if name == "long"] == [str(count) for count in range(1, 501)]


def test_a_failing_generation_hurts_no_other(turns: Turns) -> None:
    def failing() -> Iterator[Piece | None]:
        yield None
        raise RuntimeError("broken")

    log: list[tuple[str, str]] = []
    first, second = Listener(log, "failing"), Listener(log, "good")
    turns.add(failing(), first)
    turns.add(counting(5), second)
    assert first.is_over.wait(10) and second.is_over.wait(10)
    assert isinstance(first.error, RuntimeError)
    assert second.error is None
    assert len(log) == 5


def test_a_panic_of_a_library_in_rust_hurts_no_other(turns: Turns) -> None:
    """A real one: this decoder cuts a token of one letter from both sides (tokenizers 0.22). It is no Exception."""
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.decoder = decoders.Strip("x", 1, 1)
    log: list[tuple[str, str]] = []
    failing, good = Listener(log, "failing"), Listener(log, "good")

    def broken() -> Iterator[Piece | None]:
        yield Piece(tokenizer.decode([0]), (0,), 1, "")

    turns.add(broken(), failing)
    turns.add(counting(3), good)
    assert failing.is_over.wait(10) and good.is_over.wait(10)
    assert type(failing.error).__name__ == "PanicException"
    assert [text for name, text in log if name == "good"] == ["1", "2", "3"]


def test_a_cancelled_generation_computes_no_further_token(turns: Turns) -> None:
    computed: list[int] = []

    def watched() -> Iterator[Piece | None]:
        for count in range(1000):
            computed.append(count)
            yield None

    listener = Listener([], "gone", is_cancelled=lambda: len(computed) >= 3)
    turns.add(watched(), listener)
    assert listener.is_over.wait(10)
    assert isinstance(listener.error, Cancelled)
    assert computed == [0, 1, 2]


def test_a_full_queue_refuses_at_once_and_serves_the_rest(turns: Turns) -> None:
    log: list[tuple[str, str]] = []
    gate, first = Gate(), Listener(log, "first")
    turns.add(gate.guard(counting(1)), first)
    assert gate.reached.wait(10)
    waiting = [Listener(log, f"waiting {number}") for number in range(3)]
    for listener in waiting:
        turns.add(counting(1), listener)
    with pytest.raises(TooBusy):
        turns.add(counting(1), Listener(log, "late"))
    gate.opened.set()
    assert all(listener.is_over.wait(10) for listener in (first, *waiting))


def test_closing_fails_what_is_not_finished_and_takes_no_more() -> None:
    turns = Turns(most_active=1, most_waiting=2)

    def endless() -> Iterator[Piece | None]:
        while True:
            time.sleep(0.001)
            yield None

    active, waiting = Listener([], "active"), Listener([], "waiting")
    turns.add(endless(), active)
    turns.add(counting(1), waiting)
    turns.close()
    turns.close()
    assert isinstance(active.error, TooBusy)
    assert isinstance(waiting.error, TooBusy)
    with pytest.raises(TooBusy):
        turns.add(counting(1), Listener([], "late"))


class Deaf(Listener):
    """Its way back is gone: whatever it is told raises."""

    def deliver(self, piece: Piece) -> None:
        super().deliver(piece)
        raise RuntimeError("the response sender has been closed")

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        raise RuntimeError("the response sender has been closed")


def test_whoever_can_be_told_nothing_keeps_nobody_waiting(turns: Turns) -> None:
    log: list[tuple[str, str]] = []
    deaf, other = Deaf(log, "deaf"), Listener(log, "other")
    turns.add(counting(3), deaf)
    turns.add(counting(3), other)
    assert deaf.is_over.wait(10) and other.is_over.wait(10)
    assert isinstance(deaf.error, RuntimeError)
    assert log.count(("deaf", "1")) == 1 and [text for name, text in log if name == "other"] == ["1", "2", "3"]
    assert ("deaf", "2") not in log
