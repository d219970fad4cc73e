"""One call's generations: one, or several answers to the same question, computed at once (OpenAI's `n`).

In: the backend's inputs, how many. Out: whole answers in their order, or pieces as they come, each with its choice's number. This
module must never let an answer depend on how many there are.

How a surface uses it:

    asked = choices(services, admitted, backend_fields(...), n)
    made = asked.whole()                        # a `Generated` a choice
    for index, piece in asked.pieces(): ...     # closing it stops every computation
    Answer(body, units_in(made), units_out(made))

The prompt is counted once, as OpenAI's `usage` does; each choice's own tokens are counted.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from control_plane.errors import Unavailable
from control_plane.fields import INT64
from control_plane.flows.call import Admitted
from control_plane.flows.services import Services
from control_plane.serving.inference import Generated, InferenceServer, never

MOST_CHOICES = 16


@dataclass(frozen=True)
class Choices:
    """inputs: of each choice. caller: see `InferenceServer`. check: raises for what the model cannot read, before it is asked."""

    server: InferenceServer
    entry_name: str
    inputs: tuple[Mapping[str, Any], ...]
    caller: str
    check: Callable[[], None]

    def whole(self) -> tuple[Generated, ...]:
        """All of them, in order. Raises what the server raises for any of them, after the others were told to stop."""
        self.check()
        if len(self.inputs) == 1:
            return (self.server.generate(self.entry_name, self.inputs[0], self.caller),)
        with closing(self._at_once(self._ask)) as found:
            return tuple(made for _, made in sorted(found, key=lambda one: one[0]))

    def pieces(self) -> Generator[tuple[int, Generated], None, None]:
        """(choice, piece) as they come; of each choice the last has a finish_reason."""
        self.check()
        if len(self.inputs) > 1:
            with closing(self._at_once(self._listen)) as found:
                yield from found
        else:
            with closing(self._listen(self.inputs[0], never)) as only:
                for piece in only:
                    yield 0, piece

    def _ask(self, inputs: Mapping[str, Any], is_over: Callable[[], bool]) -> Generator[Generated, None, None]:
        yield self.server.generate(self.entry_name, inputs, self.caller, is_over)

    def _listen(self, inputs: Mapping[str, Any], is_over: Callable[[], bool]) -> Generator[Generated, None, None]:
        stream = self.server.generate_stream(self.entry_name, inputs, self.caller, is_over)
        piece = None
        try:
            for piece in stream:
                yield piece
        finally:
            _close(stream)
        if piece is None:
            raise Unavailable("the inference server ended a stream that had not begun", code="strange_answer")

    def _at_once(
        self, ask: Callable[[Mapping[str, Any], Callable[[], bool]], Generator[Generated, None, None]]
    ) -> Generator[tuple[int, Generated], None, None]:
        """A thread a choice. One that fails ends them all, and so does closing this."""
        told: SimpleQueue[tuple[int, Generated | BaseException | None]] = SimpleQueue()
        over = threading.Event()

        def follow(index: int, inputs: Mapping[str, Any]) -> None:
            try:
                with closing(ask(inputs, over.is_set)) as found:
                    for piece in found:
                        if over.is_set():
                            return
                        told.put((index, piece))
                told.put((index, None))
            except BaseException as error:  # whatever it is, it is raised where the answers are read
                told.put((index, error))

        try:
            for index, inputs in enumerate(self.inputs):
                # each in the request's own context, which knows its id
                run = contextvars.copy_context().run
                threading.Thread(target=run, args=(follow, index, inputs), name=f"choice {index}", daemon=True).start()
            left = len(self.inputs)
            while left:
                index, found = told.get()
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    left -= 1
                else:
                    yield index, found
        finally:
            over.set()


def choices(services: Services, admitted: Admitted, inputs: Mapping[str, Any], n: int = 1) -> Choices:
    """inputs: see `backend_fields`. n: 1 to MOST_CHOICES.

    Choice i is what the same call with `seed` + i gives alone, so choice 0 is the answer of n = 1. Without a seed each has its own.
    """
    each = tuple({**inputs, "seed": _seed(inputs["seed"] + index)} if "seed" in inputs else inputs for index in range(n))
    check = partial(services.prompts.check_generation, admitted.listing, inputs)
    return Choices(services.server, admitted.listing.entry_name, each, admitted.session.wallet, check)


def units_in(made: Iterable[Generated]) -> int:
    """Tokens of the prompt. made: at least one choice."""
    return next(iter(made)).prompt_tokens


def units_out(made: Iterable[Generated]) -> int:
    """Tokens computed, of all choices. made: of each choice its whole answer, or its last piece so far."""
    return sum(one.completion_tokens for one in made)


def _seed(seed: int) -> int:
    """Into 64 bits, with a sign."""
    return (seed + INT64) % (2 * INT64) - INT64


def _close(stream: Iterator[Generated]) -> None:
    close = getattr(stream, "close", None)
    if close is not None:
        close()
