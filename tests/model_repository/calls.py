"""A call as the generate backend's own parts take it, for tests that ask them without a server."""

from __future__ import annotations

from collections.abc import Sequence

from generate.call import Call


def call_of(prompt: Sequence[int]) -> Call:
    """One greedy token after `prompt`."""
    return Call(
        prompt=tuple(prompt),
        prompt_tokens=len(prompt),
        feeds={},
        max_tokens=1,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=None,
        stops=(),
        is_streamed=False,
    )
