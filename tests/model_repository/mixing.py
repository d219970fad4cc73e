"""Calls of a task that reads texts, drawn at random, and asked all at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from predict.task import Arrays, Task

_WORDS = (b"market", b"the", b"book", b"stall", b"keeps", b"harbour")
_OUTPUTS = frozenset(
    {"embedding", "scores", "label", "start", "end", "item", "token_ids", "answer", "score", "prompt_tokens", "result"}
)

Call = Mapping[str, np.ndarray]


def call_of(task: str, chances: np.random.Generator) -> Call:
    """Texts of 1 to 10 words, as many as the task takes, at most four."""

    def text(most: int) -> bytes:
        return b" ".join(_WORDS[place] for place in chances.integers(0, len(_WORDS), chances.integers(1, most + 1)))

    texts = [text(10) for _ in range(1 if task == "multiple-choice" else int(chances.integers(1, 5)))]
    tensors: dict[str, list[bytes]] = {"text_input": texts}
    if task == "fill-mask":
        tensors = {"text_input": [one + b" [MASK]" for one in texts]}
    elif task == "question-answering":
        tensors = {"question": [text(2) for _ in texts], "context": texts}
    elif task == "multiple-choice":
        tensors["choices"] = [text(2) for _ in range(3)]
    elif task == "zero-shot-classification":
        tensors["candidate_labels"] = [b"market", b"harbour"]
    return {name: np.array(items, object) for name, items in tensors.items()}


def answered(task: Task, call: Call) -> Arrays:
    return task.answer(call, _OUTPUTS)


def answered_together(task: Task, calls: Sequence[Call]) -> list[Arrays]:
    """Each call from a thread of its own; an answer that does not come within a minute is missing, and raises KeyError."""
    answers: dict[int, Arrays] = {}
    start = threading.Barrier(len(calls))

    def ask(number: int) -> None:
        start.wait(20)
        answers[number] = answered(task, calls[number])

    threads = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [answers[number] for number in range(len(calls))]


def are_same(one: Arrays, other: Arrays) -> bool:
    """To the last bit."""
    return one.keys() == other.keys() and all(
        found.dtype == other[name].dtype and np.array_equal(found, other[name]) for name, found in one.items()
    )
