"""An inference server in memory: same interface as `Triton`, and it really reads the entries that it is told to load.

What both do alike is written down in `tests/control_plane/serving/test_inference_contract.py`, which runs on both.
Text is made by hashing the prompt and the penalties, so the same request gives the same answer; embeddings likewise. A probability
belongs to a token alone. `is_down` is a server that does
not answer, `break_after` one that dies in the middle of a stream.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from control_plane.errors import BadInput, NotFound, Unavailable
from control_plane.serving import oip
from control_plane.serving.inference import ABANDONED, Generated, TensorAnswer, never
from control_plane.serving.triton_messages import generate_body
from converters.entry import DERIVED, Entry, read_entry
from converters.errors import EntryBroken
from tests.simulators.answers import FILES, PARAMETERS, VOCABULARY, answer

_PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
MOST_ITEMS = 256
"""The predict backend's limit of one call."""


class SimulatedServer:
    """Implements `InferenceServer`."""

    def __init__(self, models: Path) -> None:
        self._models = models
        self._loaded: dict[str, Entry] = {}
        self._known: set[str] = set()
        """Every name that was ever loaded: an unloaded one is unavailable, one never loaded is not found."""
        self.is_down = False
        self.break_after: int | None = None
        """Pieces that a stream gives before the server dies; None: it does not."""
        self.before_piece: Callable[[int], object] = lambda _number: None
        """Called with each piece's number, from 0, before the piece is made: to be slow, or to wait."""
        self.closed_streams = 0
        self.callers: list[str] = []
        self.asked: list[tuple[str, str]] = []
        """Method and entry of every call that reached the server."""

    def restart(self) -> None:
        """Everything that was loaded is gone, as after a crash."""
        self._loaded.clear()
        self._known.clear()

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
            raise Unavailable(f"{name}: did not load", code="load_failed") from error
        self._known.add(name)

    def unload(self, name: str) -> None:
        self._reach()
        self._loaded.pop(name, None)

    def infer(self, name: str, body: bytes, header_length: int | None) -> TensorAnswer:
        entry = self._entry("infer", name)
        if entry.backend != "predict":
            raise BadInput("request", "what the model takes (the generate extension)", "something else")
        length = len(body) if header_length is None else header_length
        if not 0 <= length <= len(body):
            raise BadInput("request", f"a header of at most {len(body)} bytes", length)
        inputs, wanted = oip.parse_request(_json_object(body[:length]), body[length:], files=FILES)
        named = {tensor.name: tensor.elements for tensor in inputs}
        given = {(tensor.name, tensor.dtype, len(tensor.shape)) for tensor in inputs}
        declared = {(tensor.name, tensor.dtype, len(tensor.shape)): tensor.is_optional for tensor in entry.inputs}
        if not {key for key, is_optional in declared.items() if not is_optional} <= given <= set(declared):
            raise BadInput("request", f"tensors among {sorted(declared)}", "something else")
        first = entry.inputs[0].name
        items = named[first]
        if not 1 <= len(items) <= MOST_ITEMS:
            raise BadInput(first, f"1 to {MOST_ITEMS} items", f"{len(items)}")
        for index, item in enumerate(items):
            if isinstance(item, str):
                _count_tokens(item, int(entry.details["context_length"]), f" in item {index}")
        known, parameters = PARAMETERS.get(entry.task, ()), json.loads(named.get("parameters", ("{}",))[0])
        for key in parameters:
            if key not in known:
                raise BadInput(f"parameters.{key}", f"a parameter among {', '.join(known)}", key)
        answers = [answer(name, entry.task, index, named, parameters) for index in range(len(items))]
        results = tuple(json.dumps(each, ensure_ascii=False) for each in answers)
        outputs = [oip.Values("result", "BYTES", (len(items),), results)]
        if entry.task == "feature-extraction":
            rows = [number for each in answers for number in each]
            outputs = [
                oip.Values("embedding", "FP32", (len(items), entry.outputs[0].shape[1]), tuple(rows)),
                oip.Values("prompt_tokens", "INT32", (len(items),), tuple(len(text.split()) for text in items)),
                *outputs,
            ]
        return oip.write_answer(name, outputs, wanted)

    def generate(self, name: str, fields: Mapping[str, Any], caller: str = "", is_over: Callable[[], bool] = never) -> Generated:
        self.callers.append(caller)
        pieces = []
        for number, piece in enumerate(self._generate("generate", name, fields, is_streamed=False)):
            self.before_piece(number)
            if is_over():
                self.closed_streams += 1
                raise Unavailable(f"{name}: nobody waits", code=ABANDONED)
            pieces.append(piece)
        return Generated(
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.token_ids),
            pieces[-1].prompt_tokens,
            pieces[-1].completion_tokens,
            pieces[-1].finish_reason,
            tuple(one for piece in pieces for one in piece.token_logprobs),
            tuple(text for piece in pieces for text in piece.token_texts),
        )

    def generate_stream(
        self, name: str, fields: Mapping[str, Any], caller: str = "", is_over: Callable[[], bool] = never
    ) -> Iterator[Generated]:
        self.callers.append(caller)
        return _Stream(self, self._generate("generate_stream", name, fields, is_streamed=True), is_over)

    def _generate(self, method: str, name: str, fields: Mapping[str, Any], *, is_streamed: bool) -> Iterator[Generated]:
        """Refuses at once; what is returned only computes."""
        generate_body(fields, is_streamed=is_streamed)
        entry = self._entry(method, name)
        if entry.backend != "generate":
            raise BadInput("request", "what the model takes (tensors)", "something else")
        missing = [tensor.name for tensor in entry.inputs if not tensor.is_optional and tensor.name not in fields]
        if missing:
            raise BadInput("request", f"what the model takes ({', '.join(missing)})", "something else")
        context = int(entry.details["context_length"])
        file = next((fields[each] for each in FILES if each in fields), None)
        if isinstance(file, str):
            file = base64.b64decode(file.partition(";base64,")[2])
        prompt = _prompt(fields) if file is None else hashlib.sha256(file).hexdigest()
        is_scored = bool(fields.get("score"))
        if is_scored and (entry.task != "text-generation" or "messages" in fields):
            raise BadInput("score", "a text_input, of a model that goes on with a text", "another")
        field = "messages" if "messages" in fields else "text_input"
        prompt_tokens = _count_tokens(prompt, context if is_scored else context - 1, field=field)
        most = fields.get("max_tokens", 16)
        if most > context:
            expected = f"a number from 1 to {context}, the context of this model"
            raise BadInput("max_tokens", expected, most, status=422, code="max_tokens_too_large")
        for field, expected, is_right in (
            ("max_tokens", f"a number from 1 to {context}, the context of this model", most >= 1),
            ("temperature", "a number from 0 to 100", 0 <= fields.get("temperature", 1.0) <= 100),
            ("top_p", "a number above 0 and at most 1", 0 < fields.get("top_p", 1.0) <= 1),
            ("top_k", "a number from 0, which means off", fields.get("top_k", 0) >= 0),
            ("min_p", "a number from 0, which means off, to 1", 0 <= fields.get("min_p", 0) <= 1),
            ("repetition_penalty", "a number from 0.0625 to 16", 0.0625 <= fields.get("repetition_penalty", 1) <= 16),
            ("frequency_penalty", "a number from -2 to 2", -2 <= fields.get("frequency_penalty", 0) <= 2),
            ("presence_penalty", "a number from -2 to 2", -2 <= fields.get("presence_penalty", 0) <= 2),
            ("stop", "at most 16 texts, none empty", len(fields.get("stop", ())) <= 16 and all(fields.get("stop", ()))),
        ):
            if not is_right:
                raise BadInput(field, expected, "another")
        if is_scored:
            return iter((_scored(name, prompt),))
        return _pieces(name, prompt, prompt_tokens, min(most, context - prompt_tokens), fields)

    def _entry(self, method: str, name: str) -> Entry:
        self._reach()
        self.asked.append((method, name))
        if name not in self._known:
            raise NotFound(f"{name}: the inference server has no such entry")
        if name not in self._loaded:
            raise Unavailable(f"{name}: the entry is not loaded")
        return self._loaded[name]

    def _reach(self) -> None:
        if self.is_down:
            raise Unavailable("the inference server does not answer")


