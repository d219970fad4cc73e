"""The log's two keys on disk: one signs receipts, one signs checkpoints. The wallet that pays for anchors is a third.

In: paths. Out: keys. This module must never show a key, and must never replace one that is there: receipts would no longer verify.

Three keys, because they live differently: the receipt key is hot in every worker, the checkpoint key only in the log keeper, and
only the wallet holds money.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from eth_utils.address import to_checksum_address

from control_plane.did import Address
from control_plane.errors import BadInput, NotFound
from control_plane.receipts.signing import address_of
from control_plane.receipts.tiles import replace_durably

KEYS_VALUE_BYTES = 52
"""`posthuman.keys.v1`: 20-byte address of the receipt key, 32-byte Ed25519 public key of the checkpoint key."""


def create_receipt_key(path: Path) -> bytes:
    """Make the receipt key, readable by its owner alone. Again: returns the key that is there."""
    put_once(path, secrets.token_bytes(32).hex().encode() + b"\n")
    return read_receipt_key(path)


def read_receipt_key(path: Path) -> bytes:
    """32 bytes. Raises NotFound, or BadInput when others may read the file or it holds something else."""
    text = read_private(path).strip()
    try:
        key = bytes.fromhex(text.decode("ascii").removeprefix("0x"))
        if len(key) != 32:  # coincurve would fill a shorter one with zeros
            raise ValueError("length")
        PrivateKey(key)
    except ValueError as error:
        raise BadInput(str(path), "64 hex digits: a secp256k1 private key", "something else (not shown)") from error
    return key


def create_checkpoint_key(path: Path) -> Ed25519PrivateKey:
    """Make the checkpoint key (PKCS#8 PEM), readable by its owner alone. Again: returns the key that is there."""
    put_once(path, Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return read_checkpoint_key(path)


def read_checkpoint_key(path: Path) -> Ed25519PrivateKey:
    """Raises NotFound, or BadInput when others may read the file or it holds something else."""
    content = read_private(path)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise BadInput(str(path), "an Ed25519 private key in PEM", "something else (not shown)") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(str(path), "an Ed25519 private key in PEM", type(key).__name__)
    return key


def receipt_address(key: bytes) -> Address:
    return address_of(PrivateKey(key).public_key.format(compressed=False))


def parse_keys_value(value: bytes) -> tuple[Address, bytes]:
    """Receipt signer and checkpoint key. Raises BadInput for another length."""
    if len(value) != KEYS_VALUE_BYTES:
        raise BadInput("posthuman.keys.v1", f"{KEYS_VALUE_BYTES} bytes", f"{len(value)} bytes")
    return Address(to_checksum_address(value[:20])), value[20:]


def put_once(path: Path, content: bytes) -> None:
    """Put a new file in place unless there is one; of two processes at once, one wins and both go on with its key."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    replace_durably(scratch, content, mode=0o600)
    try:
        os.link(scratch, path)
    except FileExistsError:
        return
    finally:
        scratch.unlink()


def read_private(path: Path) -> bytes:
    """A secret file's bytes. Raises NotFound, or BadInput when others than its owner may read it."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such key file; `posthuman up` makes it") from error
    if stat.S_IMODE(mode) & 0o077:
        raise BadInput(str(path), "a file that only its owner may read (chmod 600)", oct(stat.S_IMODE(mode)))
    return content
