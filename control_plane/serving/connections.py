"""Kept-alive HTTP/1.1 connections to one server, shared by threads.

In: requests as bytes. Out: `http.client` responses whose head has arrived. This module must never read what a body means.

Plain `http.client`, because it is the fastest of what was measured: 0.35 to 0.48 ms for a small call to Triton, where a gRPC call
from a web worker's thread costs 1.1 ms more.
"""

from __future__ import annotations

import http.client
import select
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from control_plane.errors import BadInput, Unavailable

_MOST_IDLE = 64
_CONNECT_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Exchange:
    """A response whose body is still to be read, and the connection it comes over."""

    connection: http.client.HTTPConnection
    response: http.client.HTTPResponse


class Connections:
    """Gives a connection to one thread at a time. Idle ones are looked at before use: a server that restarted has closed them."""

    def __init__(self, url: str) -> None:
        """url: `http://host:port`. Raises BadInput for another form."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise BadInput("triton_url", "http://host:port", url)
        self._host, self._port = parts.hostname, parts.port or 80
        self._idle: deque[http.client.HTTPConnection] = deque(maxlen=_MOST_IDLE)

    def send(self, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Exchange:
        """Send a request and wait for the answer's head; timeout_s is for each wait for bytes.

        Raises Unavailable when nothing answers. A request goes out a second time only when a kept connection proved dead before one
        byte of an answer, which is what a server's closing it looks like; so only requests that may be done twice belong here.
        """
        try:
            kept = self._take_idle()
            if kept is not None:
                with suppress(ConnectionError):  # only sending shows that the server closed it since we looked
                    return _exchange(kept, method, path, body, headers, timeout_s)
            fresh = http.client.HTTPConnection(self._host, self._port, timeout=min(_CONNECT_TIMEOUT_S, timeout_s))
            return _exchange(fresh, method, path, body, headers, timeout_s)
        except TimeoutError as error:
            raise self._unavailable("did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise self._unavailable("does not answer") from error

    def read(self, exchange: Exchange) -> bytes:
        """The whole body; the connection is kept for the next request. Raises Unavailable when it breaks off."""
        try:
            body = exchange.response.read()
        except TimeoutError as error:
            exchange.connection.close()
            raise self._unavailable("did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            exchange.connection.close()
            raise self._unavailable("broke off") from error
        self.keep(exchange)
        return body

    def keep(self, exchange: Exchange) -> None:
        """Take back a connection whose answer was read to its end."""
        if exchange.response.will_close or not exchange.response.isclosed():
            exchange.connection.close()
        else:
            self._idle.append(exchange.connection)

    def close(self) -> None:
        """Close what is idle. Again: does nothing."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> http.client.HTTPConnection | None:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.sock is not None and not _is_readable(connection.sock.fileno()):
                return connection
            connection.close()

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"the inference server at {self._host}:{self._port} {what}")


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> Exchange:
    try:
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(timeout_s)
        connection.request(method, path, body, headers)
        return Exchange(connection, connection.getresponse())
    except BaseException:
        connection.close()
        raise


def _is_readable(descriptor: int) -> bool:
    """Whether an idle connection has something to say: then it was closed, or it is out of step; either way it is of no use."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