class _Stream(Iterator[Generated]):
    """Pieces as they are asked for; the first is computed at once, as `Triton.generate_stream` waits for it."""

    def __init__(self, server: SimulatedServer, pieces: Iterator[Generated], is_over: Callable[[], bool]) -> None:
        self._is_unwanted = is_over
        self._server, self._pieces, self._given, self._is_over = server, pieces, 0, False
        self._first: Generated | None = self._compute()

    def __next__(self) -> Generated:
        if self._first is not None:
            piece, self._first = self._first, None
            return piece
        if self._is_over:
            raise StopIteration
        return self._compute()

    def close(self) -> None:
        """Again: does nothing."""
        self._first = None
        if not self._is_over:
            self._is_over = True
            self._server.closed_streams += 1

    def _compute(self) -> Generated:
        if self._given == self._server.break_after:
            self.close()
            raise Unavailable("the inference server went away")
        self._server.before_piece(self._given)
        if self._is_unwanted():
            self.close()
            raise Unavailable("nobody waits", code=ABANDONED)
        self._given += 1
        piece = next(self._pieces)
        if piece.finish_reason is not None and not self._is_over:
            self._is_over = True
            self._server.closed_streams += 1
        return piece


def _pieces(name: str, prompt: str, prompt_tokens: int, most: int, fields: Mapping[str, Any]) -> Iterator[Generated]:
    """A word a piece; of a stop text nothing is given, wherever in a word it begins, as the backend holds it back."""
    drawn = fields.get("seed", 0) if fields.get("temperature", 1.0) else 0
    penalties = [fields[penalty] for penalty in _PENALTIES if penalty in fields]
    seeded = [f"{name}|{prompt}|{drawn}|{made}" + (f"|{penalties}" if penalties else "") for made in range(1, most + 1)]
    tokens = [hashlib.sha256(each.encode()).digest()[0] % len(VOCABULARY) for each in seeded]
    words = [" " + VOCABULARY[token] for token in tokens]
    whole, given = "".join(words), 0
    ends = [(whole.find(stop), len(stop)) for stop in fields.get("stop", ()) if stop in whole]
    cut, stop_length = min(ends, default=(len(whole), 0))
    for made, (token, word) in enumerate(zip(tokens, words, strict=True), start=1):
        given += len(word)
        is_stopped = bool(ends) and given >= cut + stop_length
        reason = "stop" if is_stopped else "length" if made == most else None
        told = ((-(token + 1) / 8,), (word,)) if fields.get("logprobs") else ((), ())
        text = whole[given - len(word) : max(given - len(word), min(given, cut))]
        yield Generated(text, (token,), prompt_tokens, made, reason, *told)
        if is_stopped:
            return


