"""Where a derived asset came from, as bytes on its data NFT.

In: facts of a derivation. Out: the values that are recorded, and facts read back. This module must never speak to a node.

An owner records digest, log and parent each under a label of its own. A platform that publishes in a trainer's name cannot: only
the NFT's owner may give anybody the right to `setNewData`. What the platform can write without the owner's key is one value, that
of the datatoken it deploys (ERC20Template `setData`, under keccak256 of the datatoken's address). So that one value holds all
three. As soon as the owner records one of them under its label, that counts instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_utils.crypto import keccak

from control_plane.did import Address, Bytes32, parse_address

MODEL_LABEL = "posthuman.model.v1"
OPERATOR_LABEL = "posthuman.operator.v1"
PARENT_LABEL = "posthuman.parent.v1"
CUSTODY_LABEL = "posthuman.custody.v1"


@dataclass(frozen=True)
class Parent:
    """What an asset was trained from. Its DID is that of `nft` on the same chain.

    model_digest: the parent's, when the training began. statement: SHA-256 of the derivation's statement, see flows/derivation.py.
    """

    nft: Address
    model_digest: Bytes32
    statement: Bytes32

    def value(self) -> bytes:
        """84 bytes: the parent's NFT, its model digest, the statement's hash; the value under PARENT_LABEL."""
        return b"".join(bytes.fromhex(part[2:]) for part in (self.nft, self.model_digest, self.statement))

    @classmethod
    def from_value(cls, value: bytes) -> Parent | None:
        """None for bytes that are no parent: whoever wrote them meant something else."""
        if len(value) != _PARENT_BYTES:
            return None
        return cls(parse_address("0x" + value[:20].hex()), _bytes32(value[20:52]), _bytes32(value[52:]))


@dataclass(frozen=True)
class Custody:
    """What a platform records of an asset that it made for somebody else."""

    model_digest: Bytes32
    log: Address
    parent: Parent

    def value(self) -> bytes:
        """168 bytes: keccak256 of CUSTODY_LABEL, model digest, log's NFT, parent."""
        head = bytes(keccak(text=CUSTODY_LABEL))
        return head + bytes.fromhex(self.model_digest[2:]) + bytes.fromhex(self.log[2:]) + self.parent.value()

    def part(self, label: str) -> bytes:
        """The value that would stand under a label of its own."""
        if label == PARENT_LABEL:
            return self.parent.value()
        return bytes.fromhex({MODEL_LABEL: str(self.model_digest), OPERATOR_LABEL: str(self.log)}[label][2:])

    @classmethod
    def from_value(cls, value: bytes) -> Custody | None:
        """None for other bytes: Ocean's own tools use the same place."""
        if len(value) != _CUSTODY_BYTES or value[:32] != keccak(text=CUSTODY_LABEL):
            return None
        parent = Parent.from_value(value[84:])
        assert parent is not None  # noqa: S101  # of the right length
        return cls(_bytes32(value[32:64]), parse_address("0x" + value[64:84].hex()), parent)


_PARENT_BYTES = 84
_CUSTODY_BYTES = 168


def custody_key(datatoken: Address) -> Bytes32:
    """Where the one value of a datatoken stands on its NFT. Source: ERC20Template `setData` (ocean-contracts 2.0.3)."""
    return Bytes32("0x" + bytes(keccak(bytes.fromhex(datatoken[2:]))).hex())


def _bytes32(value: bytes) -> Bytes32:
    return Bytes32("0x" + value.hex())
