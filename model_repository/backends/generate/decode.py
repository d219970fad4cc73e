"""Run a causal language model token by token, keeping keys and values between the steps.

In: token ids. Out: logits of what comes next. This module must never choose a token.

The graph is optimum's `text-generation-with-past` export: one graph, past keys and values as inputs, present ones as outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from opening.entry import EntryUnusable, OpenEntry

_FED = ("input_ids", "attention_mask", "position_ids")


class Decoder:
    """One opened graph, shared by all its sequences; it holds no state of a call."""

    def __init__(self, entry: OpenEntry) -> None:
        """Raises EntryUnusable when the graph needs what we do not feed, or lacks the keys and values that the details name."""
        self.session = entry.session
        self.context_length = int(entry.detail("context_length"))
        layers = entry.detail("layers")
        self.past_names = tuple(name for layer in layers for name in (layer["past_key"], layer["past_value"]))
        self.output_names = ("logits", *(name for layer in layers for name in (layer["present_key"], layer["present_value"])))
        self.input_names = frozenset(entry.graph_input_names(frozenset((*_FED, *self.past_names))))
        given = {output.name for output in entry.session.get_outputs()}
        if missing := (set(self.past_names) - self.input_names) | (set(self.output_names) - given):
            raise EntryUnusable(f"1/model.onnx: entry.json names tensors that the graph lacks: {sorted(missing)}")
        self._empty_shape = (1, int(entry.detail("kv_heads")), 0, int(entry.detail("head_size")))

    def begin(self) -> Reading:
        empty = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(self._empty_shape, np.float32))
        return Reading(self, dict.fromkeys(self.past_names, empty))


class Reading:
    """The tokens read so far, as keys and values. `length` counts them."""

    def __init__(self, decoder: Decoder, past: dict[str, onnxruntime.OrtValue]) -> None:
        self._decoder, self._past = decoder, past
        self.length = 0

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read at least one more token; return the logits after the last: float32 [vocabulary].

        Keys and values go from one step to the next as they lie in memory, uncopied.
        """
        total = self.length + len(tokens)
        if total > self._decoder.context_length:
            raise ValueError(f"the context holds {self._decoder.context_length} tokens, asked to read {total}")
        fed = {
            "input_ids": np.asarray([tokens], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(self.length, total, dtype=np.int64)[np.newaxis],
        }
        inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(fed[name]) for name in _FED if name in self._decoder.input_names}
        logits, *present = self._decoder.session.run_with_ort_values(self._decoder.output_names, {**inputs, **self._past})
        self._past = dict(zip(self._decoder.past_names, present, strict=True))
        self.length = total
        return logits.numpy()[0, -1]
