"""What a stock client really sent and received: an ear on its connection.

In: a client's HTTP answers. Out: the exact bytes of both sides. This module must never change a byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Wire:
    """Keeps the bodies of the last exchange, as they come. Give `hear` to the client's HTTP as a hook for answers."""

    def __init__(self) -> None:
        self.sent = b""
        self.received = bytearray()

    def hear(self, answer: Any) -> None:
        """answer: an HTTP answer of httpx or its like, whose body nobody has read yet."""
        self.sent = bytes(answer.request.content)
        self.received.clear()
        read = answer.iter_bytes

        def iter_bytes(*arguments: Any, **named: Any) -> Iterator[bytes]:
            for part in read(*arguments, **named):
                self.received += part
                yield part

        answer.iter_bytes = iter_bytes


def before_receipt(stream: bytes) -> bytes:
    """The bytes that a streamed call's receipt speaks of: all before the event that carries it, the last one before `[DONE]`."""
    events = stream.split(b"\n\n")[:-1]
    return b"".join(event + b"\n\n" for event in events[:-2])
