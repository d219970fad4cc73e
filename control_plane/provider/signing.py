"""Signatures of Ocean's clients: which message a request must sign, and whether the one it names did.

In: an address, a text, a nonce, a signature. Out: nothing, or a refusal. This module must never take a nonce for used.

Source: ocean.py 3.1.2 `DataServiceProviderBase.sign_message`, Ocean Provider 2.1 `utils/accounts.py`: keccak256 of the text with
the nonce behind it, signed as EIP-191 signs 32 bytes. The last byte is 0 or 1 from ocean.py, 27 or 28 from wallets.
"""

from __future__ import annotations

import re

from eth_utils.crypto import keccak

from control_plane.chain.wallet import signer_of
from control_plane.did import Address
from control_plane.errors import BadInput

_SIGNATURE = re.compile(r"(?:0x)?[0-9a-fA-F]{130}", re.ASCII)
_PREFIX = b"\x19Ethereum Signed Message:\n32"
SIGNATURE_FAULT = "Invalid signature provided."
"""Ocean Provider's own words; its clients' tests look for them."""


def signed_digest(message: str, nonce: str) -> bytes:
    """The 32 bytes that a wallet signs for `message` with `nonce` behind it."""
    return prefixed(bytes(keccak(text=f"{message}{nonce}")))


def prefixed(digest: bytes) -> bytes:
    """What `personal_sign` signs of 32 bytes; Ocean's contracts recover signers by it too."""
    return bytes(keccak(_PREFIX + digest))


def check_signature(address: Address, message: str, nonce: str, signature: object) -> None:
    """Raises BadInput unless `address` signed `message` and `nonce`, each exactly as the client wrote it."""
    if isinstance(signature, str) and _SIGNATURE.fullmatch(signature):
        raw = bytes.fromhex(signature.removeprefix("0x"))
        if signer_of(signed_digest(message, nonce), raw) == address:
            return
    raise BadInput("signature", f"one by {address} over the message and the nonce of this request", "another", code="bad_signature")
