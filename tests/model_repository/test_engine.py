"""Generations run together, and none can hurt another."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from generate.engine import Engine
from generate.generation import Generation, Piece
from generate.listener import Cancelled, TooBusy
from tests.model_repository.calls import call_of, scored_call

SCORES = np.zeros(4, np.float32)


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


class Counting:
    """A generation that needs no model: its text is the number of its token."""

    def __init__(self, length: int, prompt: int = 1, decode: Callable[[int], str] = str) -> None:
        self.call = call_of([0] * prompt)
        self.length, self.count, self.token, self.is_finished, self.decode = length, 0, 0, False, decode

    def take(self, logits: np.ndarray) -> Piece | None:
        self.count += 1
        self.is_finished = self.count == self.length
        return Piece(self.decode(self.count), (self.count,), self.count, "length" if self.is_finished else "")


def counting(length: int, prompt: int = 1, decode: Callable[[int], str] = str) -> Generation:
    return cast(Generation, Counting(length, prompt, decode))


class Places:
    """Rows that write down what they were asked. A prompt is read in parts of 32 tokens."""

    def __init__(self, most: int = 2, together: int = 2) -> None:
        self.most, self.most_together = most, together
        self.left: dict[int, int] = {}
        self.asked: list[tuple[str, Any]] = []
        self.before: Callable[[str], None] = lambda what: None
        self._number = 0

    def has_place(self, call: Any) -> bool:
        return len(self.left) < self.most

    def enter(self, call: Any) -> int:
        self.before("enter")
        self._number += 1
        self.left[self._number] = len(call.prompt)
        return self._number

    def begin(self, place: int) -> np.ndarray | None:
        self.before("begin")
        self.asked.append(("begin", place))
        self.left[place] -= 32
        return None if self.left[place] > 0 else SCORES

    def step(self, places: Sequence[int], tokens: Sequence[int]) -> Sequence[np.ndarray]:
        self.before("step")
        assert len(places) <= self.most_together and set(places) <= self.left.keys()
        self.asked.append(("step", tuple(places)))
        return [SCORES for _ in places]

    def leave(self, place: int) -> None:
        del self.left[place]


@pytest.fixture
def places() -> Places:
    return Places()


@pytest.fixture
def engine(places: Places) -> Iterator[Engine]:
    made = Engine(places, most_waiting=3)
    yield made
    made.close()


class Gate:
    """Holds the rows at their first task until it is opened."""

    def __init__(self, places: Places) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        places.before = self.hold

    def hold(self, what: str) -> None:
        self.reached.set()
        assert self.opened.wait(10)


def held(engine: Engine, places: Places, first: Generation, listener: Listener, caller: str = "") -> Gate:
    """`first` has come, and waits at its first task until the gate is opened: what comes now comes beside it."""
    gate = Gate(places)
    engine.add(first, listener, caller)
    assert gate.reached.wait(10)
    return gate


def test_a_short_generation_does_not_wait_for_a_long_one(engine: Engine, places: Places) -> None:
    log: list[tuple[str, str]] = []
    long, short = Listener(log, "long"), Listener(log, "short")
    gate = held(engine, places, counting(500), long)
    engine.add(counting(3), short)
    gate.opened.set()
    assert short.is_over.wait(10) and long.is_over.wait(10)
    assert log.index(("short", "3")) < 10
    assert [text for name, text in log if name == "long"] == [str(count) for count in range(1, 501)]
    assert places.left == {}


def test_calls_share_a_step_and_one_that_comes_joins_between_two(engine: Engine, places: Places) -> None:
    log: list[tuple[str, str]] = []
    first, second = Listener(log, "first"), Listener(log, "second")
    gate = held(engine, places, counting(9), first)
    engine.add(counting(4), second)
    gate.opened.set()
    assert first.is_over.wait(10) and second.is_over.wait(10)
    steps = [asked for what, asked in places.asked if what == "step"]
    assert steps.count((1, 2)) == 3 and steps[-1] == (1,) and len(steps) == 8


def test_a_long_prompt_is_read_in_parts_while_others_get_their_tokens(engine: Engine, places: Places) -> None:
    log: list[tuple[str, str]] = []
    answering, reading = Listener(log, "answering"), Listener(log, "reading")
    gate = held(engine, places, counting(40), answering)
    engine.add(counting(1, prompt=320), reading)
    gate.opened.set()
    assert reading.is_over.wait(10) and answering.is_over.wait(10)
    parts = [number for number, asked in enumerate(places.asked) if asked == ("begin", 2)]
    assert len(parts) == 10
    between = [places.asked[one + 1 : other] for one, other in itertools.pairwise(parts)]
    assert between == [[("step", (1,))]] * 9


def test_callers_enter_in_turns(places: Places) -> None:
    log: list[tuple[str, str]] = []
    places.most = 1
    engine = Engine(places, most_waiting=8)
    gate = held(engine, places, counting(1), Listener(log, "first"), "greedy")
    rest = {name: Listener(log, name) for name in ("greedy 1", "greedy 2", "modest")}
    for name, listener in rest.items():
        engine.add(counting(1), listener, name.split()[0])
    gate.opened.set()
    assert all(listener.is_over.wait(10) for listener in rest.values())
    assert [name for name, _ in log] == ["first", "greedy 1", "modest", "greedy 2"]
    engine.close()


def test_a_failing_generation_hurts_no_other(engine: Engine, places: Places) -> None:
    def failing(count: int) -> str:
        if count == 2:
            raise RuntimeError("broken")
        return str(count)

    log: list[tuple[str, str]] = []
    first, second = Listener(log, "failing"), Listener(log, "good")
    engine.add(counting(5, decode=failing), first)
    engine.add(counting(5), second)
    assert first.is_over.wait(10) and second.is_over.wait(10)
    assert isinstance(first.error, RuntimeError)
    assert second.error is None
    assert len(log) == 6
    assert places.left == {}


@pytest.mark.parametrize("what", ["enter", "begin", "step"])
def test_a_model_that_fails_once_serves_the_next_call(engine: Engine, places: Places, what: str) -> None:
    def fail(asked: str) -> None:
        if asked == what:
            raise MemoryError("no room")

    places.before = fail
    first, second = Listener([], "first"), Listener([], "second")
    engine.add(counting(3), first)
    assert first.is_over.wait(10)
    assert isinstance(first.error, MemoryError)
    places.before = lambda asked: None
    engine.add(counting(3), second)
    assert second.is_over.wait(10)
    assert second.error is None
    assert places.left == {}


def test_a_panic_of_a_library_in_rust_hurts_no_other(engine: Engine) -> None:
    """A real one: this decoder cuts a token of one letter from both sides (tokenizers 0.22). It is no Exception."""
    tokenizer = Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))
    tokenizer.decoder = decoders.Strip("x", 1, 1)
    log: list[tuple[str, str]] = []
    failing, good = Listener(log, "failing"), Listener(log, "good")
    engine.add(counting(2, decode=lambda count: str(tokenizer.decode([0]))), failing)
    engine.add(counting(3), good)
    assert failing.is_over.wait(10) and good.is_over.wait(10)
    assert type(failing.error).__name__ == "PanicException"
    assert [text for name, text in log if name == "good"] == ["1", "2", "3"]


def test_a_cancelled_generation_computes_no_further_token(engine: Engine, places: Places) -> None:
    generation = Counting(1000)
    listener = Listener([], "gone", is_cancelled=lambda: generation.count >= 3)
    engine.add(cast(Generation, generation), listener)
    assert listener.is_over.wait(10)
    assert isinstance(listener.error, Cancelled)
    assert generation.count == 3
    assert places.left == {}


def test_a_full_queue_refuses_at_once_and_serves_the_rest(engine: Engine, places: Places) -> None:
    log: list[tuple[str, str]] = []
    first = Listener(log, "first")
    gate = held(engine, places, counting(1), first)
    waiting = [Listener(log, f"waiting {number}") for number in range(3)]
    for listener in waiting:
        engine.add(counting(1), listener)
    with pytest.raises(TooBusy):
        engine.add(counting(1), Listener(log, "late"))
    gate.opened.set()
    assert all(listener.is_over.wait(10) for listener in (first, *waiting))


def test_one_caller_cannot_fill_the_queue(engine: Engine, places: Places) -> None:
    log: list[tuple[str, str]] = []
    first = Listener(log, "first")
    gate = held(engine, places, counting(1), first)
    own, other = Listener(log, "own"), Listener(log, "other")
    engine.add(counting(1), own, "greedy")
    with pytest.raises(TooBusy, match="1 of your calls"):
        engine.add(counting(1), Listener(log, "late"), "greedy")
    engine.add(counting(1), other, "modest")
    gate.opened.set()
    assert all(listener.is_over.wait(10) for listener in (first, own, other))


def test_who_has_waited_too_long_is_told_so_and_nothing_of_it_is_computed() -> None:
    now, places, log = [100.0], Places(most=1), list[tuple[str, str]]()
    engine = Engine(places, most_waiting=9, clock=lambda: now[0])
    first = Listener(log, "first")
    gate = held(engine, places, counting(3), first)
    patient, late, later, last = (Listener(log, name) for name in ("patient", "late", "later", "last"))
    engine.add(counting(1), late, "a", 5.0)
    engine.add(counting(1), patient, "a")
    engine.add(counting(1), later, "b", 4.0)
    now[0] = 104.0
    engine.add(counting(1), last, "b", 1.5)
    now[0] = 105.0
    gate.opened.set()
    assert all(listener.is_over.wait(10) for listener in (first, patient, late, later, last))
    assert [isinstance(listener.error, TooBusy) for listener in (first, patient, late, later, last)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert {name for name, _ in log} == {"first", "patient", "last"}
    assert sum(what == "begin" for what, _ in places.asked) == 3
    assert (engine.counts().refused, engine.counts().failed) == (2, 0)
    engine.close()


def test_closing_fails_what_is_not_finished_and_takes_no_more() -> None:
    places = Places(most=1)
    places.before = lambda what: time.sleep(0.001)
    engine = Engine(places, most_waiting=2)
    active, waiting = Listener([], "active"), Listener([], "waiting")
    engine.add(counting(1 << 30), active)
    engine.add(counting(1), waiting)
    engine.close()
    engine.close()
    assert isinstance(active.error, TooBusy)
    assert isinstance(waiting.error, TooBusy)
    with pytest.raises(TooBusy):
        engine.add(counting(1), Listener([], "late"))


class Scored(Counting):
    """A text that is scored: it takes what each part gives, and tells once."""

    def __init__(self, prompt: int, broken_at: int = -1) -> None:
        super().__init__(length=-(-prompt // 32), prompt=prompt)
        self.call = scored_call([0] * prompt)
        self.broken_at = broken_at

    def take(self, logits: np.ndarray) -> Piece | None:
        if self.count == self.broken_at:
            raise ValueError("a score that is no number")
        piece = super().take(logits)
        return piece if self.is_finished else None


class Scoring(Places):
    """As rows of a text that is scored: every part gives its scores."""

    def begin(self, place: int) -> np.ndarray | None:
        logits = super().begin(place)
        return np.zeros((32, 4), np.float32) if logits is None else logits


def test_a_long_text_is_scored_in_parts_while_others_get_their_tokens_and_it_gets_none() -> None:
    places, log = Scoring(), list[tuple[str, str]]()
    engine = Engine(places, most_waiting=3)
    answering, reading = Listener(log, "answering"), Listener(log, "reading")
    gate = held(engine, places, counting(40), answering)
    engine.add(cast(Generation, Scored(320)), reading)
    gate.opened.set()
    assert reading.is_over.wait(10) and answering.is_over.wait(10)
    parts = [number for number, asked in enumerate(places.asked) if asked == ("begin", 2)]
    between = [places.asked[one + 1 : other] for one, other in itertools.pairwise(parts)]
    assert between == [[("step", (1,))]] * 9
    assert all(asked == (1,) for what, asked in places.asked if what == "step"), "a text that is scored is stepped"
    assert [text for name, text in log if name == "reading"] == ["10"]
    counts = engine.counts()
    assert (counts.prompt_tokens, counts.tokens, counts.running) == (1 + 320, 40, 0)
    engine.close()
    assert places.left == {}


def test_a_text_whose_scores_are_broken_or_whose_caller_goes_leaves_its_place_and_hurts_no_other() -> None:
    places, log = Scoring(most=3), list[tuple[str, str]]()
    engine = Engine(places, most_waiting=4)
    broken, other, gone = Listener(log, "broken"), Listener(log, "other"), Listener(log, "gone")
    gone.is_cancelled = lambda: any(asked[0] == "step" for asked in places.asked)
    gate = held(engine, places, counting(9), other)
    engine.add(cast(Generation, Scored(96, broken_at=1)), broken)
    engine.add(cast(Generation, Scored(3200)), gone)
    gate.opened.set()
    assert all(listener.is_over.wait(10) for listener in (broken, other, gone))
    assert isinstance(broken.error, ValueError) and isinstance(gone.error, Cancelled)
    assert [text for name, text in log if name == "other"] == [str(count) for count in range(1, 10)]
    engine.close()
    assert places.left == {}


class Deaf(Listener):
    """Its way back is gone: whatever it is told raises."""

    def deliver(self, piece: Piece) -> None:
        super().deliver(piece)
        raise RuntimeError("the response sender has been closed")

    def fail(self, error: BaseException) -> None:
        super().fail(error)
        raise RuntimeError("the response sender has been closed")


def test_whoever_can_be_told_nothing_keeps_nobody_waiting(engine: Engine) -> None:
    log: list[tuple[str, str]] = []
    deaf, other = Deaf(log, "deaf"), Listener(log, "other")
    engine.add(counting(3), deaf)
    engine.add(counting(3), other)
    assert deaf.is_over.wait(10) and other.is_over.wait(10)
    assert isinstance(deaf.error, RuntimeError)
    assert log.count(("deaf", "1")) == 1 and [text for name, text in log if name == "other"] == ["1", "2", "3"]
    assert ("deaf", "2") not in log
