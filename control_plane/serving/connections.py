"""Kept-alive HTTP/1.1 connections to one server, shared by threads.

In: requests as bytes. Out: answers: status and headers first, then the body. This module must never read what a body means.

Sockets and `httptools`, the parser of Node.js: `http.client` reads headers as it would an e-mail's, and took 193 microseconds of a
small call's processor time where this takes 78. A gRPC call from a web worker's thread costs 1.1 ms more than HTTP.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import httptools

from control_plane.errors import BadInput, Unavailable

_MOST_IDLE = 64
_CONNECT_TIMEOUT_S = 3.0
_READ_BYTES = 65536


class Answer:
    """One answer over one connection. status and headers (lower-case names) are there; the body is read piece by piece.

    The caller reads it to its end, or closes it: then the server sees that nobody waits any more.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Waits for the head. Raises ConnectionError when the server closes before a byte of it, otherwise OSError."""
        self.connection = connection
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = self.is_kept = False
        self._has_begun = self._has_head = False
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        while not self._has_head:
            self._receive()
        self.status = self._parser.get_status_code()

    def read_piece(self) -> bytes:
        """What has come of the body, at least one byte; waits for it. Empty at the body's end. Raises OSError."""
        while not self._pieces and not self.is_complete:
            self._receive()
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def read(self) -> bytes:
        """The rest of the body. Raises OSError."""
        while not self.is_complete:
            self._receive()
        return self.read_piece()

    def close(self) -> None:
        """End the connection. Again: does nothing."""
        self.connection.close()

    def _receive(self) -> None:
        try:
            more = self.connection.recv(_READ_BYTES)
            if not more:
                raise ConnectionError("closed before the end of an answer")
        except ConnectionError as error:
            if not self._has_begun:
                raise
            raise _Broken(str(error)) from error
        self._has_begun = True
        try:
            self._parser.feed_data(more)
        except httptools.HttpParserError as error:
            raise _Broken(f"not an HTTP/1.1 answer: {error}") from error

    # what the parser calls; the names are its own

    def on_message_begin(self) -> None:
        if self.is_complete:
            raise ValueError("a second answer, which nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self.is_complete = True
        self.is_kept = self._parser.should_keep_alive()


class _Broken(OSError):
    """An answer that had begun, and is none: not a ConnectionError, after which the request may be sent again."""


class Connections:
    """Gives a connection to one thread at a time. Idle ones are looked at before use: a server that restarted has closed them."""

    def __init__(self, url: str) -> None:
        """url: `http://host:port`. Raises BadInput for another form."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise BadInput("triton_url", "http://host:port", url)
        self._host, self._port = parts.hostname, parts.port or 80
        self._host_header = parts.netloc
        self._idle: deque[socket.socket] = deque(maxlen=_MOST_IDLE)

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
        """Send a request and wait for the answer's head; timeout_s is for each wait for bytes.

        Raises Unavailable when nothing answers. A request goes out a second time only when a kept connection proved dead before one
        byte of an answer, which is what a server's closing it looks like; so only requests that may be done twice belong here.
        """
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host_header}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join((*lines, "", "")).encode("latin-1") + body
        try:
            kept = self._take_idle()
            if kept is not None:
                with suppress(ConnectionError):  # only sending shows that the server closed it since we looked
                    return _exchange(kept, request, timeout_s)
            fresh = socket.create_connection((self._host, self._port), timeout=min(_CONNECT_TIMEOUT_S, timeout_s))
            fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _exchange(fresh, request, timeout_s)
        except TimeoutError as error:
            raise self._unavailable("did not answer in time") from error
        except OSError as error:
            raise self._unavailable("does not answer") from error

    def read(self, answer: Answer) -> bytes:
        """The whole body; the connection is kept for the next request. Raises Unavailable when it breaks off."""
        try:
            body = answer.read()
        except TimeoutError as error:
            answer.close()
            raise self._unavailable("did not answer in time") from error
        except OSError as error:
            answer.close()
            raise self._unavailable("broke off") from error
        self.keep(answer)
        return body

    def keep(self, answer: Answer) -> None:
        """Take back a connection whose answer was read to its end."""
        if not (answer.is_complete and answer.is_kept):
            answer.close()
        elif len(self._idle) < _MOST_IDLE:
            self._idle.append(answer.connection)
        else:
            answer.close()

    def close(self) -> None:
        """Close what is idle. Again: does nothing."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> socket.socket | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not _is_readable(connection.fileno()):
                return connection
            connection.close()

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"the inference server at {self._host}:{self._port} {what}")


def _exchange(connection: socket.socket, request: bytes, timeout_s: float) -> Answer:
    try:
        connection.settimeout(timeout_s)
        connection.sendall(request)
        return Answer(connection)
    except BaseException:
        connection.close()
        raise


def _is_readable(descriptor: int) -> bool:
    """Whether an idle connection has something to say: then it was closed, or it is out of step; either way it is of no use."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
