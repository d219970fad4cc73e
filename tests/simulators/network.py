"""The chain that the simulated ledger is: its number, and where Ocean's contracts stand on it.

In: nothing. Out: a `Network`, and addresses made of words. This module must never name a real chain.
"""

from __future__ import annotations

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from control_plane.chain.ledger import Network
from control_plane.did import Address


def address_of(seed: str) -> Address:
    return Address(to_checksum_address(keccak(text=seed)[12:]))


SIMULATED = Network(
    chain_id=8996,
    name="simulated",
    factory=address_of("factory"),
    router=address_of("router"),
    fixed_rate=address_of("fixed rate"),
    dispenser=address_of("dispenser"),
    ocean=address_of("ocean"),
    confirmations=1,
)
