"""The probes of an entry, asked of a real Triton over HTTP with the standard library alone.

In: a server's address and key, an entry's folder. Out: differences. This module must never compare an answer by a rule of its own:
`converters/probes.py` does.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from converters.entry import Entry
from converters.probes import Difference, Probe, ProbeTensor, differences, infer_answer, infer_request, read_probes
from converters.tasks.task import FILES

_HEADER_LENGTH = "Inference-Header-Content-Length"
_NUMBERS = {"INT32": "i", "INT64": "q", "FP32": "f", "BOOL": "?"}


class ServedWrongly(Exception):
    """Triton refused to load an entry, or did not answer a probe as PyTorch did; the message says which and what it said."""


@dataclass(frozen=True)
class Replayed:
    """probes: calls asked. relative: the worst difference of all their outputs; bound: the one it kept."""

    probes: int
    relative: float
    bound: float


@dataclass(frozen=True)
class Server:
    """A running Triton. url: `http://host:port`. key: of its management. timeout_s: of one call."""

    url: str
    key: str
    timeout_s: float = 60.0

    def load(self, name: str) -> None:
        """Raises ServedWrongly with what Triton says. Again: loads what changed."""
        self._manage(f"models/{quote(name, safe='')}/load")

    def unload(self, name: str) -> None:
        """Returns once nothing of it answers. Again: does nothing."""
        self._manage(f"models/{quote(name, safe='')}/unload", b'{"parameters":{"unload_dependents":false}}')

    def is_ready(self) -> bool:
        try:
            return self._call("GET", "/v2/health/ready", b"", {})[0] == 200
        except OSError:
            return False

    def replay(self, name: str, entry: Entry, folder: Path) -> Replayed:
        """Ask every probe of the entry, loaded as `name`; all answers are within their bounds when this returns.

        Raises ServedWrongly when one is not, when the server refuses one, or when the entry has none.
        """
        probes = read_probes(folder)
        if not probes:
            raise ServedWrongly("the entry has no probes: nothing was compared through Triton")
        worst = Difference("", 0.0, 0.0, min(probe.bound for probe in probes))
        for number, probe in enumerate(probes, 1):
            answer = self._generated(name, entry, probe) if entry.backend == "generate" else self._inferred(name, probe)
            for found in differences(probe, answer):
                if not found.is_within:
                    raise ServedWrongly(_words(found, number, probe, answer))
                worst = max(worst, found, key=lambda each: each.relative)
        return Replayed(len(probes), worst.relative, worst.bound)

    def _inferred(self, name: str, probe: Probe) -> dict[str, ProbeTensor]:
        body, length = infer_request(probe)
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(length)}
        status, answer, given = self._call("POST", f"/v2/models/{quote(name, safe='')}/infer", body, headers)
        if status != 200:
            raise ServedWrongly(f"Triton refused a probe: {_said(answer)}")
        return infer_answer(answer, int(given) if given else None)

    def _generated(self, name: str, entry: Entry, probe: Probe) -> dict[str, ProbeTensor]:
        body = json.dumps({**_fields(entry, probe), "stream": False}).encode("utf-8")
        status, answer, _ = self._call(
            "POST", f"/v2/models/{quote(name, safe='')}/generate", body, {"Content-Type": "application/json"}
        )
        record = _object(answer)
        if status != 200 or "error" in record:
            raise ServedWrongly(f"Triton refused a probe: {_said(answer)}")
        return {tensor.name: _packed(tensor, record[tensor.name]) for tensor in probe.outputs if tensor.name in record}

    def _manage(self, path: str, body: bytes = b"") -> None:
        status, answer, _ = self._call("POST", f"/v2/repository/{path}", body, {"Content-Type": "application/json"})
        if status != 200:
            raise ServedWrongly(_said(answer))

    def _call(self, verb: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, str | None]:
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=self.timeout_s)
        try:
            connection.request(verb, path, body, {**headers, "triton-key": self.key})
            response = connection.getresponse()
            return response.status, response.read(), response.getheader(_HEADER_LENGTH)
        except http.client.HTTPException as error:
            raise ConnectionError(f"Triton broke off the answer: {error!r}") from error
        finally:
            connection.close()


def _fields(entry: Entry, probe: Probe) -> dict[str, Any]:
    """A generation's fields: a bare value where the entry takes exactly one; files as data URLs (RFC 2397)."""
    single = {tensor.name for tensor in entry.inputs if tensor.shape == (1,)}
    fields: dict[str, Any] = {}
    for tensor in probe.inputs:
        values = _values(tensor)
        if tensor.name != "stream":
            fields[tensor.name] = values[0] if tensor.name in single else values
    return fields


def _values(tensor: ProbeTensor) -> list[Any]:
    if tensor.dtype != "BYTES":
        code = _NUMBERS[tensor.dtype]
        return list(struct.unpack(f"<{len(tensor.raw) // struct.calcsize(code)}{code}", tensor.raw))
    items: list[Any] = []
    place = 0
    while place < len(tensor.raw):
        (length,) = struct.unpack_from("<I", tensor.raw, place)
        item = tensor.raw[place + 4 : place + 4 + length]
        is_file = tensor.name in FILES
        items.append("data:;base64," + base64.b64encode(item).decode("ascii") if is_file else item.decode("utf-8"))
        place += 4 + length
    return items


def _packed(expected: ProbeTensor, value: Any) -> ProbeTensor:
    """An answer's JSON value as the tensor it came from; a tensor of one element comes back bare."""
    values = value if isinstance(value, list) else [value]
    if expected.dtype == "BYTES":
        texts = [str(item).encode("utf-8") for item in values]
        raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        raw = struct.pack(f"<{len(values)}{_NUMBERS[expected.dtype]}", *values)
    return ProbeTensor(expected.name, expected.dtype, (len(values),), raw)


def _words(found: Difference, number: int, probe: Probe, answer: Mapping[str, ProbeTensor]) -> str:
    where = f"probe {number}, output {found.output!r}"
    if not math.isinf(found.relative):
        return f"{where}: differs from PyTorch by {found.relative:.1e} of the largest value; bound is {found.bound:.1e}"
    expected = next(tensor for tensor in probe.outputs if tensor.name == found.output)
    given = answer.get(found.output)
    if given is None:
        return f"{where}: expected an answer, found none"
    if (given.dtype, given.shape) != (expected.dtype, expected.shape):
        return f"{where}: expected {expected.dtype} {list(expected.shape)}, found {given.dtype} {list(given.shape)}"
    return f"{where}: expected PyTorch's very values, found others"


def _object(answer: bytes) -> Mapping[str, Any]:
    try:
        record = json.loads(answer)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _said(answer: bytes) -> str:
    return str(_object(answer).get("error") or answer[:400].decode("utf-8", "replace"))
