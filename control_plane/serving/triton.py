"""The real inference server, over HTTP/1.1.

In: an entry's name and a request. Out: the answer's bytes or pieces, or our errors. This module must never read a tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from control_plane.errors import Unavailable
from control_plane.serving.connections import Answer, Connections
from control_plane.serving.inference import ABANDONED, Generated, TensorAnswer, never
from control_plane.serving.request_ids import HEADER as REQUEST_ID_HEADER
from control_plane.serving.request_ids import asked
from control_plane.serving.triton_messages import (
    error_from,
    error_text,
    generate_body,
    generated_from,
    is_beat,
    json_object,
    management_error_from,
)

KEY_HEADER = "triton-key"
HEADER_LENGTH = "Inference-Header-Content-Length"
WAIT_HEADER = "X-Posthuman-Wait-Ms"
"""Beside the untouched body of an `infer`, what `wait_ms` is inside that of a generation."""
_LOAD_TIMEOUT_S = 900.0
"""Opening a model of many GB from a cold disk takes minutes."""


class Triton:
    """Implements `InferenceServer`. Safe to share between threads; a process that forks makes its own after forking.

    Every request carries the management key: the server answers nobody else, so that nobody calls past the gate.
    """

    def __init__(self, url: str, management_key: str, *, timeout_s: float = 120.0, queue_s: float | None = None) -> None:
        """url: `http://host:port`. timeout_s: longest wait for the next bytes of an answer. queue_s: how long a call may wait
        until it is computed; None: any time.

        Raises BadInput for a URL of another form.
        """
        self._connections = Connections(url)
        self._timeout_s, self._wait_ms = timeout_s, None if queue_s is None else int(queue_s * 1000)
        self._headers = {KEY_HEADER: management_key}
        self._json_headers = {**self._headers, "Content-Type": "application/json"}
        self._waiting = {} if self._wait_ms is None else {WAIT_HEADER: str(self._wait_ms)}

    def is_ready(self) -> bool:
        """Whether the server answers and says that it is ready; never raises."""
        try:
            answer = self._connections.send("GET", "/v2/health/ready", b"", {}, min(5.0, self._timeout_s))
            self._connections.read(answer)
        except Unavailable:
            return False
        return answer.status == 200

    def loaded(self) -> frozenset[str]:
        """Names of the entries that are ready to answer. Raises Unavailable."""
        index = self._manage("index", b'{"ready":true}', "index", self._timeout_s)
        # A list inside an object, since that is the one form `json_object` takes.
        return frozenset(str(line["name"]) for line in json_object(b'{"index":%b}' % index)["index"])

    def load(self, name: str) -> None:
        """Again: does nothing while the folder is unchanged; else loads it, and the old one answers until the new one is ready.

        So an entry whose process has died (Unavailable with code `backend_crashed`) must be unloaded first.
        Raises NotFound when the repository has no such folder, Unavailable when the server or the loading fails.
        """
        self._manage(f"models/{_quoted(name)}/load", b"", name, _LOAD_TIMEOUT_S)

    def unload(self, name: str) -> None:
        """Calls in flight are finished first. Again: does nothing. Raises Unavailable."""
        self._manage(f"models/{_quoted(name)}/unload", b"", name, self._timeout_s)

    def infer(self, name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        """Raises BadInput, NotFound and Unavailable. Again: computes again."""
        if header_length is None:
            headers = {**self._json_headers, **self._waiting}
        else:
            form = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(header_length)}
            headers = {**self._headers, **form, **self._waiting}
        if identity := asked().id:
            headers = {**headers, REQUEST_ID_HEADER: identity}
        read, answer = self._call(name, "infer", body, headers)
        length = answer.headers.get(HEADER_LENGTH.lower())
        return TensorAnswer(read, None if length is None else int(length))

    def generate(self, name: str, fields: Mapping[str, Any], caller: str = "", is_over: Callable[[], bool] = never) -> Generated:
        """Raises BadInput naming the field, NotFound and Unavailable.

        Asked as a stream of one piece: Triton 2.51 cancels nothing of its `generate` when the connection closes (tried with both
        ways of closing), and of a stream when it writes. As a stream it takes no longer: 0.85 ms for one token either way.
        """
        return next(self._stream(name, fields, caller, is_over, is_streamed=False))

    def generate_stream(
        self, name: str, fields: Mapping[str, Any], caller: str = "", is_over: Callable[[], bool] = never
    ) -> PieceStream:
        """Returns once the first piece is there, so that a refusal is raised here and not in the middle of an answer.

        Raises BadInput naming the field, NotFound and Unavailable; the iterator raises Unavailable when the stream breaks off.
        """
        return self._stream(name, fields, caller, is_over, is_streamed=True)

    def _stream(
        self, name: str, fields: Mapping[str, Any], caller: str, is_over: Callable[[], bool], *, is_streamed: bool
    ) -> PieceStream:
        body = generate_body(fields, is_streamed=is_streamed, caller=caller, request_id=asked().id, wait_ms=self._wait_ms)
        path = f"/v2/models/{_quoted(name)}/generate_stream"
        answer = self._connections.send("POST", path, body, self._json_headers, self._timeout_s)
        return PieceStream(self._connections, answer, name, self._timeout_s, is_over)

    def close(self) -> None:
        self._connections.close()

    def _call(self, name: str, verb: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, Answer]:
        answer = self._connections.send("POST", f"/v2/models/{_quoted(name)}/{verb}", body, headers, self._timeout_s)
        read = self._connections.read(answer)
        if answer.status != 200:
            raise error_from(answer.status, error_text(read), name)
        return read, answer

    def _manage(self, path: str, body: bytes, name: str, timeout_s: float) -> bytes:
        answer = self._connections.send("POST", f"/v2/repository/{path}", body, self._json_headers, timeout_s)
        read = self._connections.read(answer)
        if answer.status != 200:
            raise management_error_from(answer.status, error_text(read), name)
        return read


class PieceStream(Iterator[Generated]):
    """Pieces of one generation as they come. `close` before the end breaks the connection, at which Triton stops computing."""

    def __init__(self, connections: Connections, answer: Answer, name: str, timeout_s: float, is_over: Callable[[], bool]) -> None:
        """Waits for the first piece. timeout_s: longest wait for any. Raises as `Triton.generate_stream`."""
        self._connections, self._answer, self._name = connections, answer, name
        self._timeout_s, self._is_unwanted = timeout_s, is_over
        self._unread = b""
        self._is_over = False
        if answer.status != 200:
            text = connections.read(answer).decode("utf-8", "replace")
            raise error_from(answer.status, error_text(text.removeprefix("data:").strip().encode()), name)
        self._first: Generated | None = self._read_piece()

    def __next__(self) -> Generated:
        if self._first is not None:
            piece, self._first = self._first, None
            return piece
        if self._is_over:
            raise StopIteration
        return self._read_piece()

    def close(self) -> None:
        """Again: does nothing."""
        self._first = None
        if not self._is_over:
            self._is_over = True
            self._answer.close()

    def _read_piece(self) -> Generated:
        try:
            latest = time.monotonic() + self._timeout_s
            while is_beat(record := json_object(self._read_event())):
                if self._is_unwanted():
                    raise Unavailable(f"{self._name}: nobody waits for this answer any more", code=ABANDONED)
                if time.monotonic() > latest:
                    raise self._too_slow()
            if "error" in record:
                raise error_from(200, str(record["error"]), self._name)
            piece = generated_from(record)
        except BaseException:
            self.close()
            raise
        if piece.finish_reason is not None:
            self._end()
        return piece

    def _read_event(self) -> bytes:
        """The data of the next server-sent event; Triton writes it on one line."""
        while b"\n\n" not in self._unread:
            try:
                more = self._answer.read_piece()
            except TimeoutError as error:
                raise self._too_slow() from error
            except OSError as error:
                raise Unavailable(f"{self._name}: the inference server broke off in the middle of an answer") from error
            if not more:
                raise Unavailable(f"{self._name}: the inference server ended an answer before it was complete")
            self._unread += more
        event, self._unread = self._unread.split(b"\n\n", 1)
        return event.removeprefix(b"data:").strip()

    def _too_slow(self) -> Unavailable:
        return Unavailable(f"{self._name}: the inference server gave nothing for {self._timeout_s:g} s in the middle of an answer")

    def _end(self) -> None:
        """The last piece is read: what follows is the end of the body, after which the connection can serve another call."""
        self._is_over = True
        try:
            self._connections.read(self._answer)
        except Unavailable:
            return  # the answer is complete, only the connection is lost


def _quoted(name: str) -> str:
    return quote(name, safe="")
