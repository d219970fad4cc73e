"""A node's answers become ours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from control_plane.chain import rpc
from control_plane.chain.contracts import topic
from control_plane.chain.metadata import happened
from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.rpc import AnswerTooLarge, NodeFault, NodeRefused, Rpc
from control_plane.did import Address
from control_plane.errors import BadInput, Refused, Unavailable
from deploy.local.chain import ACCOUNTS, local_accounts

ALICE = local_accounts()["alice"].address
REASON = "0x08c379a0" + (32).to_bytes(32, "big").hex() + (7).to_bytes(32, "big").hex() + b"NOT YOU".ljust(32, b"\0").hex()


class Node:
    """Answers what it is told to: status and body by method."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {"eth_chainId": (200, {"result": hex(LOCAL_CHAIN_ID)})}
        self.asked: list[tuple[str, list[Any]]] = []
        self.url = ""

    def set(self, method: str, answer: Any, status: int = 200) -> None:
        self.answers[method] = (status, answer)


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            record = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made.asked.append((record["method"], record["params"]))
            status, answer = made.answers[record["method"]]
            answer = answer(record["params"]) if callable(answer) else answer
            body = answer if isinstance(answer, bytes) else json.dumps({"jsonrpc": "2.0", "id": record["id"], **answer}).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it so
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_node_that_is_gone_is_unavailable_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9"):
        Rpc("http://user:secret@127.0.0.1:9/key", LOCAL_CHAIN_ID).head()
    assert time.monotonic() - begun < 3


def test_the_url_of_a_node_is_shown_without_its_secrets() -> None:
    with pytest.raises(Unavailable) as caught:
        Rpc("http://user:secret@127.0.0.1:9/v3/abcdef?key=1", LOCAL_CHAIN_ID).head()
    for secret in ("secret", "abcdef", "key=1"):
        assert secret not in caught.value.message


def test_a_node_of_another_chain_is_refused_and_both_ids_are_named(node: Node) -> None:
    with pytest.raises(BadInput) as caught:
        Rpc(node.url, 137).head()
    assert "137" in caught.value.message
    assert str(LOCAL_CHAIN_ID) in caught.value.message


def test_the_chain_is_checked_once(node: Node) -> None:
    node.set("eth_getCode", {"result": "0x"})
    rpc = Rpc(node.url, LOCAL_CHAIN_ID)
    for _ in range(3):
        assert rpc.code(ALICE) == b""
    assert [method for method, _ in node.asked].count("eth_chainId") == 1


@pytest.mark.parametrize(
    "error",
    [
        {"code": 3, "message": "execution reverted: NOT YOU", "data": REASON},
        {"code": 3, "message": "execution reverted", "data": REASON},
        {"code": -32000, "message": "execution reverted: NOT YOU"},
        {"code": -32603, "message": "VM Exception while processing transaction: revert", "data": {"data": REASON}},
    ],
)
def test_a_revert_is_refused_with_its_reason(node: Node, error: dict[str, Any]) -> None:
    node.set("eth_call", {"error": error})
    with pytest.raises(Refused, match="NOT YOU"):
        Rpc(node.url, LOCAL_CHAIN_ID).call(ALICE, b"")


