"""Clients that call a market as buyers do: mixed prompts, whole answers, streams, streams left in the middle, and nonsense.

In: seats (a session for one model each), a number of clients, seconds. Out: one `Attempt` for every request, whatever became of it.
This module must never judge: what may happen stands in the attempt, `bench/settlement.py` compares.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from control_plane.did import Did, TransactionHash
from control_plane.receipts.receipt import Issued, request_hash, response_hash
from deploy.market import RECEIPT_HEADER, decode_receipt

REFUSALS = frozenset({429, 503})
"""What a market may answer to a right request when it is busy; then `Retry-After` says when to come again."""
_LONGEST_WAIT_S = 1.0
_WORDS = ("the", "market", "stands", "by", "harbour", "every", "stall", "keeps", "its", "own", "book", "of", "what", "was", "sold")


@dataclass(frozen=True)
class Seat:
    """A session of one order for one model. task: the model's."""

    did: Did
    task: str
    token: str
    order: TransactionHash


@dataclass(frozen=True)
class Attempt:
    """One request. status: 0 when no status came. expected: what a right server answers, besides `REFUSALS`.

    issued: the receipt that came with the answer. fits: whether its hashes are of the bytes sent and received. is_cut: we went away
    before the end. trouble: what is wrong with the answer.
    """

    kind: str
    seat: Seat
    request: bytes
    expected: int
    status: int
    seconds: float
    first_s: float | None = None
    issued: Issued | None = None
    fits: bool = False
    is_cut: bool = False
    has_retry_after: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Question:
    """leaves_after_bytes: when to go away in the middle of the stream; 0 means before any of it."""

    kind: str
    seat: Seat
    path: str
    body: bytes
    expected: int = 200
    token: str = ""
    is_streamed: bool = False
    leaves_after_bytes: int | None = None


