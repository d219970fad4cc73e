"""Files as they arrive in BYTES tensors: images and sounds.

In: bytes from outside. Out: the file's bytes. This module must never open a file, and never look into one.

JSON cannot hold bytes, and Triton's generate extension speaks nothing else: there a file travels as a data URL (RFC 2397,
`data:audio/wav;base64,...`). No image or sound begins with `data:`, so both forms are taken everywhere.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from opening.refusal import Refused

MAX_FILE_BYTES = 64 << 20
"""One file, decoded."""

_SCHEME, _ENCODED = b"data:", b";base64,"
_LONGEST_HEAD = 256


def read_file(raw: bytes, field: str, where: str = "") -> bytes:
    """Raises Refused for an empty file, more than 64 MiB, or a data URL that is not base64. where: which item, for the message."""
    if raw.startswith(_SCHEME):
        place = raw.find(_ENCODED, 0, _LONGEST_HEAD)
        try:
            if place < 0:
                raise ValueError("no base64")
            raw = base64.b64decode(raw[place + len(_ENCODED) :], validate=True)
        except (binascii.Error, ValueError):
            raise Refused(field, "a file, or a data URL with base64", f"another data URL{where}") from None
    if not raw:
        raise Refused(field, "a file that is not empty", f"0 bytes{where}")
    if len(raw) > MAX_FILE_BYTES:
        raise Refused(field, f"at most {MAX_FILE_BYTES} bytes", f"{len(raw)} bytes{where}")
    return raw


def read_files(raws: Sequence[bytes], field: str, *, most: int) -> list[bytes]:
    """Every item, by `read_file`. Raises Refused for none or for more than `most` items."""
    if not 1 <= len(raws) <= most:
        raise Refused(field, f"1 to {most} files", f"{len(raws)} files")
    return [read_file(raw, field, f" in item {index}") for index, raw in enumerate(raws)]