@pytest.mark.parametrize("method", ["eth_call", "eth_estimateGas"])
@pytest.mark.parametrize(
    "error",
    [
        {"code": -32000, "message": "out of gas"},  # geth, Erigon
        {"code": -32000, "message": "invalid opcode: INVALID"},
        {"code": -32000, "message": "invalid opcode: opcode 0xc not defined"},
        {"code": -32000, "message": "stack underflow (0 <=> 2)"},
        {"code": -32000, "message": "stack limit reached 1024 (1023)"},
        {"code": -32000, "message": "invalid jump destination"},
        {"code": -32000, "message": "write protection"},
        {"code": -32000, "message": "return data out of bounds"},
        {"code": -32000, "message": "gas uint64 overflow"},
        {"code": -32000, "message": "gas required exceeds allowance (50000000)"},
        {"code": 3, "message": "execution reverted", "data": "0x"},
        {"code": 3, "message": "execution reverted", "data": "0xnothing"},
        {"code": -32603, "message": "EVM error InvalidFEOpcode"},  # anvil
        {"code": -32603, "message": "EVM error OutOfGas"},
        {"code": -32603, "message": "EVM error MemoryOOG"},
        {"code": -32603, "message": "EVM error InvalidOperandOOG"},
        {"code": -32603, "message": "EVM error StackUnderflow"},
        {"code": -32603, "message": "EVM error StackOverflow"},
        {"code": -32603, "message": "EVM error InvalidJump"},
        {"code": -32603, "message": "EVM error OpcodeNotFound"},
        {"code": -32603, "message": "EVM error OutOfOffset"},
        {"code": -32603, "message": "EVM error PrecompileError"},
        {"code": -32015, "message": "VM execution error.", "data": "Bad instruction fe"},  # OpenEthereum, Nethermind
        {"code": -32015, "message": "VM execution error.", "data": "Reverted 0x"},
        {"code": -32003, "message": "out of gas", "data": "0x"},
        {"code": -32000, "message": "Out of gas"},  # Besu
        {"code": -32000, "message": "Invalid opcode: 0xfe"},
        {"code": -32000, "message": "Bad jump destination"},
    ],
    ids=lambda error: str(error["message"]),
)
def test_what_fails_in_a_contract_is_refused_in_the_words_of_each_node(node: Node, method: str, error: dict[str, Any]) -> None:
    node.set(method, {"error": error})
    rpc = Rpc(node.url, LOCAL_CHAIN_ID)
    with pytest.raises(Refused):
        rpc.call(ALICE, b"") if method == "eth_call" else rpc.estimate_gas(ALICE, ALICE, b"", 0)


@pytest.mark.parametrize(
    "error",
    [
        {"code": -32000, "message": "header not found"},
        {"code": -32000, "message": "missing trie node 1f0d30 (path ) state 0x1f0d30 is not available, not found"},
        {"code": -32000, "message": "execution aborted (timeout = 5s)"},
        {"code": -32000, "message": "historical state 1f0d30 is not available"},
        {"code": -32000, "message": "daily request count exceeded, request rate limited"},
        {"code": -32003, "message": "response too large"},
        {"code": -32005, "message": "limit exceeded"},
        {"code": -32603, "message": "Internal error"},
        {"code": -32603, "message": "EVM error FatalExternalError"},
        {"code": -32602, "message": "BlockOutOfRangeError: block height is 11 but requested was 1000000"},
        {"code": -32002, "message": "No state available for block 0x1f0d30"},
        {"code": 429, "message": "Your app has exceeded its compute units per second capacity."},
        {"code": -32016, "message": "over rate limit"},
        {"code": -32001, "message": "Unable to complete request at this time: google cloud is down"},
        {"code": -32000, "message": "stack trace: goroutine 7"},
    ],
    ids=lambda error: str(error["message"]),
)
def test_what_a_node_itself_fails_with_is_unavailable(node: Node, error: dict[str, Any]) -> None:
    node.set("eth_call", {"error": error})
    with pytest.raises(NodeFault, match="answered with an error"):
        Rpc(node.url, LOCAL_CHAIN_ID).call(ALICE, b"")


def test_words_of_a_contracts_failure_count_only_where_one_was_run(node: Node) -> None:
    node.set("eth_getCode", {"error": {"code": -32000, "message": "out of gas"}})
    with pytest.raises(NodeFault):
        Rpc(node.url, LOCAL_CHAIN_ID).code(ALICE)


def test_a_reason_of_any_length_is_shown_in_part(node: Node) -> None:
    node.set("eth_call", {"error": {"code": 3, "message": "execution reverted: " + "A" * 1_000_000}})
    with pytest.raises(Refused) as caught:
        Rpc(node.url, LOCAL_CHAIN_ID).call(ALICE, b"")
    assert len(caught.value.message) < 600


