"""A proof that a receipt is in the log, as one text file: C2SP `tlog-proof@v1`.

In: index, hashes, signed checkpoint. Out: the text, and back. This module must never do I/O.

Source: c2sp.org/tlog-proof. Extra data is not signed by anyone, so we write none and refuse to carry it.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from control_plane.errors import BadInput
from control_plane.receipts.checkpoint import Checkpoint, decode_base64, open_checkpoint, read_unverified
from control_plane.receipts.merkle import HASH_BYTES, includes

HEADER = "c2sp.org/tlog-proof@v1"
MEDIA_TYPE = "text/plain; charset=utf-8"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")
MAXIMUM_HASHES = 64


@dataclass(frozen=True)
class Proof:
    """index: the leaf's, counted from 0. path: from its sibling to the root's child. checkpoint: the signed note, as it came."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def to_text(self) -> str:
        hashes = "".join(base64.b64encode(part).decode() + "\n" for part in self.path)
        return f"{HEADER}\nindex {self.index}\n{hashes}\n{self.checkpoint}"

    @classmethod
    def from_text(cls, text: str) -> Proof:
        """Raises BadInput for another version, and for anything that is not exactly one proof."""
        head, empty, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if not empty or lines[0] != HEADER:
            raise BadInput("proof", f"a first line {HEADER}, and an empty line before the checkpoint", text)
        index = _INDEX.fullmatch(lines[1]) if len(lines) > 1 else None
        if index is None:
            raise BadInput("proof", "a second line `index` and a whole number", lines[1] if len(lines) > 1 else "")
        if len(lines) - 2 > MAXIMUM_HASHES:
            raise BadInput("proof", f"at most {MAXIMUM_HASHES} hashes", f"{len(lines) - 2}")
        path = tuple(decode_base64(line, "proof hash") for line in lines[2:])
        if any(len(part) != HASH_BYTES for part in path):
            raise BadInput("proof hash", f"{HASH_BYTES} bytes each", sorted({len(part) for part in path}))
        return cls(int(index[1]), path, checkpoint)

    def claims(self) -> Checkpoint:
        """The checkpoint inside, its signature not yet checked."""
        return read_unverified(self.checkpoint)

    def verify(self, hashed: bytes, origin: str, public_key: bytes) -> Checkpoint:
        """The checked checkpoint that holds the leaf hash. Raises BadInput when signature, origin or path do not."""
        checkpoint = open_checkpoint(self.checkpoint, origin, public_key)
        if not includes(hashed, self.index, checkpoint.size, self.path, checkpoint.root):
            raise BadInput("proof", f"a path from this leaf to the root of {checkpoint.size} leaves", "a path that leads elsewhere")
        return checkpoint
