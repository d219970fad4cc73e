"""Counting happens beside this process: it never waits for a tokenizer to open, and what dies there is begun again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from control_plane.errors import Unavailable
from control_plane.serving import token_counter
from control_plane.serving.token_counter import TokenCounters
from control_plane.settings import REPOSITORY


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A token a word."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.enable_truncation(3)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def counters() -> Iterator[TokenCounters]:
    made = TokenCounters(most=2)
    yield made
    made.close()


def children() -> set[int]:
    """Processes that this one has begun and that are not over."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_tokens_are_counted_and_never_cut(counters: TokenCounters, words: Path) -> None:
    assert counters.count("a", words, "one two üñï 🙂 five".encode(), has_special=True) == 5
    assert counters.count("a", words, b"", has_special=False) == 0
    assert counters.count("a", words, b"word " * 200_000, has_special=False) == 200_000


def test_one_process_a_tokenizer_and_the_ones_asked_last_are_kept(counters: TokenCounters, words: Path) -> None:
    before = children()
    for name in ("a", "b", "a", "c", "a", "a"):
        assert counters.count(name, words, b"x y", has_special=False) == 2
        assert len(children() - before) <= 2
    kept = children() - before
    assert counters.count("c", words, b"x", has_special=False) == counters.count("a", words, b"x", has_special=False) == 1
    assert children() - before == kept
    counters.close()
    counters.close()
    assert children() == before
    assert counters.count("a", words, b"x", has_special=False) == 1


def test_a_process_that_died_is_begun_again(counters: TokenCounters, words: Path) -> None:
    before = children()
    for _ in range(2):
        assert counters.count("a", words, b"x y", has_special=False) == 2
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
    assert counters.count("a", words, b"x y z", has_special=False) == 3


@pytest.mark.parametrize("text", ["", "{}", "no json"])
def test_a_tokenizer_that_does_not_open_is_said_each_time(counters: TokenCounters, tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    before = children()
    for _ in range(2):
        with pytest.raises(Unavailable, match="could not be counted") as caught:
            counters.count("a", tmp_path / "tokenizer.json", b"canary", has_special=False)
        assert caught.value.code == "prompt_not_counted"
        assert "canary" not in caught.value.message
    assert children() == before


def test_silence_ends_the_process(counters: TokenCounters, words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_counter, "_TIMEOUT_S", 0.5)
    before = children()
    counters.count("a", words, b"x", has_special=False)
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    assert counters.count("a", words, b"x y", has_special=False) == 2  # the second process answers
    assert pid not in children()


def test_threads_ask_at_once_and_each_gets_its_own_answer(counters: TokenCounters, words: Path) -> None:
    found: dict[int, int] = {}

    def ask(number: int) -> None:
        found[number] = counters.count(f"{number % 3}", words, b"w " * number, has_special=False)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {number: number for number in range(1, 13)}


def test_the_gate_never_opens_a_tokenizer_itself() -> None:
    """The library holds Python's lock meanwhile, and every call would wait."""
    script = "import sys, control_plane.wiring; print('tokenizers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "False"