def test_a_call_says_how_much_gas_it_may_use_only_when_it_is_bounded(node: Node) -> None:
    node.set("eth_call", {"result": "0x"})
    rpc = Rpc(node.url, LOCAL_CHAIN_ID)
    rpc.call(ALICE, b"")
    rpc.call(ALICE, b"", gas=1_000_000)
    first, second = (params[0] for method, params in node.asked if method == "eth_call")
    assert (first.get("gas"), second["gas"]) == (None, "0xf4240")


def test_empty_accounts_are_refused(node: Node) -> None:
    node.set("eth_estimateGas", {"error": {"code": -32000, "message": "insufficient funds for gas * price + value"}})
    with pytest.raises(Refused, match="insufficient funds"):
        Rpc(node.url, LOCAL_CHAIN_ID).estimate_gas(ALICE, ALICE, b"", 0)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (200, {"error": {"code": -32005, "message": "too many requests"}}),
        (429, b"slow down"),
        (502, b"<html>bad gateway</html>"),
        (200, b"<html>a login page</html>"),
    ],
)
def test_a_node_in_trouble_is_unavailable(node: Node, status: int, answer: Any) -> None:
    node.set("eth_call", answer, status)
    with pytest.raises(Unavailable):
        Rpc(node.url, LOCAL_CHAIN_ID).call(ALICE, b"")


def test_a_refused_broadcast_says_so_in_the_nodes_words(node: Node) -> None:
    node.set("eth_sendRawTransaction", {"error": {"code": -32000, "message": "nonce too low"}})
    with pytest.raises(NodeRefused) as caught:
        Rpc(node.url, LOCAL_CHAIN_ID).broadcast(b"\x02")
    assert caught.value.reason == "nonce too low"


def test_a_range_that_is_too_large_is_halved_until_the_node_takes_it(node: Node) -> None:
    def answer(params: list[Any]) -> dict[str, Any]:
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if last - first >= 100:
            return {"error": {"code": -32005, "message": "query returned more than 100 blocks"}}
        log = {"address": ALICE, "topics": [], "data": "0x", "blockNumber": hex(first), "transactionHash": "0x" + "00" * 32}
        return {"result": [log]}

    node.set("eth_getLogs", answer)
    found = Rpc(node.url, LOCAL_CHAIN_ID).logs(ALICE, [], 0, 1000)
    blocks = [log.block for log in found]
    assert blocks == sorted(blocks)
    assert blocks[0] == 0
    ranges = [(int(p[0]["fromBlock"], 16), int(p[0]["toBlock"], 16)) for m, p in node.asked if m == "eth_getLogs"]
    taken = [(first, last) for first, last in ranges if last - first < 100]
    assert [last + 1 for _, last in taken[:-1]] == [first for first, _ in taken[1:]]
    assert taken[-1][1] == 1000


def log_of(block: int, size: int) -> dict[str, Any]:
    data = "0x" + "00" * size
    return {"address": ALICE, "topics": [], "data": data, "blockNumber": hex(block), "transactionHash": "0x" + "00" * 32}


def test_an_answer_is_not_read_to_whatever_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "MOST_ANSWER_BYTES", 10_000)
    node.set("eth_call", {"result": "0x" + "00" * 4_000})
    assert Rpc(node.url, LOCAL_CHAIN_ID).call(ALICE, b"") == bytes(4_000)
    node.set("eth_call", {"result": "0x" + "00" * 10_000})
    with pytest.raises(AnswerTooLarge, match="more than 10000 bytes"):
        Rpc(node.url, LOCAL_CHAIN_ID).call(ALICE, b"")


