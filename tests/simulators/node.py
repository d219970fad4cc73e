"""A node in memory, as far as the outbox speaks to one: nonces, blocks, receipts, and every way to lose an answer.

It reads the raw transactions it is handed, so a test can count what was really sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import rlp
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from control_plane.chain.ledger import Block
from control_plane.chain.rpc import Fees, Mined, NodeRefused
from control_plane.chain.wallet import signer_of
from control_plane.did import Address, Bytes32, TransactionHash, UnixSeconds
from control_plane.errors import Refused, Unavailable


@dataclass(frozen=True)
class Heard:
    """A transaction that the node took: type 2, decoded."""

    transaction: TransactionHash
    sender: Address
    nonce: int
    to: Address | None
    data: bytes
    tip: int = 0
    most: int = 0


def decode(raw: bytes) -> Heard:
    chain, nonce, tip, most, gas, to, value, data, access, parity, r, s = rlp.decode(raw[1:])
    unsigned = keccak(b"\x02" + rlp.encode([chain, nonce, tip, most, gas, to, value, data, access]))
    signature = r.rjust(32, b"\0") + s.rjust(32, b"\0") + bytes([int.from_bytes(parity, "big")])
    sender = signer_of(unsigned, signature)
    assert sender is not None
    prices = (int.from_bytes(tip, "big"), int.from_bytes(most, "big"))
    address = Address(to_checksum_address(to)) if to else None
    return Heard(TransactionHash("0x" + keccak(raw).hex()), sender, int.from_bytes(nonce, "big"), address, data, *prices)


@dataclass
class SimulatedNode:
    """is_mining: each transaction is mined as it comes. reverts: transactions' data that revert when mined.

    failures: what the next broadcasts do: `before` (never arrives), `after` (arrives, the answer is lost), or an error's text.
    """

    chain_id: int = 8996
    is_mining: bool = True
    is_down: bool = False
    first: str = "0x" + "00" * 32
    """The hash of its first block."""
    failures: list[str] = field(default_factory=list)
    reverts: set[bytes] = field(default_factory=set)
    refuses_estimates: bool = False
    base_fee: int = 5 * 10**8
    """Wei per gas; what offers less waits. `fees` asks twice that and a tip of a gwei."""
    asks: Fees | None = None
    """What `fees` says instead: a node may be behind."""
    heard: list[Heard] = field(default_factory=list)
    pool: dict[TransactionHash, Heard] = field(default_factory=dict)
    mined: dict[TransactionHash, Mined] = field(default_factory=dict)
    counts: list[dict[Address, int]] = field(default_factory=lambda: [{}])
    """Nonces by block."""

    def head(self) -> Block:
        return self.block(len(self.counts) - 1)

    def block(self, number: int) -> Block:
        self._reach()
        return Block(number, Bytes32(self.first if number == 0 else "0x" + keccak(text=str(number)).hex()), UnixSeconds(number))

    def genesis(self) -> Bytes32:
        return self.block(0).hash

    def sent_count(self, account: Address, block: int | str = "latest") -> int:
        self._reach()
        if block == "pending":
            waiting = [each.nonce + 1 for each in self.pool.values() if each.sender == account]
            return max([self.counts[-1].get(account, 0), *waiting])
        return self.counts[-1 if isinstance(block, str) else block].get(account, 0)

    def receipt(self, transaction: TransactionHash) -> Mined | None:
        self._reach()
        return self.mined.get(transaction)

    def estimate_gas(self, sender: Address, to: Address | None, data: bytes, value: int) -> int:
        self._reach()
        if self.refuses_estimates:
            raise Refused("the contract refused: NOT YOU")
        return 21_000

    def fees(self) -> Fees:
        return self.asks or Fees(2 * self.base_fee + 10**9, 10**9)

    def knows_transaction(self, transaction: TransactionHash) -> bool:
        self._reach()
        return transaction in self.pool or transaction in self.mined

    def call(self, to: Address, data: bytes, sender: Address | None = None, block: int | None = None) -> bytes:
        if data in self.reverts:
            raise Refused("the contract refused: NOT NOW")
        return b""

    def broadcast(self, raw: bytes) -> None:
        self._reach()
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise Unavailable("connection reset")
        if failure not in ("", "after"):
            raise NodeRefused(failure, is_execution=False)
        heard = decode(raw)
        self.heard.append(heard)
        if heard.nonce < self.counts[-1].get(heard.sender, 0):
            raise NodeRefused("nonce too low", is_execution=False)
        for waiting in [each for each in self.pool.values() if (each.sender, each.nonce) == (heard.sender, heard.nonce)]:
            if waiting.transaction == heard.transaction:
                raise NodeRefused("already known", is_execution=False)
            if min(heard.tip * 8 - waiting.tip * 9, heard.most * 8 - waiting.most * 9) < 0:
                raise NodeRefused("replacement transaction underpriced", is_execution=False)
            del self.pool[waiting.transaction]
        self.pool[heard.transaction] = heard
        if self.is_mining:
            self.mine()
        if failure == "after":
            raise Unavailable("connection reset")

    def mine(self) -> None:
        """A block with every waiting transaction whose nonce is next and that pays the base fee; a spent nonce is dropped."""
        counts = dict(self.counts[-1])
        for heard in sorted(self.pool.values(), key=lambda each: each.nonce):
            if heard.nonce != counts.get(heard.sender, 0) or heard.most < self.base_fee:
                continue
            counts[heard.sender] = heard.nonce + 1
            self.mined[heard.transaction] = Mined(
                heard.transaction,
                0 if heard.data in self.reverts else 1,
                len(self.counts),
                Bytes32("0x" + keccak(text=str(len(self.counts))).hex()),
                21_000,
                heard.sender,
                heard.to,
                (),
            )
        self.counts.append(counts)
        self.pool = {name: heard for name, heard in self.pool.items() if heard.nonce >= counts.get(heard.sender, 0)}

    def spend_nonce(self, account: Address) -> None:
        """Somebody else uses this account's next nonce."""
        self.counts.append({**self.counts[-1], account: self.counts[-1].get(account, 0) + 1})
        self.pool = {name: heard for name, heard in self.pool.items() if heard.nonce >= self.counts[-1].get(heard.sender, 0)}

    def advance(self, blocks: int) -> None:
        self.counts.extend([dict(self.counts[-1])] * blocks)

    def _reach(self) -> None:
        if self.is_down:
            raise Unavailable("the node does not answer")
