"""A text scored, as OpenAI's completions ask for it: `echo: true`, `max_tokens: 0`, `logprobs: 0`.

In: parsed fields of a completion, what was scored. Out: whether it is one, OpenAI's JSON. This module must never tell a probability
of a token that the text does not have.

Source: OpenAI's API reference for completions. Of `echo` this is all that we answer: a text that is repeated before a new one, or
with the likeliest other tokens, is refused by the parameter that asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from control_plane.errors import BadInput
from control_plane.fields import Table, flag, whole
from control_plane.serving.inference import Generated

_ASKED: tuple[tuple[str, Any, str], ...] = (
    ("max_tokens", 0, "0 with echo: a text is scored, or another one made"),
    ("logprobs", 0, "0 with echo, which gives the logarithm of each of the text's own tokens' probability"),
    ("stream", False, "false with echo: what is scored is told whole"),
    ("n", 1, "1 with echo: a text has one score"),
)


def echo_table(table: Table, max_new_tokens: int) -> Table:
    """The parameters that a completion has for this beside the others. table: of the others."""
    expected = f"a whole number from 1 to {max_new_tokens}; 0 with echo"
    return {
        **table,
        "max_tokens": whole(expected, 0, max_new_tokens, 16),
        "echo": flag("false, or true with max_tokens 0 and logprobs 0, which scores the prompt and generates nothing"),
    }


def is_echo(fields: Mapping[str, Any]) -> bool:
    """Whether the prompt is to be scored. Raises BadInput where it is only half of that.

    Parameters of how a token is chosen are taken, as harnesses send them, and have nothing to do.
    """
    if not fields["echo"]:
        if fields["max_tokens"] == 0:
            raise BadInput("max_tokens", "at least 1; 0 only with echo and logprobs 0", 0)
        return False
    for name, wanted, expected in _ASKED:
        if fields[name] != wanted:
            raise BadInput(name, expected, fields[name])
    return True


def echoed(prompt: str, made: Generated) -> dict[str, Any]:
    """The one choice. text_offset: as of a completion; the first token's probability is null, since nothing is before it."""
    ends = list(accumulate(map(len, made.token_texts), initial=0))
    logprobs = {
        "tokens": made.token_texts,
        "token_logprobs": [None, *made.token_logprobs[1:]],
        "top_logprobs": None,
        "text_offset": ends[:-1],
    }
    return {"index": 0, "text": prompt, "logprobs": logprobs, "finish_reason": made.finish_reason}