def test_events_that_are_too_many_to_be_held_are_asked_for_in_parts_where_one_contract_made_them(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(params: list[Any]) -> dict[str, Any]:
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        return {"result": [log_of(block, 1_000) for block in range(first, last + 1)]}

    monkeypatch.setattr(rpc, "MOST_ANSWER_BYTES", 10_000)
    node.set("eth_getLogs", answer)
    reader = Rpc(node.url, LOCAL_CHAIN_ID)
    assert [log.block for log in reader.logs(ALICE, [], 0, 19)] == list(range(20))
    with pytest.raises(AnswerTooLarge):
        reader.logs(None, [], 0, 19)
    assert [log.block for log in reader.logs(None, [], 0, 3)] == [0, 1, 2, 3]


@pytest.mark.parametrize("filled", ["MetadataUpdated", "MetadataState", None])
def test_events_of_one_block_that_are_too_many_are_asked_for_by_their_kind(
    node: Node, monkeypatch: pytest.MonkeyPatch, filled: str | None
) -> None:
    """filled: a kind that is too much even by itself; None: each has two events, and all together are too much."""
    names = ("MetadataCreated", "MetadataUpdated", "MetadataState")
    kinds = {topic("ERC721Template", name): name for name in names} | {topic("ERC20Template", "OrderStarted"): "OrderStarted"}

    def answer(params: list[Any]) -> dict[str, Any]:
        block, (asked,) = int(params[0]["fromBlock"], 16), params[0]["topics"]
        found = [kind for kind in asked for _ in range(2 if filled is None else 20 if kinds[kind] == filled else 1)]
        state = "0x" + "00" * 96  # what `MetadataState` has besides; to the other kinds it is no event of theirs
        return {"result": [{**log_of(block, 0), "data": state, "topics": [kind, "0x" + "00" * 32]} for kind in found]}

    monkeypatch.setattr(rpc, "MOST_ANSWER_BYTES", 3_000)
    node.set("eth_getLogs", answer)
    reader = Rpc(node.url, LOCAL_CHAIN_ID)
    told = happened(reader, 7, 7)
    assert told.untold == (() if filled is None else (filled,))
    assert told.touched == (() if filled == "MetadataState" else (ALICE,) * (2 if filled is None else 1))
    with pytest.raises(AnswerTooLarge):
        happened(reader, 7, 8)


def test_a_node_that_refuses_every_range_is_unavailable(node: Node) -> None:
    node.set("eth_getLogs", {"error": {"code": -32000, "message": "logs are switched off"}})
    with pytest.raises(Unavailable, match="logs are switched off"):
        Rpc(node.url, LOCAL_CHAIN_ID).logs(ALICE, [], 0, 1000)


def test_a_chain_without_eip_1559_has_a_gas_price(node: Node) -> None:
    node.set("eth_getBlockByNumber", {"result": {"number": "0x1"}})
    node.set("eth_gasPrice", {"result": "0x7"})
    fees = Rpc(node.url, LOCAL_CHAIN_ID).fees()
    assert (fees.most, fees.priority) == (7, None)


def test_a_node_without_a_tip_method_gets_one_gwei(node: Node) -> None:
    node.set("eth_getBlockByNumber", {"result": {"baseFeePerGas": "0x64"}})
    node.set("eth_maxPriorityFeePerGas", {"error": {"code": -32601, "message": "method not found"}})
    fees = Rpc(node.url, LOCAL_CHAIN_ID).fees()
    assert (fees.most, fees.priority) == (200 + 10**9, 10**9)


def test_a_chain_is_named_by_the_block_that_its_second_one_stands_on(node: Node) -> None:
    node.set("eth_getBlockByNumber", {"result": {"number": "0x1", "hash": "0x01", "parentHash": "0x00", "timestamp": "0x0"}})
    assert Rpc(node.url, LOCAL_CHAIN_ID).genesis() == "0x00"


def test_a_block_past_the_head_is_unavailable(node: Node) -> None:
    node.set("eth_getBlockByNumber", {"result": None})
    with pytest.raises(Unavailable, match="0x5"):
        Rpc(node.url, LOCAL_CHAIN_ID).block(5)


def test_an_unknown_receipt_is_none(node: Node) -> None:
    node.set("eth_getTransactionReceipt", {"result": None})
    assert Rpc(node.url, LOCAL_CHAIN_ID).receipt("0x" + "00" * 32) is None  # type: ignore[arg-type]


def test_the_local_accounts_are_the_mnemonics() -> None:
    assert local_accounts()["operator"].address == Address("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266")
    assert len({wallet.address for wallet in local_accounts().values()}) == len(ACCOUNTS)
