"""Open the operator's log: the data NFT on which its keys stand and its checkpoints are anchored.

In: the operator's wallet and the public keys of receipts and checkpoints. Out: the log NFT's address. This module must never see a
private key but through the wallet.
"""

from __future__ import annotations

from control_plane.chain.ledger import KEYS_LABEL, Ledger, Wallet, data_key
from control_plane.did import Address
from control_plane.errors import BadInput


def keys_value(receipt_signer: Address, checkpoint_public_key: bytes) -> bytes:
    """What stands under `posthuman.keys.v1`: 20 bytes address, 32 bytes Ed25519 public key."""
    if len(checkpoint_public_key) != 32:
        raise BadInput("checkpoint public key", "32 bytes (Ed25519)", f"{len(checkpoint_public_key)} bytes")
    return bytes.fromhex(receipt_signer[2:]) + checkpoint_public_key


def open_log(ledger: Ledger, wallet: Wallet, receipt_signer: Address, checkpoint_public_key: bytes) -> Address:
    """Make the wallet's log NFT and record the keys on it; what is recorded now is what verifiers accept from then on.

    Again: finds the NFT made the first time, and writes only keys that differ from those on chain.
    """
    value = keys_value(receipt_signer, checkpoint_public_key)
    nft = ledger.create_log_nft(wallet, f"log/{wallet.address}", "Posthuman log", "PHLOG").nft
    written = ledger.data_history(nft, data_key(KEYS_LABEL))
    if not written or written[-1].value != value:
        # the count names this write: a key that was used before, replaced and used again must be written again
        ledger.record_data(wallet, f"log/{nft}/keys/{len(written)}", nft, data_key(KEYS_LABEL), value)
    return nft
