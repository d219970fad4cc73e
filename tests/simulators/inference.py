"""An inference server in memory: same interface as `Triton`, and it really reads the entries that it is told to load.

Text is made by hashing the prompt, so the same request gives the same answer; embeddings likewise. `is_down` is a server that does
not answer, `break_after` one that dies in the middle of a stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from control_plane.errors import BadInput, NotFound, Unavailable
from control_plane.serving import oip
from control_plane.serving.inference import Generated, TensorAnswer
from converters.entry import DERIVED, Entry, read_entry
from converters.errors import EntryBroken

VOCABULARY = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


class SimulatedServer:
    """Implements `InferenceServer`."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._loaded: dict[str, Entry] = {}
        self.is_down = False
        self.break_after: int | None = None
        """Pieces that a stream gives before the server dies; None: it does not."""
        self.closed_streams = 0
        self.asked: list[tuple[str, str]] = []
        """Method and entry of every call that reached the server."""

    def restart(self) -> None:
        """Everything that was loaded is gone, as after a crash."""
        self._loaded.clear()

    def is_ready(self) -> bool:
        return not self.is_down

    def loaded(self) -> frozenset[str]:
        self._reach()
        return frozenset(self._loaded)

    def load(self, name: str) -> None:
        self._reach()
        folder = self._models / name
        if not (folder / DERIVED).is_file():
            raise NotFound(f"{name}: no {DERIVED} in the repository")
        try:
            self._loaded[name] = read_entry(folder)
        except EntryBroken as error:
            raise Unavailable(f"{name}: did not load") from error

    def unload(self, name: str) -> None:
        self._reach()
        self._loaded.pop(name, None)

    def infer(self, name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        from control_plane.web.body import parse_object

        entry = self._entry("infer", name)
        length = len(body) if header_length is None else header_length
        inputs, wanted = oip.parse_request(parse_object(body[:length]), body[length:])
        texts = [str(text) for tensor in inputs if tensor.name == "text_input" for text in tensor.elements]
        if not texts:
            raise BadInput("text_input", "a tensor", "nothing")
        for text in texts:
            self._check_length(entry, text)
        width = entry.outputs[0].shape[1]
        rows = [number for text in texts for number in _row(name, text, width)]
        outputs = (
            oip.Values("embedding", "FP32", (len(texts), width), tuple(rows)),
            oip.Values("prompt_tokens", "INT32", (len(texts),), tuple(len(text.split()) for text in texts)),
        )
        return oip.write_answer(name, outputs, wanted)

    def generate(self, name: str, fields: Mapping[str, Any]) -> Generated:
        pieces = list(self._generate(self._entry("generate", name), name, fields))
        return Generated(
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.token_ids),
            pieces[-1].prompt_tokens,
            pieces[-1].completion_tokens,
            pieces[-1].finish_reason,
        )

    def generate_stream(self, name: str, fields: Mapping[str, Any]) -> Iterator[Generated]:
        entry = self._entry("generate_stream", name)
        try:
            for given, piece in enumerate(self._generate(entry, name, fields)):
                if given == self.break_after:
                    raise Unavailable("the inference server went away")
                yield piece
        finally:
            self.closed_streams += 1

    def _generate(self, entry: Entry, name: str, fields: Mapping[str, Any]) -> Iterator[Generated]:
        prompt = str(fields["text_input"])
        self._check_length(entry, prompt)
        most, prompt_tokens = int(fields.get("max_tokens", 16)), len(prompt.split())
        text = ""
        for made in range(1, most + 1):
            seeded = f"{name}|{prompt}|{fields.get('seed', 0) if fields.get('temperature', 1.0) else 0}|{made}"
            token = hashlib.sha256(seeded.encode()).digest()[0] % len(VOCABULARY)
            word = " " + VOCABULARY[token]
            text += word
            is_stopped = any(stop in text for stop in fields.get("stop", ()))
            reason = "stop" if is_stopped else "length" if made == most else None
            yield Generated("" if is_stopped else word, (token,), prompt_tokens, made, reason)
            if is_stopped:
                return

    def _entry(self, method: str, name: str) -> Entry:
        self._reach()
        self.asked.append((method, name))
        if name not in self._loaded:
            raise Unavailable(f"{name}: the entry is not loaded")
        return self._loaded[name]

    def _check_length(self, entry: Entry, text: str) -> None:
        limit, found = int(entry.details["context_length"]), len(text.split())
        if found > limit:
            raise BadInput("text_input", f"at most {limit} tokens", f"{found} tokens")

    def _reach(self) -> None:
        if self.is_down:
            raise Unavailable("the inference server does not answer")


def _row(name: str, text: str, width: int) -> list[float]:
    """`width` numbers in [-1, 1) that float32 holds exactly."""
    raw = hashlib.shake_256(f"{name}|{text}".encode()).digest(width)
    return [byte / 128 - 1 for byte in raw]
