"""Files of strangers' assets, fetched from where they say, and never from inside the operator's network.

In: a URL that a stranger chose. Out: its bytes, up to a limit. This module must never connect to an address that it has not checked
itself, nor tell more of an internal one than that it is not for use.

A name is resolved once, every address of it is checked, and the connection goes to the checked address: asked again, a hostile name
server could answer with another one (rebinding). Ocean Provider 2.1 checks the name, then lets the library resolve it anew.
Redirects are followed by the same rule, step by step. Proxies of the environment are not used: behind one nobody could say where
it connects.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from control_plane.errors import BadInput, TooMany, Unavailable

REDIRECTS = 3
AT_ONCE = 16
OWN_FILES = "/v1/algorithms/"
AGENT = "posthuman"
"""The `User-Agent` of what is fetched here. A market serves no such request but for `OWN_FILES` (`web/own_fetches.py`): it has more
names than it knows, and a file that is a question to the market itself would be fetched again and again, by itself."""
CHUNK = 1 << 16
CONNECT_S = 5.0
READ_S = 10.0
HEAD_S = 30.0
"""The longest until the head of an answer is there, TLS included."""
WHOLE_S = 900.0
"""The longest that one file may take, and all the files of a job: a server that sends a byte now and then would hold a thread for
ever."""
FILE_BROKE_OFF = "file_broke_off"
"""The code of a file that ended early, or took too long."""
_EMBEDDED = tuple(ipaddress.ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 that reaches IPv4 addresses inside it (NAT64, 6to4, Teredo)."""
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True)
class RemoteFile:
    """One file of a service. headers: what its publisher wants to be sent along."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """An answer that has begun. length: in bytes, where it was told. chunks: the rest; must be read, or closed by `close`."""

    status: int
    length: int | None
    content_type: str
    content_range: str | None
    chunks: Iterator[bytes]
    close: Callable[[], None]


def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, IPv4 first, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in sorted(found, key=lambda each: each[0] != socket.AF_INET)]


class Fetcher:
    """Fetches within limits.

    internal: `host:port` of servers inside the network that files may lie on all the same, by the operator's word.
    most_bytes: of one file. own: this market's `host:port`, where the files of its own algorithms lie, and nothing else may be
    fetched: a file that is a call of ours would call itself. at_once: fetches under way; each holds a thread.
    """

    def __init__(
        self, internal: frozenset[str], most_bytes: int, resolve: Resolve = resolve, own: str | None = None, at_once: int = AT_ONCE
    ) -> None:
        self._internal, self.most_bytes, self._resolve, self._own = internal, most_bytes, resolve, own
        self._places = threading.BoundedSemaphore(at_once)

    def open(self, file: RemoteFile, byte_range: str | None = None) -> Fetched:
        """Begin to fetch. Raises BadInput with code file_unavailable when there is no such file, it is too large, or it lies where
        nothing may be fetched; which of these, is not told. byte_range: a `Range` header that is passed on. Raises TooMany when as
        many are under way as may be.
        """
        if not self._places.acquire(blocking=False):
            raise TooMany("files: as many are being fetched as may be at once", code="too_many_fetches", retry_after_s=5)
        try:
            return self._open(file, byte_range)
        except BaseException:
            self._places.release()
            raise

    def _open(self, file: RemoteFile, byte_range: str | None) -> Fetched:
        url, method = file.url, file.method
        theirs, ours = _allowed(file.headers), {"Accept-Encoding": "identity", "User-Agent": AGENT}
        if byte_range is not None:
            ours["Range"] = byte_range
        for _ in range(REDIRECTS + 1):
            connection, answer = self._ask(url, method, {**theirs, **ours})
            target = answer.getheader("Location")
            if answer.status not in (301, 302, 303, 307, 308) or target is None:
                return self._begun(connection, answer)
            answer.close()
            connection.close()
            try:
                following = urljoin(url, target)
                is_same = urlsplit(following)[:2] == urlsplit(url)[:2]
            except ValueError as error:
                raise unavailable() from error
            if not is_same:  # what is meant for one server, and for its ears alone, is not told another
                theirs = {}
            url, method = following, method if answer.status in (307, 308) else "GET"
        raise unavailable()

    def _ask(
        self, url: str, method: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").removesuffix(".")  # the root's dot: the same name
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
            host.encode("idna")
        except (ValueError, UnicodeError) as error:
            raise unavailable() from error
        if not host or not port or parts.username is not None or parts.scheme not in ("http", "https"):
            raise unavailable()
        address = self._checked(host, port, parts.path)
        connection = _Pinned(host, port, address, is_secure=parts.scheme == "https")
        try:
            with _within(HEAD_S, connection):
                connection.request(method, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), headers=dict(headers))
                answer = connection.getresponse()
            return connection, answer
        except (OSError, http.client.HTTPException, ValueError, UnicodeError) as error:
            connection.close()
            raise unavailable() from error

    def _checked(self, host: str, port: int, path: str) -> str:
        """The address to connect to. All of a name's addresses must be public: one that is not is no accident."""
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise unavailable() from error
        place = f"{host}:{port}"
        if place == self._own:
            is_allowed = path.startswith(OWN_FILES) and ".." not in path
        else:
            is_allowed = place in self._internal or all(is_public(each) for each in found)
        if not found or not is_allowed:
            raise unavailable()
        return found[0]

    def _begun(self, connection: http.client.HTTPConnection, answer: http.client.HTTPResponse) -> Fetched:
        told = answer.getheader("Content-Length")
        length = int(told) if told is not None and told.isascii() and told.isdigit() and len(told) < 16 else None

        is_open = threading.Lock()  # taken by the first to close: a place is given back once

        def close() -> None:
            answer.close()  # it holds the socket where the server says that it will close
            connection.close()
            if is_open.acquire(blocking=False):
                self._places.release()

        def told_of(name: str) -> str | None:
            """A header that is passed on: a folded one would be two."""
            value = answer.getheader(name)
            return value[:128] if value is not None and value.isprintable() else None

        if answer.status not in (200, 206) or (length is not None and length > self.most_bytes):
            answer.close()
            connection.close()
            raise unavailable()
        return Fetched(
            status=answer.status,
            length=length,
            content_type=told_of("Content-Type") or "application/octet-stream",
            content_range=told_of("Content-Range"),
            chunks=_chunks(answer, self.most_bytes, length, close),
            close=close,
        )


