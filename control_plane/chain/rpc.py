"""A node, spoken to through web3: the only module that knows how.

In: an RPC URL and the chain id it must have. Out: blocks, receipts, logs, call results. This module must never decide anything, and
nothing of web3 leaves it: its errors become ours here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import requests

import control_plane.chain.ocean_fix
import control_plane.chain.recursion_limit  # noqa: F401  # web3 raises the limit
from control_plane.chain.ledger import Block
from control_plane.chain.node_words import is_of_the_contract
from control_plane.did import Address, Bytes32, TransactionHash, UnixSeconds, parse_address
from control_plane.errors import BadInput, Refused, Unavailable

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 10.0
MOST_ANSWER_BYTES = 64 << 20
"""Of one answer. What one block writes can be more: an event without data costs its author 762 gas, and is 435 bytes of JSON here,
so that 118 million gas of them are too much; see `metadata.happened`."""


@dataclass(frozen=True)
class Log:
    """One event as the chain keeps it. topics: 0x-hex, the first is the event's kind.

    written_at: its block's time, from nodes that say it with the event (`blockTimestamp`, geth 1.15 and anvil 1.x); else None.
    """

    address: Address
    topics: tuple[str, ...]
    data: bytes
    block: int
    transaction: TransactionHash
    written_at: UnixSeconds | None = None


@dataclass(frozen=True)
class Mined:
    """A transaction in a block. status: 1 done, 0 reverted. to: None when it made a contract."""

    transaction: TransactionHash
    status: int
    block: int
    block_hash: Bytes32
    gas_used: int
    sender: Address
    to: Address | None
    logs: tuple[Log, ...]


@dataclass(frozen=True)
class Fees:
    """What a transaction should offer now, in wei per gas. priority None: the chain has no EIP-1559, `most` is the gas price."""

    most: int
    priority: int | None


class NodeRefused(Exception):
    """The node answered with an error. reason: the revert reason when it was a revert, otherwise the node's own words.

    is_execution: a contract's execution failed; the node itself is well."""

    def __init__(self, reason: str, *, is_execution: bool) -> None:
        super().__init__(reason)
        self.reason, self.is_execution = reason, is_execution


class NodeFault(Unavailable):
    """The node answered, with an error that is no contract's as far as its words are known here."""


class AnswerTooLarge(Unavailable):
    """The node's answer was longer than `MOST_ANSWER_BYTES`, and was not read to its end: ask for less."""


