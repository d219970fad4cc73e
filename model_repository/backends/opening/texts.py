"""Texts as they arrive in BYTES tensors.

In: bytes from outside. Out: strings that are UTF-8, not empty, and short enough to tokenise. This module must never cut a text.
"""

from __future__ import annotations

from collections.abc import Sequence

from opening.refusal import Refused

MAX_TEXT_BYTES = 1 << 20
"""One text. Tokenising takes about a second a MiB, and no context we serve is longer than that many bytes."""


def read_text(raw: bytes, field: str, where: str = "") -> str:
    """Raises Refused for an empty text, more than 1 MiB, or bytes that are not UTF-8. where: which item, for the message."""
    if not raw:
        raise Refused(field, "a text that is not empty", f"0 bytes{where}")
    if len(raw) > MAX_TEXT_BYTES:
        raise Refused(field, f"at most {MAX_TEXT_BYTES} bytes", f"{len(raw)} bytes{where}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(field, "UTF-8 text", f"byte 0x{raw[error.start]:02x} at {error.start}{where}") from None


def read_texts(raws: Sequence[bytes], field: str, *, most: int) -> list[str]:
    """Every item, by `read_text`. Raises Refused for none or for more than `most` items."""
    if not 1 <= len(raws) <= most:
        raise Refused(field, f"1 to {most} texts", f"{len(raws)} texts")
    return [read_text(raw, field, f" in item {index}") for index, raw in enumerate(raws)]
