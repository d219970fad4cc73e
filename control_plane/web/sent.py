"""The request that this thread answers, as the web server handed it over.

In: a WSGI environment. Out: its path, its headers, its body's bytes. This module must never read what a body means.

What lies on the way of a call reads its request here and not from Flask's, which is there only on Flask's own way (`calls.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from functools import cached_property
from typing import IO, TYPE_CHECKING

from werkzeug.wsgi import get_content_length, get_input_stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from control_plane.receipts.kept import Once


class Sent:
    """A request. most_bytes: of a body.

    route, did: the pattern that its path fits and the model named in it, None until somebody knows. once: a call's name for its
    buyer, where it has one.
    """

    def __init__(self, environ: WSGIEnvironment, most_bytes: int) -> None:
        self._environ, self.most_bytes = environ, most_bytes
        self.method: str = environ["REQUEST_METHOD"]
        self.route: str | None = None
        self.did: str | None = None
        self.once: Once | None = None
        self._body: bytes | None = None

    @cached_property
    def path(self) -> str:
        """As text. WSGI hands it over as Latin-1, whatever its bytes are."""
        return "/" + str(self._environ.get("PATH_INFO", "")).lstrip("/").encode("latin-1").decode("utf-8", "replace")

    def header(self, name: str) -> str | None:
        """Any but those of the content."""
        return self._environ.get("HTTP_" + name.upper().replace("-", "_"))

    @cached_property
    def mimetype(self) -> str:
        """Of the content, without parameters, in lower case; empty where none is told."""
        told: str = self._environ.get("CONTENT_TYPE", "")
        return told.partition(";")[0].strip().lower()

    @cached_property
    def content_length(self) -> int | None:
        """Bytes, as told; None where they come in chunks, or where nothing comes."""
        return get_content_length(self._environ)

    @cached_property
    def stream(self) -> IO[bytes]:
        """What comes of the body, never more than `most_bytes`. Raises werkzeug's RequestEntityTooLarge where more are told."""
        return get_input_stream(self._environ, max_content_length=self.most_bytes)

    @property
    def is_read(self) -> bool:
        """Whether the whole body was read, and its length was told."""
        return self._body is not None and self.content_length is not None

    def body(self) -> bytes:
        """The exact bytes. Raises RequestEntityTooLarge, ClientDisconnected. Again: the same."""
        if self._body is None:
            self._body = self.stream.read()
        return self._body


_current: ContextVar[Sent] = ContextVar("sent")


def sent() -> Sent:
    """Raises LookupError where no request is being answered."""
    return _current.get()


def received(application: WSGIApplication, most_bytes: int) -> WSGIApplication:
    """The application, in which `sent` tells of each request until its answer is there, or begins where it is streamed."""

    def answering(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        before = _current.set(Sent(environ, most_bytes))
        try:
            return application(environ, start)
        finally:
            _current.reset(before)  # a thread that waits for its next request keeps no body

    return answering
