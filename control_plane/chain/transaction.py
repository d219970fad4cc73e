"""Transactions as the bytes that are signed.

In: what to send, nonce, fees, a wallet. Out: the raw transaction and its hash; what a raw one may cost. This module
must never speak to a node.

Sources: EIP-1559 (type 2) and EIP-155 (legacy).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rlp  # type: ignore[import-untyped]  # ships no types
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from control_plane.chain.ledger import Wallet
from control_plane.chain.rpc import Fees
from control_plane.did import Address, TransactionHash


@dataclass(frozen=True)
class Action:
    """What a transaction does, whoever signs it and whatever it costs.

    to: None makes a contract. value: wei of the chain's own coin.
    """

    to: Address | None
    data: bytes
    value: int = 0


@dataclass(frozen=True)
class Signed:
    raw: bytes
    transaction: TransactionHash
    nonce: int


def sign_transaction(wallet: Wallet, chain_id: int, action: Action, nonce: int, gas: int, fees: Fees) -> Signed:
    """Sign for one chain: another chain's nodes refuse the bytes, since the chain id is inside what is signed."""
    to = bytes.fromhex(action.to[2:]) if action.to else b""
    if fees.priority is None:
        body: list[Any] = [nonce, fees.most, gas, to, action.value, action.data]
        signature = wallet.sign_digest(bytes(keccak(rlp.encode([*body, chain_id, 0, 0]))))
        recovery = signature[64] - 27 + 35 + 2 * chain_id
        prefix = b""
    else:
        body = [chain_id, nonce, fees.priority, fees.most, gas, to, action.value, action.data, []]
        signature = wallet.sign_digest(bytes(keccak(b"\x02" + rlp.encode(body))))
        recovery = signature[64] - 27
        prefix = b"\x02"
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    raw = prefix + bytes(rlp.encode([*body, recovery, r, s]))
    return Signed(raw, TransactionHash("0x" + bytes(keccak(raw)).hex()), nonce)


@dataclass(frozen=True)
class Cost:
    """What a signed transaction offers: at most `gas` units at `fees`."""

    gas: int
    fees: Fees


def cost_of(raw: bytes) -> Cost:
    """Read back what `sign_transaction` signed."""
    is_typed = raw[:1] == b"\x02"
    fields = rlp.decode(raw[1:] if is_typed else raw)
    numbers = [int.from_bytes(each, "big") for each in (fields[2:5] if is_typed else fields[1:3])]
    if is_typed:
        priority, most, gas = numbers
        return Cost(gas, Fees(most, priority))
    most, gas = numbers
    return Cost(gas, Fees(most, None))


def contract_address(deployer: Address, nonce: int) -> Address:
    """Where the contract of the deployer's transaction number `nonce` lives. Source: Ethereum yellow paper, section 7."""
    return Address(to_checksum_address(bytes(keccak(rlp.encode([bytes.fromhex(deployer[2:]), nonce])))[12:]))