def is_public(text: str) -> bool:
    """An address that anybody in the world could reach, and none that leads back inside."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if any(address in network for network in _EMBEDDED):
            return False
    return address.is_global and not address.is_multicast


def unavailable() -> BadInput:
    return BadInput("file", "one that can be fetched here, not too large", "another", code="file_unavailable")


@contextmanager
def _within(seconds: float, connection: _Pinned) -> Iterator[None]:
    """A time for all of it: a socket's own patience begins anew with each byte. Raises TimeoutError."""
    is_over = threading.Event()

    def hang_up() -> None:
        is_over.set()
        connection.hang_up()

    watch = threading.Timer(seconds, hang_up)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
    if is_over.is_set():  # http.client takes a line that ends in the middle for the last one
        raise TimeoutError


def _chunks(answer: http.client.HTTPResponse, most_bytes: int, length: int | None, close: Callable[[], None]) -> Iterator[bytes]:
    """Raises Unavailable when the file ends early, is longer than allowed, or takes too long: a part of it is never taken for
    all.
    """
    seen, until = 0, time.monotonic() + WHOLE_S
    try:
        while chunk := answer.read1(CHUNK):  # what is there: `read` waits for a whole chunk, however slowly it drips
            seen += len(chunk)
            if seen > most_bytes or time.monotonic() > until:
                raise Unavailable("the file is longer, or slower, than is allowed here", code=FILE_BROKE_OFF)
            yield chunk
        if length is not None and seen != length:
            raise Unavailable("the file ended early", code=FILE_BROKE_OFF)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("the file ended early", code=FILE_BROKE_OFF) from error
    finally:
        close()


def _allowed(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of a stranger's choice, without those that say how the request itself is to be read, however a server reads their
    names: some take `_` for `-`, and leave spaces out."""
    ours = (
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "accept-encoding",
        "range",
        "expect",
        "upgrade",
        "user-agent",
    )
    return {name: value for name, value in headers.items() if name.strip().lower().replace("_", "-") not in ours}


class _Pinned(http.client.HTTPConnection):
    """Connects to the address it is given, and speaks, and checks certificates, as to the name."""

    def __init__(self, host: str, port: int, address: str, is_secure: bool) -> None:
        super().__init__(host, port, timeout=CONNECT_S)
        self._address, self._is_secure = address, is_secure
        self._line: socket.socket | None = None
        self.default_port = 443 if is_secure else 80  # the port that the Host header leaves out

    def connect(self) -> None:
        made = socket.create_connection((self._address, self.port), CONNECT_S)
        self._line = made.dup()  # TLS takes the socket itself over
        made.settimeout(READ_S)
        if self._is_secure:
            made = ssl.create_default_context().wrap_socket(made, server_hostname=self.host)
        self.sock = made

    def hang_up(self) -> None:
        """From another thread: who speaks over it finds its end."""
        if self._line is not None:
            with suppress(OSError):
                self._line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        if self._line is not None:
            self._line.close()
