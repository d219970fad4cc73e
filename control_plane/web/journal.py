"""What the operator reads of requests: one JSON line each.

In: names, sizes, durations, hashes. Out: lines. This module must never be handed a prompt, an answer, a key or a token: it writes
what it is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

from control_plane.serving.request_ids import asked

_encode = json.JSONEncoder(separators=(",", ":")).encode
Said = str | int | float | bool | None


class Journal:
    """Writes lines to `stream`, each in one write, so that workers that share a file do not mix theirs."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
        self._stream, self._clock = stream, clock

    def note(self, event: str, **facts: Said) -> None:
        """request: the id of the request that this thread answers, unless the facts name another."""
        line = _encode({"at": round(self._clock(), 3), "event": event, "request": asked().id, **facts}) + "\n"
        try:
            self._stream.write(line)
            self._stream.flush()
        except OSError:  # a full disk: whoever has paid for a call gets its answer also when nobody can read of it
            return
