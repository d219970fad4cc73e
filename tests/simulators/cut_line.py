"""The line between a market and its database, cut in the very moment of a commit.

A proxy on a free port that passes bytes on. Told to cut, it waits for the next COMMIT of PostgreSQL's protocol, and ends that
connection before the server has heard of it, or after the server has done it and before anybody hears that.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType

from deploy.local.ports import HOST

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class CutLine:
    """Inside `with`; `port` is where to connect to."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut: str | None = None
        self.cuts = 0

    def cut(self, when: str) -> None:
        """when: `before` or `after` the next commit is done."""
        self._cut = when

    def __enter__(self) -> CutLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((HOST, self._to))
            threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
            threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):  # the other way may have ended and closed both
            while asked := client.recv(65_536):
                if COMMIT in asked and (when := self._cut) is not None:
                    self._cut = None
                    self.cuts += 1
                    client.shutdown(socket.SHUT_WR)  # nothing is told to the client any more
                    if when == "after":
                        server.sendall(asked)  # the server goes on with what it was sent, then sees the end
                    break
                server.sendall(asked)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while told := source.recv(65_536):
            target.sendall(told)
    for end in (source, target):
        end.close()
