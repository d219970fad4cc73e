"""Answer a batch of prompts.

In: a job's folder, and how to have one prompt answered. Out: its progress and `result.json`. This module must never hold a weight,
or know whom it asks: whoever runs it hands that in.

Prompt i is answered as a call with the job's seed + i would be, so that the same job gives the same answers, and a buyer's call can
repeat each of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from c2d_adapter.algorithms.evaluate import TooLong
from c2d_adapter.job_io import RESULT_BYTES, Folder, JobFailed

KIND = "infer"
AT_ONCE = 8
"""Prompts that are asked together: calls of one model share each step, up to sixteen of them, and others want to be served too."""
_DRAWING = ("max_tokens", "temperature", "top_p", "top_k")
_ROOM = 1024
"""Of a result, for what stands around the answers."""


@dataclass(frozen=True)
class Made:
    """One answer. finish_reason: `stop` or `length`. tokens: computed."""

    text: str
    finish_reason: str
    prompt_tokens: int
    tokens: int


Answer = Callable[[Mapping[str, Any]], Made]
"""Asks with `text_input`, `max_tokens`, `temperature`, `top_p`, `top_k` and `seed`. Raises TooLong."""


def work(folder: Folder, answer: Answer, clock: Callable[[], float] = time.monotonic) -> None:
    """Do a job: the folder gets its progress and its result. Raises JobFailed. Again: the same answers, computed again."""
    parameters = folder.parameters(KIND)
    prompts, began = [str(prompt) for prompt in parameters["prompts"]], clock()
    asked = [
        {
            "text_input": prompt,
            **{name: parameters[name] for name in _DRAWING},
            "seed": int(parameters["seed"]) + number,
        }
        for number, prompt in enumerate(prompts)
    ]
    made: list[Made] = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        waiting = [threads.submit(answer, each) for each in asked]
        try:
            for number, one in enumerate(waiting, start=1):
                try:
                    made.append(one.result())
                except TooLong:
                    raise JobFailed(
                        "sequence_too_long", f"Prompt {number} of {len(prompts)} has more tokens than the model reads at once."
                    ) from None
                folder.write_progress(number, len(prompts), None, number / max(clock() - began, 1e-3))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)  # those under way are answered, and nobody looks at them
            raise
    folder.write_result(result_of(made))


def result_of(made: list[Made]) -> dict[str, str | int | float | bool]:
    """A job's `result.json`. answers: JSON in a text, in the order of the prompts. Raises JobFailed when they do not fit."""
    answers = json.dumps([{"text": one.text, "finish_reason": one.finish_reason, "tokens": one.tokens} for one in made])
    length = len(json.dumps(answers))  # as it stands in the result, quoted once more
    if length > RESULT_BYTES - _ROOM:
        room = RESULT_BYTES - _ROOM
        sentence = f"The answers come to {length} bytes, and a job's result holds {room}: ask for fewer prompts or tokens."
        raise JobFailed("sequence_too_long", sentence)
    return {
        "answers": answers,
        "prompt_tokens": sum(one.prompt_tokens for one in made),
        "tokens": sum(one.tokens for one in made),
    }
