"""Checkpoints: the log's size and root as a signed note.

In: an Ed25519 key, a size, a root; or a note from a stranger. Out: notes, and checked checkpoints. This module must never read a
file, and must never take a signature by an unknown key for a check.

Source: c2sp.org/signed-note, c2sp.org/tlog-checkpoint. A note is text, an empty line, lines "— name base64(key id + signature)";
key id = first 4 bytes of SHA-256(name, newline, 0x01 for Ed25519, public key).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.did import Address
from control_plane.errors import BadInput
from control_plane.receipts.merkle import HASH_BYTES

ED25519 = b"\x01"
NOTE_BYTES = 16_384
"""Longest note that is read; ours have about 250 bytes, and each witness would add about 100."""
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME = re.compile(r"[^\s+]+")


def origin_of(chain_id: int, log: Address) -> str:
    """The name of a log: its first line in every checkpoint, and the name of its key."""
    return f"posthuman/{chain_id}/{log}"


@dataclass(frozen=True)
class Checkpoint:
    """One state of one log. size: leaves. root: 32 bytes."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed text: three lines."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class NoteSigner:
    """The operator's checkpoint key. Its `repr` shows name and public key only."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        if not _NAME.fullmatch(name):
            raise BadInput("checkpoint key name", "text without spaces or +", name)
        self.name = name
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return f"NoteSigner({self.name}, {self.public_key.hex()})"

    def sign(self, text: str) -> str:
        """The note: `text` and one signature line. The same text gives the same note (RFC 8032)."""
        blob = key_id(self.name, self.public_key) + self._key.sign(text.encode())
        return f"{text}\n— {self.name} {base64.b64encode(blob).decode()}\n"


def key_id(name: str, public_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + ED25519 + public_key).digest()[:4]


def open_note(note: str, name: str, public_key: bytes) -> str:
    """The text of a note that the key has signed. Lines of other keys (witnesses) are passed over.

    Raises BadInput: not a note, no signature by this key, or a wrong one.
    """
    if len(note.encode()) > NOTE_BYTES:
        raise BadInput("note", f"at most {NOTE_BYTES} bytes", f"{len(note.encode())} bytes")
    cut = note.rfind("\n\n")
    if cut < 0 or not note.endswith("\n") or any(ord(letter) < 32 and letter != "\n" for letter in note):
        raise BadInput("note", "text, an empty line, signature lines", note)
    text = note[: cut + 1]
    mine = f"— {name} "
    blobs = []
    for line in note[cut + 2 : -1].split("\n"):
        if not line.startswith("— ") or len(line.split(" ")) != 3:
            raise BadInput("note", "signature lines: dash, name, base64", line)
        blob = decode_base64(line.split(" ")[2], "note signature")
        if line.startswith(mine) and blob[:4] == key_id(name, public_key):
            blobs.append(blob)
    if len(blobs) != 1:
        raise BadInput("note", f"one signature by {name} with key id {key_id(name, public_key).hex()}", f"{len(blobs)} of them")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(blobs[0][4:], text.encode())
    except (InvalidSignature, ValueError) as error:
        raise BadInput("note", f"a signature over this text by {name}", "one that does not verify") from error
    return text


def parse_checkpoint_text(text: str) -> Checkpoint:
    """Raises BadInput unless the text is origin, size and root, one a line; extension lines are refused: we know none."""
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not lines[0] or not _SIZE.fullmatch(lines[1]):
        raise BadInput("checkpoint", "three lines: origin, size, base64 root", text)
    root = decode_base64(lines[2], "checkpoint root")
    if len(root) != HASH_BYTES:
        raise BadInput("checkpoint root", f"{HASH_BYTES} bytes", f"{len(root)} bytes")
    return Checkpoint(lines[0], int(lines[1]), root)


def read_unverified(note: str) -> Checkpoint:
    """What a note claims, before its signature is checked: for choosing what to fetch, never for believing it."""
    if len(note) > NOTE_BYTES:
        raise BadInput("note", f"at most {NOTE_BYTES} bytes", f"{len(note)} letters")
    return parse_checkpoint_text(note[: note.rfind("\n\n") + 1])


def open_checkpoint(note: str, origin: str, public_key: bytes) -> Checkpoint:
    """The checkpoint in a note by the log's own key. Raises BadInput also when it is of another log."""
    checkpoint = parse_checkpoint_text(open_note(note, origin, public_key))
    if checkpoint.origin != origin:
        raise BadInput("checkpoint origin", origin, checkpoint.origin)
    return checkpoint


def decode_base64(text: str, field: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput(field, "base64", text) from error
    if base64.b64encode(raw).decode() != text:  # Python takes stray bits after the last letter; then one proof has many texts
        raise BadInput(field, "base64 in its one canonical form", text)
    return raw
