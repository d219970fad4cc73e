"""Calls that share each step of a causal model: one buffer of keys and values, a row a call, written in place.

In: an opened entry whose graph has a shared cache (`converters/export/shared_cache.py`). Out: logits. This module must never
choose a token, or let one row's answer depend on the others.

Each row has its own length, so that calls of any length share a step. A row whose prompt is still being read is stepped with the
others where it lies between them: what that writes stands behind its length, where nothing reads and its next token comes to stand.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import onnxruntime

from generate.buffers import Buffers, cache_tensors
from generate.cache import HOST, KINDS, Kind, Place, place_of
from generate.call import Call
from generate.stores import Store, store_of
from opening.entry import EntryUnusable, OpenEntry

LENGTHS, TOTAL, KEPT = "seqlens_k", "total_sequence_length", "logits_to_keep"
_FED = frozenset({"input_ids", "position_ids", LENGTHS, TOTAL, KEPT})
PART = 64
"""Tokens of a prompt that are read at once, or one more at its end. Always as many: matrices of 8 and 4 bits give other last digits
for other numbers of rows, and so does one row alone in float32; an answer may not depend on how busy the model was."""
_LEAST_LENGTH = 64
"""Tokens that a buffer holds at least; from there on it doubles."""
_KEPT = 4
"""Buffers so many times larger than a call needs that is alone are given back; others are used again while they fit."""


def has_shared_cache(entry: OpenEntry) -> bool:
    return any(tensor["name"] == LENGTHS for tensor in entry.detail("graph_inputs"))


@dataclass
class _Row:
    """length: tokens read. need: tokens that it may come to."""

    place: int
    prompt: tuple[int, ...]
    need: int
    is_scored: bool
    length: int = 0


class Shared:
    """See `rows.Rows`. A place is a name: its row moves down when one below it ends."""

    def __init__(self, entry: OpenEntry, *, most: int, most_bytes: int, store: Store | None = None) -> None:
        """most: rows. most_bytes: of keys and values, but for a call that is alone. store: whose memory, by default of where the
        graph computes.

        Raises EntryUnusable for a graph that we cannot feed.
        """
        self.most_together = most
        self._session, self._context, self._most_bytes = entry.session, int(entry.detail("context_length")), most_bytes
        layers = entry.detail("layers")
        pairs = [(layer[f"past_{kind}"], layer[f"present_{kind}"]) for layer in layers for kind in ("key", "value")]
        self._inputs = _FED & set(entry.graph_input_names(_FED | {past for past, _ in pairs}))
        given = {output.name for output in entry.session.get_outputs()}
        if missing := ({"logits"} | {present for _, present in pairs}) - given:
            raise EntryUnusable(f"1/model.onnx: entry.json names tensors that the graph lacks: {sorted(missing)}")
        tensors, place = cache_tensors(entry.detail("graph_inputs"), pairs), place_of(entry.session)
        check_attends({tensor.kind for tensor in tensors}, place)
        self._buffers = Buffers(entry.session, tensors, store or store_of(place))
        self._rows: list[_Row] = []
        self._places = 0

    @property
    def room(self) -> tuple[int, int]:
        """Rows, and tokens of each, that there is memory for now."""
        return self._buffers.rows, self._buffers.length

    def has_place(self, call: Call) -> bool:
        if not self._rows:
            return True
        return len(self._rows) < self.most_together and self._fits(*self._room_with(call))

    def enter(self, call: Call) -> int:
        rows, length = self._room_with(call)
        larger = max(rows, self._buffers.rows), max(length, self._buffers.length)
        is_far_larger = not self._rows and rows * length < self._buffers.rows * self._buffers.length // _KEPT
        kept = [row.length for row in self._rows]
        # What a long call that has left would hold on to must not keep others out for as long as the model is busy.
        self._buffers.resize(*(larger if self._fits(*larger) and not is_far_larger else (rows, length)), kept)
        self._places += 1
        self._rows.append(_Row(self._places, call.prompt, _need(call), call.is_scored))
        return self._places

    def begin(self, place: int) -> np.ndarray | None:
        index, row = self._find(place)
        left = len(row.prompt) - row.length
        size = left if left <= PART + 1 else PART
        tokens = row.prompt[row.length : row.length + size]
        logits = self._run(index, [row], np.asarray([tokens], np.int64), kept=size if row.is_scored else 1)[0]
        if row.is_scored:
            return logits
        return logits[-1] if row.length == len(row.prompt) else None

    def step(self, places: Sequence[int], tokens: Sequence[int]) -> Sequence[np.ndarray]:
        chosen = dict(zip(places, tokens, strict=True))
        count = 1 + max(index for index, row in enumerate(self._rows) if row.place in chosen)
        rows = self._rows[:count]
        ids = np.array([[chosen.get(row.place, 0)] for row in rows], np.int64)
        logits = self._run(0, rows, ids, frozenset(chosen))
        found = {row.place: logits[index, -1] for index, row in enumerate(rows)}
        return [found[place] for place in places]

    def leave(self, place: int) -> None:
        index, _ = self._find(place)
        last = self._rows.pop()
        if last.place != place:
            self._buffers.move(len(self._rows), index, last.length)
            self._rows[index] = last

    def _run(
        self, begin: int, rows: Sequence[_Row], ids: np.ndarray, counted: frozenset[int] | None = None, kept: int = 1
    ) -> np.ndarray:
        """Read `ids`, [rows, new], after what each row holds; the logits after the last `kept` of them: float32 [rows, kept,
        vocabulary]. The graph computes no others: a vocabulary is most of the work of a small model.

        counted: places whose tokens stay; None: all.
        """
        new = ids.shape[1]
        before = np.array([row.length for row in rows], np.int64)
        if int(before.max()) + new > self._buffers.length:
            raise ValueError(f"the buffer holds {self._buffers.length} tokens, asked to read {int(before.max()) + new}")
        fed = {
            "input_ids": ids,
            "position_ids": before[:, np.newaxis] + np.arange(new, dtype=np.int64),
            LENGTHS: (before + (new - 1)).astype(np.int32),
            TOTAL: np.array([before.max() + new], np.int32),
            KEPT: np.array([kept], np.int64),
        }
        binding = self._buffers.bound(begin, len(rows))
        for name in self._inputs:
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(fed[name]))
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        for row in rows:
            if counted is None or row.place in counted:
                row.length += new
        logits: np.ndarray = binding.get_outputs()[-1].numpy()[:, -kept:]
        return logits

    def _find(self, place: int) -> tuple[int, _Row]:
        return next((index, row) for index, row in enumerate(self._rows) if row.place == place)

    def _fits(self, rows: int, length: int) -> bool:
        return rows * length * self._buffers.token_bytes <= self._most_bytes

    def _room_with(self, call: Call) -> tuple[int, int]:
        """Rows and length that the buffers need at least when the call enters."""
        need = max([_need(call), *(row.need for row in self._rows)])
        length = min(self._context, _doubled(need, _LEAST_LENGTH))
        return min(self.most_together, _doubled(len(self._rows) + 1, 1)), length


def check_attends(kinds: Set[Kind], place: Place) -> None:
    """Raises EntryUnusable where the device has no kernel for attention over a shared cache of these dtypes.

    ONNX Runtime 1.31's CUDA provider has fp16 and bf16 alone. It would run another on the CPU without a word, and carry every
    layer's buffer there and back for each token.
    """
    if place != HOST and KINDS["FP32"] in kinds:
        raise EntryUnusable(
            f"entry.json: expected keys and values in FP16 or BF16 for attention on {place.device}, found FP32: "
            "publish with --precision fp16 or bf16, or convert with --kv-cache grown"
        )


def _need(call: Call) -> int:
    return len(call.prompt) + call.max_tokens


def _doubled(wanted: int, least: int) -> int:
    while least < wanted:
        least *= 2
    return least
