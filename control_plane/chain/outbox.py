"""Transactions sent at most once each: what was signed is on disk before any node hears of it.

In: a wallet, a key that names one thing to do, and the action. Out: the mined transaction. This module must never sign a second
transaction under a key while the first one may still be mined, and never writes a private key.

One file per chain and key holds every transaction signed under it; the chain is named by its id and its first block, so a local
chain that was thrown away leaves nothing that counts on the next one. A crash leaves one of:

    no file                     nothing was sent: do it
    a file, nothing mined       it may have been sent: hand the same bytes to the node again, which can never do it twice
    a file, mined               it was done: answer with the outcome

A signed transaction can die in two ways: its nonce went to another transaction, or it was mined and reverted. Only then, and only
once that is as deep as the chain's confirmations, the same key signs anew; the dead one stays in the file as history.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.chain.ledger import Wallet
from control_plane.chain.rpc import Mined, NodeRefused, Rpc
from control_plane.chain.transaction import Action, sign_transaction
from control_plane.did import Address, TransactionHash
from control_plane.errors import Conflict, IntegrityBroken, OutcomeUnknown, Refused, Unavailable

GAS_MARGIN_PERCENT = 20
"""An estimate is for the state now; another transaction before ours can make it cost more. What is not used is not paid."""


@dataclass(frozen=True)
class Attempt:
    """One signed transaction. Safe to hand to any node, any number of times."""

    transaction: TransactionHash
    raw: str
    sender: Address
    nonce: int
    to: Address | None
    data: str
    value: int

    def does(self, action: Action, identity: int | None) -> bool:
        """True when both do the same thing; `identity` as in `Outbox.send`."""
        end = None if identity is None else 2 + 2 * identity
        return (self.to, self.data[:end], self.value) == (action.to, f"0x{action.data.hex()}"[:end], action.value)


class Outbox:
    """Several processes may share one folder: a lock file per account and per key keeps them apart.

    confirmations: how deep a death must be before a key signs anew. wait_s: how long `send` waits for the block.
    """

    def __init__(
        self,
        folder: Path,
        rpc: Rpc,
        confirmations: int = 1,
        wait_s: float = 120.0,
        poll_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._rpc, self._confirmations = folder, rpc, confirmations
        self._wait_s, self._clock, self._sleep = wait_s, clock, sleep
        self._genesis: str | None = None
        self._poll_s = poll_s if poll_s is not None else (0.05 if confirmations == 1 else 1.0)

    def send(self, wallet: Wallet, key: str, action: Action, identity: int | None = None) -> Mined:
        """Have `action` mined once under `key`, and return it.

        identity: how many leading bytes of the data name the thing done; None: all of them. An order with a newer fee signature
        is the same order, so what was sent first is what counts.

        Raises Refused when it would revert (nothing was sent) or did; Unavailable when nothing was sent; OutcomeUnknown when it
        was sent and not seen; Conflict when the key was used for another action that may be done. Again: looks for what was sent
        the first time, sends nothing new unless that one is dead.
        """
        with self._lock(wallet.address):
            attempts = self._read(key)
            mined = self._look(attempts)
            if mined is not None and mined.status == 1:
                self._check_same(key, attempts, mined.transaction, action, identity)
                return mined
            if attempts and not self._is_dead(attempts[-1], mined):
                self._check_same(key, attempts, attempts[-1].transaction, action, identity)
                if mined is None:
                    self._broadcast(key, attempts[-1])
            else:
                attempts = self._sign(wallet, key, action, attempts)
                self._broadcast(key, attempts[-1], is_first=True)
        return self._wait(key, attempts)

    def is_live(self, key: str) -> bool:
        """True when something was signed under `key` that is done, or may still be done."""
        attempts = self._read(key)
        mined = self._look(attempts)
        if mined is not None and mined.status == 1:
            return True
        return bool(attempts) and not self._is_dead(attempts[-1], mined)

    def _sign(self, wallet: Wallet, key: str, action: Action, before: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
        gas = self._rpc.estimate_gas(wallet.address, action.to, action.data, action.value)
        nonce = self._rpc.sent_count(wallet.address, "pending")
        limit = gas + gas * GAS_MARGIN_PERCENT // 100
        signed = sign_transaction(wallet, self._rpc.chain_id, action, nonce, limit, self._rpc.fees())
        attempt = Attempt(
            transaction=signed.transaction,
            raw="0x" + signed.raw.hex(),
            sender=wallet.address,
            nonce=nonce,
            to=action.to,
            data="0x" + action.data.hex(),
            value=action.value,
        )
        self._write(key, (*before, attempt))
        return (*before, attempt)

    def _look(self, attempts: tuple[Attempt, ...]) -> Mined | None:
        """The one that was done, else the last one that was mined at all."""
        last: Mined | None = None
        for attempt in attempts:
            mined = self._rpc.receipt(attempt.transaction)
            if mined is not None and mined.status == 1:
                return mined
            last = mined or last
        return last

    def _is_dead(self, attempt: Attempt, mined: Mined | None) -> bool:
        """True when this transaction can never take effect any more.

        A node may know of the next nonce before it knows of the receipt, and a reorganisation may undo either: so both deaths
        count only from a block as deep as the confirmations.
        """
        deep = self._rpc.head().number - (self._confirmations - 1)
        if mined is not None:
            return mined.transaction == attempt.transaction and mined.status == 0 and mined.block <= deep
        if self._rpc.sent_count(attempt.sender, max(deep, 0)) <= attempt.nonce:
            return False
        # asked in this order, a transaction mined between the two questions is seen by the second one
        return self._rpc.receipt(attempt.transaction) is None

    def _broadcast(self, key: str, attempt: Attempt, is_first: bool = False) -> None:
        try:
            self._rpc.broadcast(bytes.fromhex(attempt.raw[2:]))
        except Unavailable as error:
            raise OutcomeUnknown(f"{key}: sent {attempt.transaction}, the node's answer was lost") from error
        except NodeRefused as error:
            reason = error.reason.lower()
            if any(words in reason for words in ("already known", "already imported", "known transaction", "nonce too low")):
                return  # it is there already, or mined: looking tells
            kind = Refused if is_first else OutcomeUnknown
            raise kind(f"{key}: the node does not take {attempt.transaction}: {error.reason}") from error

    def _wait(self, key: str, attempts: tuple[Attempt, ...]) -> Mined:
        until = self._clock() + self._wait_s
        wanted = attempts[-1].transaction
        while True:
            try:
                mined = self._look(attempts)
            except Unavailable as error:
                raise OutcomeUnknown(f"{key}: sent {wanted}, and the node went away") from error
            if mined is not None and mined.status == 1:
                return mined
            if mined is not None and mined.transaction == wanted:
                raise Refused(f"{key}: {wanted} reverted{self._why(attempts[-1], mined)}", code="reverted")
            if self._clock() >= until:
                raise OutcomeUnknown(f"{key}: sent {wanted}, in no block after {self._wait_s:g} s")
            self._sleep(self._poll_s)

    def _why(self, attempt: Attempt, mined: Mined) -> str:
        """The reason of a revert, found by running it again on the block before; blank when that does not revert."""
        if attempt.to is None:
            return ""
        try:
            self._rpc.call(attempt.to, bytes.fromhex(attempt.data[2:]), attempt.sender, mined.block - 1)
        except (Refused, Unavailable) as error:
            return f": {error.message}"
        return ""

    def _check_same(
        self, key: str, attempts: tuple[Attempt, ...], transaction: TransactionHash, action: Action, identity: int | None
    ) -> None:
        attempt = next(each for each in attempts if each.transaction == transaction)
        if not attempt.does(action, identity):
            raise Conflict(f"{key}: this key already stands for {transaction}, which does something else")

    def _path(self, key: str) -> Path:
        if self._genesis is None:
            self._genesis = self._rpc.block(0).hash
        named = f"{self._rpc.chain_id} {self._genesis} {key}"
        return self._folder / (hashlib.sha256(named.encode()).hexdigest() + ".json")

    def _read(self, key: str) -> tuple[Attempt, ...]:
        path = self._path(key)
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return tuple(Attempt(**attempt) for attempt in record["attempts"])
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityBroken(f"{path}: expected what was sent under {key}, found a damaged file") from error

    def _write(self, key: str, attempts: tuple[Attempt, ...]) -> None:
        """On disk, and its name too, before this returns: a crash after it finds the transaction again."""
        record = {
            "version": 1,
            "key": key,
            "chain_id": self._rpc.chain_id,
            "genesis": self._genesis,
            "attempts": [_fields(attempt) for attempt in attempts],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(key)
        scratch = path.with_suffix(f".part{os.getpid()}")
        with scratch.open("w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _lock(self, account: Address) -> Iterator[None]:
        """One process at a time chooses a nonce of an account. The system lets go when a process dies."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / f"{account.lower()}.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _fields(attempt: Attempt) -> Mapping[str, Any]:
    return {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__}
