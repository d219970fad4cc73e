"""Names of things on chain, each a type of its own.

In: text from outside. Out: checked `Address`, `Did`, `TransactionHash`, `Bytes32`. This module must never speak to a node.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from eth_utils.address import to_checksum_address

from control_plane.errors import BadInput

Address = NewType("Address", str)
"""EIP-55 checksummed."""
Did = NewType("Did", str)
"""`did:op:` and 64 lower-case hex digits."""
TransactionHash = NewType("TransactionHash", str)
"""`0x` and 64 lower-case hex digits."""
Bytes32 = NewType("Bytes32", str)
"""`0x` and 64 lower-case hex digits; a digest, hash or key that has no narrower type."""
TokenWei = NewType("TokenWei", int)
"""10**18 = one token."""
UnixSeconds = NewType("UnixSeconds", int)
UnixMillis = NewType("UnixMillis", int)

ZERO_ADDRESS = Address("0x" + "0" * 40)
ZERO_BYTES32 = Bytes32("0x" + "0" * 64)

_HEX32 = re.compile(r"0x[0-9a-fA-F]{64}")
_HEX20 = re.compile(r"0x[0-9a-fA-F]{40}")
_DID = re.compile(r"did:op:[0-9a-f]{64}")


def parse_address(text: object, field: str = "address") -> Address:
    """Accepts all-lower, all-upper and correctly checksummed hex; a wrong checksum is a typing error and is refused."""
    if not isinstance(text, str) or not _HEX20.fullmatch(text):
        raise BadInput(field, "an address: 0x and 40 hex digits", text)
    checksummed = to_checksum_address(text)
    digits = text[2:]
    if digits not in (digits.lower(), digits.upper()) and text != checksummed:
        raise BadInput(field, f"the EIP-55 checksum {checksummed}", text)
    return Address(checksummed)


def parse_did(text: object, field: str = "did") -> Did:
    if not isinstance(text, str) or not _DID.fullmatch(text):
        raise BadInput(field, "a DID: did:op: and 64 lower-case hex digits", text)
    return Did(text)


def parse_transaction_hash(text: object, field: str = "order") -> TransactionHash:
    if not isinstance(text, str) or not _HEX32.fullmatch(text):
        raise BadInput(field, "a transaction hash: 0x and 64 hex digits", text)
    return TransactionHash(text.lower())


def parse_bytes32(text: object, field: str) -> Bytes32:
    if not isinstance(text, str) or not _HEX32.fullmatch(text):
        raise BadInput(field, "32 bytes: 0x and 64 hex digits", text)
    return Bytes32(text.lower())


def did_of(nft: Address, chain_id: int) -> Did:
    """The DID of an asset. Source: Ocean, `"did:op:" + sha256hex(checksummed NFT address + decimal chain id)`."""
    return Did("did:op:" + hashlib.sha256(f"{nft}{chain_id}".encode()).hexdigest())
