"""Connections are kept, given up when dead, and a request goes out twice only when nothing had come back."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from control_plane.errors import BadInput, Unavailable
from control_plane.serving.connections import Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request by `answer(connection number, request number on it)`; b"" closes without an answer."""

    def __init__(self, answer: Callable[[int, int], bytes]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[tuple[int, int]] = []
        self.closed: list[threading.Event] = []
        self.is_kept = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                self.closed.append(threading.Event())
                threading.Thread(target=self._serve, args=(accepted, len(self.closed) - 1), daemon=True).start()

    def _serve(self, accepted: socket.socket, number: int) -> None:
        with accepted, accepted.makefile("rb") as stream:
            for count in range(1000):
                length = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                if line == b"":
                    break
                stream.read(length)
                self.requests.append((number, count))
                answer = self._answer(number, count)
                accepted.sendall(answer)
                if not (answer.endswith(b"ok") or self.is_kept):
                    break
        self.closed[number].set()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int, int], bytes]], Server]]:
    servers: list[Server] = []

    def make(answer: Callable[[int, int], bytes]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


Make = Callable[[Callable[[int, int], bytes]], Server]


@pytest.fixture
def connect() -> Iterator[Callable[[str], Connections]]:
    with contextlib.ExitStack() as stack:
        yield lambda url: stack.enter_context(contextlib.closing(Connections(url)))


Connect = Callable[[str], Connections]


def ask(connections: Connections, timeout_s: float = 5.0) -> bytes:
    return connections.read(connections.send("POST", "/", b"{}", {}, timeout_s))


def test_one_connection_serves_one_call_after_another(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: OK)
    connections = connect(server.url)
    assert [ask(connections) for _ in range(5)] == [b"ok"] * 5
    assert server.requests == [(0, count) for count in range(5)]


def test_a_connection_that_the_server_closed_meanwhile_is_not_used(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: OK.replace(b"ok", b"ko") if number == 0 else OK)
    connections = connect(server.url)
    assert ask(connections) == b"ko"
    assert server.closed[0].wait(5)
    assert ask(connections) == b"ok"
    assert server.requests == [(0, 0), (1, 0)]


def test_a_kept_connection_that_dies_before_an_answer_costs_one_more_try(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: b"" if (number, count) == (0, 1) else OK)
    connections = connect(server.url)
    assert [ask(connections), ask(connections)] == [b"ok", b"ok"]
    assert server.requests == [(0, 0), (0, 1), (1, 0)]


def test_a_fresh_connection_that_dies_is_not_tried_again(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: b"")
    with pytest.raises(Unavailable):
        ask(connect(server.url))
    assert server.requests == [(0, 0)]


def test_an_answer_that_breaks_off_is_not_asked_for_again(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: OK if (number, count) == (0, 0) else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    connections = connect(server.url)
    ask(connections)
    with pytest.raises(Unavailable, match="broke off"):
        ask(connections)
    assert server.requests == [(0, 0), (0, 1)]


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 200 O", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf"],
)
def test_an_answer_that_had_begun_is_never_asked_for_again(serve: Make, connect: Connect, begun: bytes) -> None:
    server = serve(lambda number, count: OK if (number, count) == (0, 0) else begun)
    connections = connect(server.url)
    ask(connections)
    with pytest.raises(Unavailable):
        ask(connections)
    assert server.requests == [(0, 0), (0, 1)]


def test_a_body_in_chunks_is_read_whole_and_its_connection_kept(serve: Make, connect: Connect) -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: ok\r\n\r\n"
    server = serve(lambda number, count: chunks)
    connections = connect(server.url)
    server.is_kept = True
    assert [ask(connections), ask(connections)] == [b"abcde", b"abcde"]
    assert server.requests == [(0, 0), (0, 1)]


def test_a_server_that_says_it_closes_is_asked_over_a_new_connection(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: OK.replace(b"Content", b"Connection: close\r\nContent"))
    connections = connect(server.url)
    assert [ask(connections), ask(connections)] == [b"ok", b"ok"]
    assert server.requests == [(0, 0), (1, 0)]


def test_a_second_answer_to_one_request_is_no_answer(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: OK + OK)
    with pytest.raises(Unavailable):
        ask(connect(server.url))


def test_names_of_headers_are_in_lower_case_and_the_status_is_told(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: b"HTTP/1.1 418 Teapot\r\nX-Some-Name: 1\r\nContent-Length: 2\r\n\r\nok")
    answer = connect(server.url).send("POST", "/", b"", {}, 5.0)
    assert (answer.status, answer.headers["x-some-name"], answer.read()) == (418, "1", b"ok")
    answer.close()


def test_silence_is_unavailable_and_never_asked_for_again(serve: Make, connect: Connect) -> None:
    hold = threading.Event()

    def silent(number: int, count: int) -> bytes:
        hold.wait(5)
        return b""

    server = serve(silent)
    with pytest.raises(Unavailable, match="in time"):
        ask(connect(server.url), timeout_s=0.2)
    hold.set()
    assert server.requests == [(0, 0)]


def test_what_is_not_http_is_unavailable(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(Unavailable):
        ask(connect(server.url))


def test_nobody_listening_is_unavailable(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unavailable, match="does not answer"):
        ask(connect(f"http://127.0.0.1:{port}"))


def test_threads_never_share_a_connection(serve: Make, connect: Connect) -> None:
    server = serve(lambda number, count: OK)
    connections = connect(server.url)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: ask(connections), range(200))) == [b"ok"] * 200
    assert len(server.requests) == 200
    assert 1 <= len(server.closed) <= 8


@pytest.mark.parametrize("url", ["https://a", "127.0.0.1:8000", "http://", "http://a/path", "unix:///x"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        Connections(url)
