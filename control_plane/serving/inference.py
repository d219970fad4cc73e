"""What the market needs of an inference server, in our words.

In: an entry's name and a request. Out: the answer's bytes or events. `triton.py` implements it on the real server,
`tests/simulators/inference.py` in memory. This module must never speak to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class TensorAnswer:
    """An Open Inference Protocol answer, untouched: JSON header of `header_length` bytes, then binary tensors.

    header_length: None when the whole body is JSON.
    """

    body: bytes
    header_length: int | None


@dataclass(frozen=True)
class Generated:
    """Generated text, or one piece of it. finish_reason: `stop`, `length`, or None while a stream goes on.

    The token counts are of the whole call so far; prompt_tokens is set on every piece.
    token_logprobs, token_texts: one for each of `token_ids` where the call asked for `logprobs`, else none; what they are exactly
    stands in `converters/tasks/generation.py`. A call that asked for `score` has those of the text that it gave, and no text.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None
    token_logprobs: tuple[float, ...] = ()
    token_texts: tuple[str, ...] = ()


ABANDONED = "abandoned"
"""The code of what was stopped because nobody waited for it any more."""


def never() -> bool:
    """For who waits for an answer in any case."""
    return False


class InferenceServer(Protocol):
    """Raises Unavailable when the server does not answer, BadInput when it refuses the request, NotFound for an unknown name."""

    def is_ready(self) -> bool: ...

    def loaded(self) -> frozenset[str]:
        """Names of the entries that are ready to answer."""

    def load(self, name: str) -> None:
        """Load or reload the entry in the repository's folder `name`. Again: loads again."""

    def unload(self, name: str) -> None:
        """Again: does nothing when it is not loaded."""

    def infer(self, name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        """One call with tensors; the body goes through unread."""

    def generate(self, name: str, fields: Mapping[str, Any], caller: str = "", is_over: Callable[[], bool] = never) -> Generated:
        """One whole generation; `fields` are the generate backend's inputs by tensor name.

        caller: who asks, by any name: where calls wait, callers take turns. is_over: asked now and then while there is no answer;
        when it says so, the computation is stopped and Unavailable raised.
        """

    def generate_stream(
        self, name: str, fields: Mapping[str, Any], caller: str = "", is_over: Callable[[], bool] = never
    ) -> Iterator[Generated]:
        """Pieces as they come. Closing the iterator stops the computation. is_over: asked while there is no piece."""