def _scored(name: str, text: str) -> Generated:
    """Each word's probability is made of the words up to it."""
    words = text.split()
    texts = tuple(word if not place else f" {word}" for place, word in enumerate(words))
    begun = ["|".join(words[: place + 1]) for place in range(len(words))]
    numbers = [hashlib.sha256(f"{name}|{each}".encode()).digest()[0] for each in begun]
    logprobs = tuple(-(number + 1) / 64 if place else 0.0 for place, number in enumerate(numbers))
    return Generated("", tuple(numbers), len(words), 0, "length", logprobs, texts)


def _prompt(fields: Mapping[str, Any]) -> str:
    """A text, or a conversation as the backend writes it for a model without a template."""
    if "messages" not in fields:
        return str(fields["text_input"])
    if "text_input" in fields:
        raise BadInput("messages", "either text_input or messages", "both")
    try:
        messages = [{name: str(message[name]) for name in ("role", "content")} for message in json.loads(fields["messages"])]
    except (ValueError, TypeError, KeyError):
        raise BadInput("messages", "a JSON list of objects with role and content, both texts", "another thing") from None
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"


def _count_tokens(text: str, limit: int, where: str = "", field: str = "text_input") -> int:
    """A token a word. Raises BadInput for none, and for more than `limit`."""
    if not text:
        raise BadInput(field, "a text that is not empty", f"0 bytes{where}")
    found = len(text.split())
    if not found:
        raise BadInput(field, "a text with at least one token", f"0 tokens{where}")
    if found > limit:
        raise BadInput(field, f"at most {limit} tokens", f"{found} tokens{where}", status=422, code="prompt_too_long")
    return found


def _json_object(header: bytes) -> dict[str, Any]:
    try:
        record = json.loads(header)
    except ValueError as error:
        raise BadInput("request", "JSON", "something else") from error
    if not isinstance(record, dict):
        raise BadInput("request", "a JSON object", "something else")
    return record
