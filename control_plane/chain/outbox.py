"""Transactions sent at most once each: what was signed is on disk before any node hears of it.

In: a wallet, a key that names one thing to do, and the action. Out: the mined transaction. This module must never sign a second
transaction under a key while the first one may still be mined, and never writes a private key.

One file per chain and key holds every transaction signed under it; the chain is named by its id and its first block, so a local
chain that was thrown away leaves nothing that counts on the next one. A crash leaves one of:

    no file                     nothing was sent: do it
    a file, nothing mined       it may have been sent: hand the same bytes to the node again, which can never do it twice
    a file, mined               it was done: answer with the outcome

A signed transaction can die in three ways. Its nonce went to another transaction, or it was mined and reverted: that counts once it
is as deep as the chain's confirmations. Or the first node that ever heard of it refused it and does not know it: then the next
one is signed at the same nonce, or at a later one only when something else holds that nonce, so that not even a node that lied
could do both. Only after a death the same key signs anew; the dead one stays in the file as history.

A transaction that waits too long is signed again at the same nonce with higher fees, as another attempt in the same file: of all
attempts with one nonce the chain takes one. The outcome is that one's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from control_plane.chain.ledger import Wallet
from control_plane.chain.rpc import Fees, Mined, NodeRefused, Rpc
from control_plane.chain.transaction import Action, cost_of, sign_transaction
from control_plane.did import Address, TransactionHash
from control_plane.errors import Conflict, IntegrityBroken, OutcomeUnknown, Refused, Unavailable

GAS_MARGIN_PERCENT = 20
"""An estimate is for the state now; another transaction before ours can make it cost more. What is not used is not paid."""
RAISE_DIVISOR = 8
"""A replacement offers an eighth more: nodes take none below a tenth (geth) or an eighth (Nethermind) more."""
RAISE_MOST = 4
"""What offers this many times what the chain asks is not waiting for its fee; raising it further would only cost more."""
LOOK_AFTER_S = 1.0
"""How often at most one waiting `send` hands over again or replaces what is in its way."""
_IS_THERE = ("already known", "already imported", "already exists", "known transaction", "nonce too low")


@dataclass(frozen=True)
class Attempt:
    """One signed transaction. Safe to hand to any node, any number of times.

    signed_at: seconds since 1970. refused: why the first node that heard of it did not take it; blank when it may have been taken.
    """

    transaction: TransactionHash
    raw: str
    sender: Address
    nonce: int
    to: Address | None
    data: str
    value: int
    signed_at: float = 0.0
    refused: str = ""

    def does(self, action: Action, identity: int | None) -> bool:
        """True when both do the same thing; `identity` as in `Outbox.send`."""
        end = None if identity is None else 2 + 2 * identity
        return (self.to, self.data[:end], self.value) == (action.to, f"0x{action.data.hex()}"[:end], action.value)


class Outbox:
    """Several processes may share one folder: a lock file per account and per key keeps them apart.

    confirmations: how deep a death must be before a key signs anew. wait_s: how long `send` waits for the block.
    replace_after_s: how long a transaction may wait before it is signed again with higher fees; default: 5 on a chain with one
    confirmation, else 60. It counts from the signing, also across processes. clock: for waiting. now: seconds since 1970.
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
        replace_after_s: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._rpc, self._confirmations = folder, rpc, confirmations
        self._wait_s, self._clock, self._sleep, self._now = wait_s, clock, sleep, now
        self._genesis: str | None = None
        self._poll_s = poll_s if poll_s is not None else (0.05 if confirmations == 1 else 1.0)
        self._replace_after_s = replace_after_s if replace_after_s is not None else (5.0 if confirmations == 1 else 60.0)

    def send(self, wallet: Wallet, key: str, action: Action, identity: int | None = None) -> Mined:
        """Have `action` mined once under `key`, and return it.

        identity: how many leading bytes of the data name the thing done; None: all of them. An order with a newer fee signature
        is the same order, so what was sent first is what counts.

        Raises Refused when it would revert (nothing was sent), did, or no node took it; Unavailable when nothing was sent;
        OutcomeUnknown when it was sent and not seen; Conflict when the key was used for another action that may be done. Again:
        looks for what was sent the first time, sends nothing new unless that one is dead or has waited too long.
        """
        until = self._clock() + self._wait_s
        with self._lock(wallet.address):
            attempts = self._read(key)
            mined = self._look(attempts)
            if mined is not None and mined.status == 1:
                self._check_same(key, attempts, mined.transaction, action, identity)
                return mined
            node_says = ""
            if self._is_dead(attempts, mined):
                attempt = self._sign(wallet, key, action, attempts)
                if node_says := self._broadcast(key, attempt, is_first=True):
                    raise Refused(f"{key}: the node does not take {attempt.transaction}: {node_says}")
            else:
                live = _live(attempts)[-1]
                self._check_same(key, attempts, live.transaction, action, identity)
                if mined is None or not _named(_live(attempts), mined):
                    node_says = self._broadcast(key, live)
        return self._wait(wallet, key, until, node_says)

    def is_live(self, key: str) -> bool:
        """True when something was signed under `key` that is done, or may still be done."""
        attempts = self._read(key)
        mined = self._look(attempts)
        if mined is not None and mined.status == 1:
            return True
        return not self._is_dead(attempts, mined)

    def _sign(self, wallet: Wallet, key: str, action: Action, before: tuple[Attempt, ...]) -> Attempt:
        """Signed and written down, not sent."""
        gas = self._rpc.estimate_gas(wallet.address, action.to, action.data, action.value)
        nonce = self._rpc.sent_count(wallet.address, "pending")
        for refused in (each for each in before if each.refused and each.nonce < nonce):
            taken = (replace(refused, refused=""),)  # as if the node had taken it after all
            if self._holder(refused.sender, refused.nonce) is None and not self._is_dead(taken, self._look(taken)):
                raise OutcomeUnknown(f"{key}: {refused.transaction} was refused, yet something waits at its nonce {refused.nonce}")
        return self._record(wallet, key, action, before, nonce, gas + gas * GAS_MARGIN_PERCENT // 100, self._rpc.fees())

    def _record(
        self, wallet: Wallet, key: str, action: Action, before: tuple[Attempt, ...], nonce: int, gas: int, fees: Fees
    ) -> Attempt:
        signed = sign_transaction(wallet, self._rpc.chain_id, action, nonce, gas, fees)
        attempt = Attempt(
            transaction=signed.transaction,
            raw="0x" + signed.raw.hex(),
            sender=wallet.address,
            nonce=nonce,
            to=action.to,
            data="0x" + action.data.hex(),
            value=action.value,
            signed_at=self._now(),
        )
        self._write(key, (*before, attempt))
        return attempt

    def _look(self, attempts: tuple[Attempt, ...]) -> Mined | None:
        """The one that was done, else the last one that was mined at all."""
        last: Mined | None = None
        for attempt in attempts:
            mined = self._rpc.receipt(attempt.transaction)
            if mined is not None and mined.status == 1:
                return mined
            last = mined or last
        return last

    def _is_dead(self, attempts: tuple[Attempt, ...], mined: Mined | None) -> bool:
        """True when none of these can take effect any more. `mined`: what `_look` found, not done."""
        live = _live(attempts)
        if not live:
            return True
        # a node may know of the next nonce before it knows of the receipt, and a reorganisation may undo either
        deep = self._rpc.head().number - (self._confirmations - 1)
        if mined is not None and _named(live, mined):
            return mined.status == 0 and mined.block <= deep
        if self._rpc.sent_count(live[-1].sender, max(deep, 0)) <= live[-1].nonce:
            return False
        # asked in this order, a transaction mined between the two questions is seen by the second one
        return self._look(live) is None

    def _broadcast(self, key: str, attempt: Attempt, is_first: bool = False) -> str:
        """Hand it to the node; why the node did not take it, or blank.

        is_first: no node has heard of it before. A refusal is then written down: this attempt is dead.
        """
        try:
            self._rpc.broadcast(bytes.fromhex(attempt.raw[2:]))
            return ""
        except Unavailable as error:
            raise OutcomeUnknown(f"{key}: sent {attempt.transaction}, the node's answer was lost") from error
        except NodeRefused as error:
            reason = error.reason
        if any(words in reason.lower() for words in _IS_THERE):
            return ""  # it is there already, or mined: looking tells
        try:
            if self._rpc.knows_transaction(attempt.transaction):
                return ""
        except Unavailable as error:
            raise OutcomeUnknown(f"{key}: sent {attempt.transaction}, and the node went away") from error
        if is_first:
            *before, last = self._read(key)
            self._write(key, (*before, replace(last, refused=reason)))
        return reason

    def _wait(self, wallet: Wallet, key: str, until: float, node_says: str) -> Mined:
        push_at = self._clock()
        while True:
            attempts = self._read(key)  # another process may have replaced it
            live = _live(attempts)
            wanted = live[-1].transaction
            try:
                mined = self._look(attempts)
                if mined is not None and mined.status == 1:
                    return mined
                if mined is not None and (reverted := _named(live, mined)):
                    raise Refused(f"{key}: {mined.transaction} reverted{self._why(reverted, mined)}", code="reverted")
                if self._is_late(attempts) and self._clock() >= push_at:
                    push_at = self._clock() + LOOK_AFTER_S
                    node_says = self._push(wallet, key, live[-1].nonce)
                    continue
            except Unavailable as error:
                raise OutcomeUnknown(f"{key}: sent {wanted}, and the node went away") from error
            if self._clock() >= until:
                heard = f"; the node says: {node_says}" if node_says else ""
                raise OutcomeUnknown(f"{key}: sent {wanted}, in no block after {self._wait_s:g} s{heard}")
            self._sleep(max(min(self._poll_s, until - self._clock()), 0.0))

    def _is_late(self, attempts: tuple[Attempt, ...]) -> bool:
        """Also true when the system's clock was set back: it says nothing then."""
        return not 0 <= self._now() - attempts[-1].signed_at < self._replace_after_s

    def _push(self, wallet: Wallet, key: str, nonce: int) -> str:
        """Move on the transaction that must be mined next for `key`: its own, or the one of this wallet that holds the next nonce.

        The reason why the node does not take it, or blank.
        """
        with self._lock(wallet.address):
            following = self._rpc.sent_count(wallet.address)
            if nonce < following:
                return ""  # mined, or lost to another: looking tells
            first = key if nonce == following else self._holder(wallet.address, following)
            if first is None:
                return f"nonce {following} of {wallet.address} comes first, and was not sent from here"
            attempts = self._read(first)
            live = _live(attempts)[-1]
            fees = self._raised(live) if self._is_late(attempts) else None
            if fees is None:
                return self._broadcast(first, live)
            action = Action(live.to, bytes.fromhex(live.data[2:]), live.value)
            gas = cost_of(bytes.fromhex(live.raw[2:])).gas
            attempt = self._record(wallet, first, action, attempts, live.nonce, gas, fees)
            return self._broadcast(first, attempt, is_first=True)

    def _raised(self, live: Attempt) -> Fees | None:
        """What to offer instead: an eighth more, and at least what the chain asks now. None: its fees are not what it waits for."""
        offered, asked = cost_of(bytes.fromhex(live.raw[2:])).fees, self._rpc.fees()
        tip, asked_tip = (each.most if each.priority is None else each.priority for each in (offered, asked))
        if offered.most >= RAISE_MOST * asked.most and tip >= RAISE_MOST * asked_tip:
            return None
        most = max(_more(offered.most), asked.most)
        return Fees(most, None if asked.priority is None else max(_more(tip), asked.priority))

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
            self._genesis = self._rpc.genesis()
        named = f"{self._rpc.chain_id} {self._genesis} {key}"
        return self._folder / (hashlib.sha256(named.encode()).hexdigest() + ".json")

    def _read(self, key: str) -> tuple[Attempt, ...]:
        path = self._path(key)
        try:
            return _attempts(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityBroken(f"{path}: expected what was sent under {key}, found a damaged file") from error

    def _holder(self, account: Address, nonce: int) -> str | None:
        """The key of this chain under which a transaction of `account` with this nonce was signed and may be mined."""
        self._path("")  # which chain this is
        for path in self._folder.glob("*.json"):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                is_here = (record["chain_id"], record["genesis"]) == (self._rpc.chain_id, self._genesis)
                live = _live(_attempts(record)) if is_here else ()
            except (OSError, ValueError, KeyError, TypeError):
                continue  # who uses its key is told
            if any((each.sender, each.nonce) == (account, nonce) for each in live):
                return str(record["key"])
        return None

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


def _attempts(record: Mapping[str, Any]) -> tuple[Attempt, ...]:
    return tuple(Attempt(**attempt) for attempt in record["attempts"])


def _named(attempts: tuple[Attempt, ...], mined: Mined) -> Attempt | None:
    return next((each for each in attempts if each.transaction == mined.transaction), None)


def _live(attempts: tuple[Attempt, ...]) -> tuple[Attempt, ...]:
    """Those of the newest nonce that a node may have taken: the chain takes at most one of them."""
    return tuple(each for each in attempts if each.nonce == attempts[-1].nonce and not each.refused)


def _more(wei: int) -> int:
    return wei + max(-(-wei // RAISE_DIVISOR), 1)


def _fields(attempt: Attempt) -> Mapping[str, Any]:
    return {name: getattr(attempt, name) for name in Attempt.__dataclass_fields__}
