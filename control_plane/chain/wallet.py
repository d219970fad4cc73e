"""A wallet on this machine: one private key, and what it signs.

In: an encrypted keystore, a raw key, or a mnemonic and an index. Out: signatures. This module must never print, log or return a
key: `repr` shows the address alone, and only `save_keystore` writes it, encrypted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from coincurve import PrivateKey, PublicKey
from eth_account import Account
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

import control_plane.chain.recursion_limit  # noqa: F401  # eth_account raises the limit
from control_plane.curve import CURVE_ORDER
from control_plane.did import Address
from control_plane.errors import BadInput


def message_digest(text: str) -> bytes:
    """What EIP-191 version 0x45 signs for `text`: keccak256 of the prefix, the byte length in decimal, and the bytes."""
    body = text.encode("utf-8")
    return bytes(keccak(b"\x19Ethereum Signed Message:\n" + str(len(body)).encode() + body))


def signer_of(digest: bytes, signature: bytes) -> Address | None:
    """The address that signed: 65 bytes r, s, v with v 0, 1, 27 or 28. None when the bytes are no signature of anybody."""
    if len(digest) != 32 or len(signature) != 65 or signature[64] not in (0, 1, 27, 28):
        return None
    try:
        key = PublicKey.from_signature_and_message(signature[:64] + bytes([signature[64] % 27]), digest, hasher=None)
    except Exception:  # coincurve raises plain Exception for values that are no curve point
        return None
    return Address(to_checksum_address(keccak(key.format(compressed=False)[1:])[12:]))


class LocalWallet:
    """Implements `Wallet`. public_key: 64 bytes x, y; others encrypt to it."""

    __slots__ = ("_key", "address", "public_key")

    address: Address
    public_key: bytes

    def __init__(self, secret: bytes) -> None:
        if len(secret) != 32 or not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
            raise BadInput("private key", "32 bytes that are a secp256k1 key", "something else")
        self._key = PrivateKey(secret)
        self.public_key = self._key.public_key.format(compressed=False)[1:]
        self.address = Address(to_checksum_address(keccak(self.public_key)[12:]))

    @classmethod
    def from_key(cls, text: str) -> LocalWallet:
        """From 64 hex digits, with or without 0x. Raises BadInput, which never shows what was given."""
        digits = text.strip().removeprefix("0x")
        try:
            secret = bytes.fromhex(digits)
        except ValueError:
            secret = b""
        return cls(secret)

    @classmethod
    def from_mnemonic(cls, mnemonic: str, index: int) -> LocalWallet:
        """From BIP-39 words at `m/44'/60'/0'/0/<index>`, as anvil and browser wallets derive."""
        Account.enable_unaudited_hdwallet_features()
        return cls(bytes(Account.from_mnemonic(mnemonic, account_path=f"m/44'/60'/0'/0/{index}").key))

    def sign_digest(self, digest: bytes) -> bytes:
        """Low-s: libsecp256k1 never makes the high twin, and Ethereum refuses it (EIP-2)."""
        if len(digest) != 32:
            raise BadInput("digest", "32 bytes", len(digest))
        made = self._key.sign_recoverable(digest, hasher=None)
        return bytes(made[:64]) + bytes([made[64] + 27])

    def sign_message(self, text: str) -> bytes:
        return self.sign_digest(message_digest(text))

    def decrypt(self, sealed: bytes) -> bytes:
        """Open what was encrypted to this wallet's public key in Ocean Provider's format (ECIES). Raises BadInput otherwise."""
        from ecies import decrypt  # only who opens documents pays for loading it

        try:
            return bytes(decrypt(self._key.to_hex(), sealed))
        except Exception as error:  # eciespy lets each of its three libraries raise its own kinds
            raise BadInput("document", f"bytes encrypted to {self.address}", f"{len(sealed)} bytes that are not") from error

    def __repr__(self) -> str:
        return f"LocalWallet({self.address})"

    def __reduce__(self) -> str:
        raise TypeError("a wallet is not pickled: its key would leave this process")


def save_keystore(path: Path, wallet: LocalWallet, password: str, iterations: int | None = None) -> None:
    """Write the key encrypted (Web3 Secret Storage version 3, scrypt), readable by its owner alone.

    iterations: the cost, 2**18 unless tests ask for less. Again: refuses with BadInput, a key is never overwritten.
    """
    record = Account.encrypt(wallet._key.secret, password, iterations=iterations)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + f".part{os.getpid()}")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(record, stream)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        os.link(scratch, path)  # fails where the name is taken; a rename would replace the key there
    except FileExistsError as error:
        raise BadInput("keystore", "a path that holds nothing yet", str(path)) from error
    finally:
        scratch.unlink()


def load_keystore(path: Path, password: str) -> LocalWallet:
    """Open a keystore file. Raises BadInput for a missing or damaged file and for a wrong password."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(path), "a readable keystore file", type(error).__name__) from error
    try:
        return LocalWallet(bytes(Account.decrypt(record, password)))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput("keystore", f"the password of {path}", "another one, or a damaged file") from error