def crowd(url: str, seats: Sequence[Seat], clients: int, duration_s: float, seed: int) -> list[Attempt]:
    """Every request that `clients` clients made in `duration_s` seconds. seed: makes the questions, not their order in time."""
    attempts: list[Attempt] = []
    until = time.monotonic() + duration_s
    threads = [threading.Thread(target=_client, args=(url, seats, until, seed + number, attempts)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return attempts


def _client(url: str, seats: Sequence[Seat], until: float, seed: int, attempts: list[Attempt]) -> None:
    chances = random.Random(seed)  # noqa: S311  # questions, not keys
    connection = _connected(url)
    while time.monotonic() < until:
        attempt, is_open = ask(connection, question(chances, seats))
        attempts.append(attempt)
        if attempt.status in REFUSALS:
            time.sleep(_LONGEST_WAIT_S * chances.random())
        if not is_open:
            connection.close()
            connection = _connected(url)
    connection.close()


def _connected(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)


def question(chances: random.Random, seats: Sequence[Seat]) -> Question:
    """The next request of a client: a kind by its weight among those that some seat's model fits, and such a seat."""
    tasks = {seat.task for seat in seats}
    kinds = {kind: weight for kind, (weight, task, _) in _KINDS.items() if task in tasks}
    kind = chances.choices(list(kinds), list(kinds.values()))[0]
    _, task, make = _KINDS[kind]
    return make(kind, chances, chances.choice([seat for seat in seats if seat.task == task]), seats)


def _text(chances: random.Random, most_words: int = 40) -> str:
    """No two are alike: receipts are found again by what was asked."""
    return " ".join([f"{chances.getrandbits(48):x}", *chances.choices(_WORDS, k=chances.randint(1, most_words))])


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _completion_body(chances: random.Random, seat: Seat, **more: Any) -> bytes:
    sampled = {"temperature": 0} if chances.random() < 0.5 else {"temperature": 0.8, "top_p": 0.9, "seed": chances.getrandbits(31)}
    return _dump({"model": seat.did, "prompt": _text(chances), "max_tokens": chances.randint(1, 48), **sampled, **more})


def _completion(kind: str, chances: random.Random, seat: Seat, _: Sequence[Seat]) -> Question:
    return Question(kind, seat, "/v1/completions", _completion_body(chances, seat))


def _stream(kind: str, chances: random.Random, seat: Seat, _: Sequence[Seat]) -> Question:
    return Question(kind, seat, "/v1/completions", _completion_body(chances, seat, stream=True), is_streamed=True)


def _cut_stream(kind: str, chances: random.Random, seat: Seat, _: Sequence[Seat]) -> Question:
    body = _completion_body(chances, seat, stream=True, max_tokens=128)
    leaves = 0 if chances.random() < 0.2 else chances.randint(1, 4000)
    return Question(kind, seat, "/v1/completions", body, is_streamed=True, leaves_after_bytes=leaves)


def _embedding(kind: str, chances: random.Random, seat: Seat, _: Sequence[Seat]) -> Question:
    texts = [_text(chances) for _ in range(chances.choice((1, 1, 2, 8)))]
    return Question(kind, seat, "/v1/embeddings", _dump({"model": seat.did, "input": texts}))


def _infer(kind: str, chances: random.Random, seat: Seat, _: Sequence[Seat]) -> Question:
    text = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": [_text(chances)]}
    return Question(kind, seat, f"/v2/models/{seat.did}/infer", _dump({"inputs": [text], "outputs": [{"name": "embedding"}]}))


def _nonsense(kind: str, chances: random.Random, seat: Seat, seats: Sequence[Seat]) -> Question:
    """Requests that no server may take, each with the status that says why."""
    right = {"model": seat.did, "prompt": _text(chances), "max_tokens": 4}
    without_data = {"inputs": [{"name": "text_input", "shape": [9], "datatype": "BYTES"}]}
    foreign = [other.token for other in seats if other.did != seat.did]
    path, body, expected, token = chances.choice(
        [
            ("/v1/completions", b'{"model": ', 400, ""),
            ("/v1/completions", b"[" * 5_000, 400, ""),
            ("/v1/completions", _dump({**right, "max_tokens": -1}), 400, ""),
            ("/v1/completions", _dump({**right, "no_such_parameter": 1}), 400, ""),
            ("/v1/completions", _dump(right), 401, "ph_nobody"),
            ("/v1/completions", _dump({**right, "model": "did:op:" + "0" * 64}), 404, ""),
            (f"/v2/models/{seat.did}/infer", _dump(without_data), 400, ""),
            *(("/v1/completions", _dump(right), 403, token) for token in foreign[:1]),
        ]
    )
    return Question(kind, seat, path, body, expected, token)


_KINDS: Mapping[str, tuple[float, str, Callable[..., Question]]] = {
    "completion": (25, "text-generation", _completion),
    "stream": (25, "text-generation", _stream),
    "cut stream": (15, "text-generation", _cut_stream),
    "embeddings": (12, "feature-extraction", _embedding),
    "infer": (13, "feature-extraction", _infer),
    "nonsense": (10, "text-generation", _nonsense),
}
"""By kind: how often, for models of which task, and what makes the question."""


def ask(connection: http.client.HTTPConnection, asked: Question) -> tuple[Attempt, bool]:
    """One request, and whether its connection can be used again."""
    began = time.perf_counter()
    headers = {"Authorization": f"Bearer {asked.token or asked.seat.token}", "Content-Type": "application/json"}

    def attempt(status: int, **more: Any) -> Attempt:
        seconds = time.perf_counter() - began
        return Attempt(asked.kind, asked.seat, asked.body, asked.expected, status, seconds, **more)

    try:
        connection.request("POST", asked.path, asked.body, headers)
        if asked.leaves_after_bytes == 0:
            _leave(connection)
            return attempt(0, is_cut=True), False
        answer = connection.getresponse()
        if answer.status == 200 and asked.is_streamed:
            found, is_open = _read_stream(connection, answer, asked, began)
            return attempt(200, **found), is_open
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return attempt(0, trouble=f"the connection broke: {type(error).__name__}"), False
    more: dict[str, Any] = {"has_retry_after": "Retry-After" in answer.headers}
    if answer.status == 200:
        more |= _with_receipt(asked.body, body, answer.headers.get(RECEIPT_HEADER))
    return attempt(answer.status, **more), not answer.will_close


def _with_receipt(request: bytes, response: bytes, header: str | None) -> dict[str, Any]:
    if header is None:
        return {"trouble": "an answer without a receipt"}
    return _fitting(request, response, Issued.from_json(decode_receipt(header)))


def _fitting(request: bytes, response: bytes, issued: Issued) -> dict[str, Any]:
    receipt = issued.signed.receipt
    hashes = request_hash(issued.salt, request), response_hash(issued.salt, response)
    return {"issued": issued, "fits": hashes == (receipt.request_hash, receipt.response_hash)}


def _read_stream(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, asked: Question, began: float
) -> tuple[dict[str, Any], bool]:
    """Read to the end, or to the place where this client goes away."""
    read, first_s = bytearray(), None
    while block := answer.read1(65_536):
        first_s = first_s or time.perf_counter() - began
        read += block
        if asked.leaves_after_bytes is not None and len(read) >= asked.leaves_after_bytes and b"data: [DONE]" not in read:
            _leave(connection)
            answer.close()
            return {"is_cut": True, "first_s": first_s}, False
    hashed = bytearray()
    for event in bytes(read).split(b"\n\n")[:-1]:
        payload = event.removeprefix(b"data: ")
        if payload == b"[DONE]":
            break
        record = json.loads(payload)
        if "error" in record:
            return {"first_s": first_s, "trouble": f"a broken stream: {record['error'].get('code')}"}, not answer.will_close
        if "receipt" in record:
            found = _fitting(asked.body, bytes(hashed), Issued.from_json(record["receipt"]))
            return {"first_s": first_s, **found}, not answer.will_close
        hashed += event + b"\n\n"
    return {"first_s": first_s, "trouble": "a stream that ended without a receipt"}, False


def _leave(connection: http.client.HTTPConnection) -> None:
    """As a program that was killed: the other side gets a reset, not a farewell."""
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
