"""Calls a server over and over, and tells how long each call took.

In: an address, headers and a body. Out: seconds per call. This module must never know what it calls: all sides of a comparison
use the same client.
"""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answered:
    """One answer with status 200. seconds: from sending to having read all of it."""

    seconds: float
    headers: http.client.HTTPMessage
    body: bytes


@dataclass(frozen=True)
class Target:
    """Where to post what. name: how the report calls it."""

    name: str
    url: str
    headers: Mapping[str, str]
    body: bytes

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        connection.connect()
        return connection

    def call(self, connection: http.client.HTTPConnection) -> Answered:
        """One call over a kept connection. Raises RuntimeError for any answer but 200."""
        began = time.perf_counter()
        connection.request("POST", urlsplit(self.url).path, self.body, dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
        if answer.status != 200:
            raise RuntimeError(f"{self.name}: expected status 200, found {answer.status}: {body[:300]!r}")
        return Answered(took, answer.headers, body)


def one_after_another(target: Target, calls: int) -> list[Answered]:
    """`calls` calls by one client over one connection."""
    connection = target.connect()
    try:
        return [target.call(connection) for _ in range(calls)]
    finally:
        connection.close()


@dataclass(frozen=True)
class Crowd:
    """calls_per_s: calls finished by all clients together, a second. seconds: of each call."""

    calls_per_s: float
    seconds: list[float]


def side_by_side(target: Target, clients: int, duration_s: float) -> Crowd:
    """`clients` clients, each calling again as soon as it is answered, for `duration_s` seconds from when all are connected."""
    taken: list[list[float]] = [[] for _ in range(clients)]
    failures: list[BaseException] = []
    began: list[float] = []
    start = threading.Barrier(clients, action=lambda: began.append(time.perf_counter()))

    def client(mine: list[float]) -> None:
        connection = None
        try:
            connection = target.connect()
            start.wait()
            while time.perf_counter() < began[0] + duration_s:
                mine.append(target.call(connection).seconds)
        except threading.BrokenBarrierError:  # another could not connect, and says why
            return
        except BaseException as error:
            failures.append(error)
            start.abort()
        finally:
            if connection is not None:
                connection.close()

    threads = [threading.Thread(target=client, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    calls = [seconds for mine in taken for seconds in mine]
    return Crowd(len(calls) / (time.perf_counter() - began[0]), calls)


def percentile(seconds: list[float], share: float) -> float:
    """The value below which `share` (0..1) of the calls stay; seconds."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: list[float]) -> float:
    return statistics.median(values)
