"""Run a causal language model token by token, keeping keys and values between the steps.

In: token ids. Out: logits of what comes next. This module must never choose a token.

The graph is optimum's `text-generation-with-past` export: one graph, past keys and values as inputs, present ones as outputs. A
graph without them reads the whole sequence again at each step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from generate.cache import empty_cache, place_of, run
from generate.call import Call
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
        self.present_names = tuple(name for layer in layers for name in (layer["present_key"], layer["present_value"]))
        self.input_names = frozenset(entry.graph_input_names(frozenset((*_FED, *self.past_names))))
        given = {output.name for output in entry.session.get_outputs()}
        if missing := (set(self.past_names) - self.input_names) | ({"logits", *self.present_names} - given):
            raise EntryUnusable(f"1/model.onnx: entry.json names tensors that the graph lacks: {sorted(missing)}")
        self.place = place_of(entry.session)
        self._empty_cache = empty_cache(entry.detail("graph_inputs"), self.past_names, self.place)

    def begin(self, call: Call) -> tuple[Reading, np.ndarray]:
        """Read the prompt; return also the logits after it, or after each of its tokens where it is scored."""
        reading = Reading(self, dict(self._empty_cache))
        return reading, reading.read_each(call.prompt) if call.is_scored else reading.read(call.prompt)


class Reading:
    """The tokens read so far, as keys and values, or as they are where the graph keeps none. `length` counts them."""

    def __init__(self, decoder: Decoder, past: dict[str, onnxruntime.OrtValue]) -> None:
        self._decoder, self._past = decoder, past
        self._tokens: list[int] = []
        self.length = 0

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read at least one more token; return the logits after the last: float32 [vocabulary]."""
        last: np.ndarray = self.read_each(tokens)[-1]
        return last

    def read_each(self, tokens: Sequence[int]) -> np.ndarray:
        """Read at least one more token; return the logits after each: float32 [tokens, vocabulary], or more where the graph keeps
        nothing and all is read again.

        Keys and values go from one step to the next as they lie in memory, uncopied; the graph's own copy makes room for the new.
        """
        total = self.length + len(tokens)
        if total > self._decoder.context_length:
            raise ValueError(f"the context holds {self._decoder.context_length} tokens, asked to read {total}")
        if not self._decoder.past_names:
            tokens = self._tokens = [*self._tokens, *tokens]
        fed = {
            "input_ids": np.asarray([tokens], np.int64),
            "attention_mask": np.ones((1, total), np.int64),
            "position_ids": np.arange(total - len(tokens), total, dtype=np.int64)[np.newaxis],
        }
        inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(fed[name]) for name in _FED if name in self._decoder.input_names}
        decoder = self._decoder
        (logits,), present = run(decoder.session, decoder.place, {**inputs, **self._past}, ["logits"], decoder.present_names)
        self._past = dict(zip(decoder.past_names, present, strict=True))
        self.length = total
        each: np.ndarray = logits[0]
        return each
