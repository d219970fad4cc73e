"""Streams of generated tokens over HTTP, as a buyer's client reads them.

In: an address, headers, a body for each prompt. Out: when each answer began, gave its first text and ended, and its tokens. This
module must never know what it calls: every server of a comparison is read by the same code.
"""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

_COUNT = re.compile(rb'"completion_tokens": ?(\d+)')
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Door:
    """Where to ask for a stream. body: of a prompt and a number of tokens."""

    name: str
    url: str
    headers: Mapping[str, str]
    body: Callable[[str, int], bytes]

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        connection.connect()
        return connection


@dataclass(frozen=True)
class Streamed:
    """Seconds, by one clock. tokens: made, as the server's last count says."""

    began: float
    first: float
    ended: float
    tokens: int


def stream(door: Door, connection: http.client.HTTPConnection, prompt: str, tokens: int) -> Streamed:
    """One answer, read to its end. Raises RuntimeError for another status, and for an answer of another number of tokens."""
    body = door.body(prompt, tokens)
    began = time.perf_counter()
    connection.request("POST", urlsplit(door.url).path, body, dict(door.headers))
    answer = connection.getresponse()
    if answer.status != 200:
        raise RuntimeError(f"{door.name}: expected status 200, found {answer.status}: {answer.read(300)!r}")
    said = first_part = answer.read1(_READ_BYTES)
    first = time.perf_counter()
    while first_part:
        first_part = answer.read1(_READ_BYTES)
        said += first_part
    ended = time.perf_counter()
    made = max((int(count) for count in _COUNT.findall(said)), default=0)
    if made != tokens:
        raise RuntimeError(f"{door.name}: expected {tokens} tokens, found {made}, at the end {said[-300:]!r}")
    return Streamed(began, first, ended, made)


def together(door: Door, prompts: Sequence[str], tokens: int) -> list[Streamed]:
    """One client a prompt, all at once, each over a connection of its own that is open already."""
    return _clients(len(prompts), door, lambda number, connection: [stream(door, connection, prompts[number], tokens)])


def over_and_over(door: Door, prompts: Sequence[str], tokens: int, duration_s: float) -> list[Streamed]:
    """As many clients, one coming after the other, each asking again when it is answered, until the time is over."""
    until = time.perf_counter() + duration_s

    def client(number: int, connection: http.client.HTTPConnection) -> list[Streamed]:
        time.sleep(duration_s * number / (4 * len(prompts)))
        made: list[Streamed] = []
        while time.perf_counter() < until:
            made.append(stream(door, connection, prompts[(number + len(made)) % len(prompts)], tokens))
        return made

    return _clients(len(prompts), door, client)


def _clients(count: int, door: Door, client: Callable[[int, http.client.HTTPConnection], list[Streamed]]) -> list[Streamed]:
    made: list[Streamed] = []
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            with closing(door.connect()) as connection:
                start.wait()
                made.extend(client(number, connection))
        except BaseException as error:
            start.abort()
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((one for one in failures if not isinstance(one, threading.BrokenBarrierError)), failures[0])
    return made


def tokens_a_second(made: Sequence[Streamed]) -> float:
    """Of all together, from the first question to the last answer's end."""
    return sum(one.tokens for one in made) / (max(one.ended for one in made) - min(one.began for one in made))
