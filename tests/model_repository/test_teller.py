"""What callers are told beside the engine: in order, once, together when that falls behind, and not when they have gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from generate.generation import Piece
from generate.teller import BEAT_S, Answer, Teller

HOLDS_S = 20


class Line:
    """said: texts, with "!" where it ended, "" for a sign of life, or an error. Saying waits while `gate` is closed."""

    def __init__(self) -> None:
        self.said: list[str | BaseException] = []
        self.is_gone, self.fault = False, dict[str, BaseException]()
        self.gate, self.reached = threading.Event(), threading.Semaphore(0)
        self.gate.set()

    def say(self, pieces: Sequence[Piece]) -> None:
        self.reached.release()
        assert self.gate.wait(HOLDS_S)
        text = "".join(piece.text for piece in pieces)
        if text in self.fault:
            raise self.fault[text]
        self.said.append(text + "!" * bool(pieces and pieces[-1].finish_reason))

    def fail(self, error: BaseException) -> None:
        self.said.append(error)

    def is_cut(self) -> bool:
        return self.is_gone


@pytest.fixture
def teller() -> Iterator[Teller]:
    made = Teller()
    yield made
    made.close()


def answer_on(
    line: Line,
    teller: Teller,
    *,
    is_streamed: bool = True,
    has_beats: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    return Answer(line, teller, is_streamed=is_streamed, has_beats=has_beats, clock=clock)


def piece(text: str, finish_reason: str = "") -> Piece:
    return Piece(text, (1,), 1, finish_reason)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(4000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come")


def test_pieces_go_out_in_order_and_together_where_the_line_is_slow(teller: Teller) -> None:
    line = Line()
    answer = answer_on(line, teller)
    line.gate.clear()
    answer.deliver(piece("a"))
    assert line.reached.acquire(timeout=HOLDS_S)
    for text in "bcd":
        answer.deliver(piece(text))
    answer.deliver(piece("e", "stop"))
    line.gate.set()
    teller.close()
    assert line.said == ["a", "bcde!"]


def test_a_slow_line_does_not_hold_up_the_engine_and_holds_others_up_only_as_long_as_it_takes(teller: Teller) -> None:
    slow, other = Line(), Line()
    slow.gate.clear()
    answer_on(slow, teller).deliver(piece("a"))
    assert slow.reached.acquire(timeout=HOLDS_S)
    answer_on(other, teller).deliver(piece("b", "length"))
    assert other.said == []
    slow.gate.set()
    teller.close()
    assert (slow.said, other.said) == (["a"], ["b!"])


def test_what_is_not_streamed_is_one_response_and_signs_of_life_before_it(teller: Teller) -> None:
    line, now = Line(), [0.0]
    answer = answer_on(line, teller, is_streamed=False, has_beats=True, clock=lambda: now[0])
    assert not answer.is_cancelled()
    for text in "ab":
        answer.deliver(piece(text))
        assert not answer.is_cancelled()
    now[0] += BEAT_S
    assert not answer.is_cancelled()
    until(lambda: line.said == [""])
    answer.deliver(piece("c", "length"))
    teller.close()
    assert line.said == ["", "abc!"]


def test_who_has_gone_is_known_before_the_next_token_also_where_the_line_is_slow(teller: Teller) -> None:
    line = Line()
    answer = answer_on(line, teller)
    line.gate.clear()
    answer.deliver(piece("a"))
    assert line.reached.acquire(timeout=HOLDS_S)
    assert not answer.is_cancelled()
    line.is_gone = True
    assert answer.is_cancelled()
    line.gate.set()


def test_a_failure_follows_what_was_said_and_nothing_follows_it(teller: Teller) -> None:
    line, error = Line(), RuntimeError("the model is broken")
    answer = answer_on(line, teller, has_beats=True)
    line.gate.clear()
    answer.deliver(piece("a"))
    assert line.reached.acquire(timeout=HOLDS_S)
    answer.deliver(piece("b"))
    answer.fail(error)
    answer.fail(error)
    line.gate.set()
    teller.close()
    assert line.said == ["a", "b", error]


@pytest.mark.parametrize("last", ["", "stop"])
def test_a_line_that_breaks_ends_its_own_call_and_no_other(teller: Teller, last: str) -> None:
    line, other, broken = Line(), Line(), RuntimeError("no memory to share")
    line.fault["a"] = broken
    answer, beside = answer_on(line, teller), answer_on(other, teller)
    answer.deliver(piece("a", last))
    beside.deliver(piece("b"))
    until(lambda: other.said == ["b"])
    assert line.said == [broken], "it is told, if it can be"
    with pytest.raises(RuntimeError, match="no memory"):
        answer.is_cancelled()
    assert not beside.is_cancelled()


def test_what_was_added_is_told_before_it_closes() -> None:
    line, teller = Line(), Teller()
    answers = [answer_on(line, teller) for _ in range(50)]
    for number, answer in enumerate(answers):
        answer.deliver(piece(str(number), "stop"))
    teller.close()
    teller.close()
    assert line.said == [f"{number}!" for number in range(50)]