class Rpc:
    """A node that answers JSON-RPC over HTTP. Safe to use from several threads; opens nothing before the first question."""

    def __init__(
        self, url: str, chain_id: int, connect_timeout_s: float = CONNECT_TIMEOUT_S, read_timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self.url, self.chain_id = url, chain_id
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._lock = threading.Lock()
        self._provider: Any = None
        self._is_checked = False

    def head(self) -> Block:
        return self._block("latest")

    def block(self, number: int) -> Block:
        """Raises Unavailable for a number past the head: this node has not seen it yet."""
        return self._block(hex(number))

    def genesis(self) -> Bytes32:
        """The hash of the block that block 1 stands on: the chain's name, together with its id.

        Not that of block 0: anvil keeps in its file one for every start, and gives any of them once it was started again
        (`@foundry-rs/anvil` 1.x; it is mended when three starts of one file give the same block 0).
        """
        second = self.ask("eth_getBlockByNumber", [hex(1), False])
        return self.block(0).hash if second is None else Bytes32(second["parentHash"])

    def receipt(self, transaction: TransactionHash) -> Mined | None:
        """None: this node knows no block with it; never sent, still waiting, or reorganised away."""
        found = self.ask("eth_getTransactionReceipt", [transaction])
        return None if found is None else _mined(found)

    def knows_transaction(self, transaction: TransactionHash) -> bool:
        """True when this node has it, in a block or waiting for one."""
        return self.ask("eth_getTransactionByHash", [transaction]) is not None

    def sent_count(self, account: Address, block: int | str = "latest") -> int:
        """How many transactions `account` has sent up to a block: the next nonce. `pending` counts the waiting ones too."""
        return int(self.ask("eth_getTransactionCount", [account, block if isinstance(block, str) else hex(block)]), 16)

    def code(self, address: Address) -> bytes:
        return _bytes(self.ask("eth_getCode", [address, "latest"]))

    def call(
        self, to: Address, data: bytes, sender: Address | None = None, block: int | None = None, gas: int | None = None
    ) -> bytes:
        """Run a function without writing. Raises Refused with the reason when it reverts, or its execution fails otherwise.

        gas: the most that it may use, which bounds its time and its answer; None: what the node allows."""
        request = {"to": to, "data": "0x" + data.hex()} | ({"from": sender} if sender else {})
        request |= {"gas": hex(gas)} if gas else {}
        return _bytes(self.ask("eth_call", [request, "latest" if block is None else hex(block)]))

    def estimate_gas(self, sender: Address, to: Address | None, data: bytes, value: int) -> int:
        """Gas that the transaction would use now. Raises Refused with the reason when it would fail."""
        request = {"from": sender, "data": "0x" + data.hex(), "value": hex(value)} | ({"to": to} if to else {})
        return int(self.ask("eth_estimateGas", [request]), 16)

    def fees(self) -> Fees:
        """Twice the base fee plus the node's tip, so that the transaction survives several full blocks; as web3 chooses it."""
        base = self.ask("eth_getBlockByNumber", ["latest", False]).get("baseFeePerGas")
        if base is None:
            return Fees(int(self.ask("eth_gasPrice", []), 16), None)
        try:
            tip = int(self.ask("eth_maxPriorityFeePerGas", []), 16)
        except Unavailable:  # nodes without this method; 1 gwei is what they accept
            tip = 10**9
        return Fees(2 * int(base, 16) + tip, tip)

    def logs(self, address: Address | None, topics: Sequence[str | Sequence[str]], first: int, last: int) -> tuple[Log, ...]:
        """Events of one contract, or of any, whose first topics are these, blocks first..last inclusive, oldest first.

        Asks for all blocks at once and halves the range as long as the node refuses it: each node has its own limit. Raises
        AnswerTooLarge for the events of any contract, which then were too many to be held.
        """
        if first > last:
            return ()
        emitter = {} if address is None else {"address": address}
        request = {**emitter, "topics": list(topics), "fromBlock": hex(first), "toBlock": hex(last)}
        try:
            return tuple(_log(record) for record in self._request("eth_getLogs", [request]))
        except NodeRefused as error:
            if last - first < _SMALLEST_RANGE:
                raise _ours(error) from error
        except AnswerTooLarge:
            if address is None or first == last:
                raise
        middle = (first + last) // 2
        return self.logs(address, topics, first, middle) + self.logs(address, topics, middle + 1, last)

    def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node. Raises NodeRefused for its error, Unavailable when no answer came.

        Unavailable here means unknown: the node may have it. Again: the same bytes are the same transaction, never a second one.
        """
        self._request("eth_sendRawTransaction", ["0x" + raw.hex()])

    def ask(self, method: str, params: Sequence[Any]) -> Any:
        """Any question. Raises Refused for a contract's failure and for empty accounts, NodeFault for any other error of the node,
        Unavailable when there was no answer."""
        try:
            return self._request(method, params)
        except NodeRefused as error:
            raise _ours(error) from error

    def _block(self, number: str) -> Block:
        found = self.ask("eth_getBlockByNumber", [number, False])
        if found is None:
            raise Unavailable(f"{self._name()}: expected block {number}, the node does not have it yet")
        return Block(int(found["number"], 16), Bytes32(found["hash"]), UnixSeconds(int(found["timestamp"], 16)))

    def _request(self, method: str, params: Sequence[Any]) -> Any:
        if not self._is_checked:
            found = int(self._post("eth_chainId", []), 16)
            if found != self.chain_id:
                raise BadInput("chain_id", f"chain {self.chain_id} at {self._name()}", found)
            self._is_checked = True
        return self._post(method, params)

    def _post(self, method: str, params: Sequence[Any]) -> Any:
        try:
            answer = self._connected().make_request(method, list(params))
        except requests.exceptions.HTTPError as error:
            # nodes answer "range too large" and "too many requests" with a status and, sometimes, a JSON-RPC error inside
            answer = _json(error.response)
            if "error" not in answer:
                status = None if error.response is None else error.response.status_code
                raise Unavailable(f"{self._name()}: {method} was answered with HTTP {status}") from error
        except _TooLarge as error:
            raise AnswerTooLarge(f"{self._name()}: {method} was answered with more than {MOST_ANSWER_BYTES} bytes") from error
        except (requests.exceptions.RequestException, ValueError) as error:  # ValueError: an answer that is not JSON
            self._is_checked = False  # another node may answer next
            raise Unavailable(f"{self._name()}: {method} was not answered ({type(error).__name__})") from error
        if "error" in answer:
            raise _node_error(method, answer["error"])
        return answer.get("result")

    def _connected(self) -> Any:
        with self._lock:
            if self._provider is None:
                from web3 import HTTPProvider  # 1 s to import: only who speaks to a node pays

                choices: dict[str, Any] = {"timeout": self._timeout, "stream": True, "hooks": {"response": _read_bounded}}
                if urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1"):
                    choices["proxies"] = {"http": None, "https": None, "all": None}  # this machine's proxy cannot reach it
                # make_request goes past web3's middleware: its retries would repeat each request five times, 0.3 s apart
                self._provider = HTTPProvider(self.url, request_kwargs=choices)
            return self._provider

    def _name(self) -> str:
        """The URL without its path and query, which may hold a key."""
        parts = urlsplit(self.url)
        return f"node {parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")


class _TooLarge(requests.exceptions.RequestException):
    pass


def _read_bounded(response: Any, **_: Any) -> None:
    """Read a streamed answer before anybody asks for its content, but not to whatever end."""
    body = bytearray()
    for piece in response.iter_content(1 << 16):
        body += piece
        if len(body) > MOST_ANSWER_BYTES:
            response.close()
            raise _TooLarge
    response._content = bytes(body)  # what `content` gives; requests 2.34 has no other way to say that it was read


_SMALLEST_RANGE = 16
_REVERTED = "execution reverted"
_EXECUTING = frozenset({"eth_call", "eth_estimateGas"})
_MOST_REASON = 512
"""Letters of a reason that are shown: whoever wrote the contract chooses it."""


def _node_error(method: str, record: Any) -> NodeRefused:
    message = str(record.get("message", record)) if isinstance(record, Mapping) else str(record)
    code = record.get("code") if isinstance(record, Mapping) else None
    data = record.get("data") if isinstance(record, Mapping) else None
    if isinstance(data, Mapping):
        data = data.get("data") or data.get("result")
    reason = _reason(data) if isinstance(data, str) else None
    is_execution = reason is not None or (method in _EXECUTING and is_of_the_contract(code, message))
    if reason is None and _REVERTED in message:
        reason = message.partition(_REVERTED)[2].lstrip(": ").removeprefix("revert: ")
    return NodeRefused((reason or message)[:_MOST_REASON], is_execution=is_execution)


def _reason(data: str) -> str | None:
    """The text of Solidity's `Error(string)`; None for other data. Source: Solidity documentation, "Revert"."""
    try:
        raw = _bytes(data) if data.startswith("0x") else b""
    except ValueError:
        return None
    if raw[:4] != bytes.fromhex("08c379a0") or len(raw) < 68:
        return None
    length = int.from_bytes(raw[36:68], "big")
    return raw[68 : 68 + length].decode("utf-8", "replace")


def _ours(error: NodeRefused) -> Refused | Unavailable:
    if error.is_execution:
        return Refused(f"the contract refused: {error.reason}", code="reverted")
    if "insufficient funds" in error.reason.lower():
        return Refused(f"the node refused: {error.reason}", code="no_gas_money")
    return NodeFault(f"the node answered with an error: {error.reason}")


def _json(response: Any) -> Mapping[str, Any]:
    try:
        record = response.json()
    except (AttributeError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _log(record: Mapping[str, Any]) -> Log:
    return Log(
        address=parse_address(record["address"].lower()),
        topics=tuple(record["topics"]),
        data=_bytes(record["data"]),
        block=int(record["blockNumber"], 16),
        transaction=TransactionHash(record["transactionHash"]),
        written_at=UnixSeconds(int(record["blockTimestamp"], 16)) if record.get("blockTimestamp") else None,
    )


def _mined(record: Mapping[str, Any]) -> Mined:
    to = record.get("to")
    return Mined(
        transaction=TransactionHash(record["transactionHash"]),
        status=int(record["status"], 16),
        block=int(record["blockNumber"], 16),
        block_hash=Bytes32(record["blockHash"]),
        gas_used=int(record["gasUsed"], 16),
        sender=parse_address(record["from"].lower()),
        to=parse_address(to.lower()) if to else None,
        logs=tuple(_log(cast(Mapping[str, Any], log)) for log in record["logs"]),
    )
