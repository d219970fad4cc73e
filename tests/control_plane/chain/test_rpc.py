"""A node's answers become ours."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from control_plane.chain.networks import LOCAL_CHAIN_ID
from control_plane.chain.rpc import NodeRefused, Rpc
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
