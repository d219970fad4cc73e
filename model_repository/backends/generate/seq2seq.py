"""Run an encoder-decoder model: the encoder once for a call, the decoder token by token.

In: what an encoder reads, then token ids. Out: logits of what comes next, with the tokens that may not come taken out. This module
must never choose a token, but for the language a model tells us to detect.

What each graph takes and gives is written down in `converters/kinds/seq2seq.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime

from generate.cache import empty_cache, place_of, run
from generate.call import Call
from opening.entry import EntryUnusable, OpenEntry


class EncoderDecoder:
    """Two opened graphs, shared by all their calls; it holds no state of a call."""

    def __init__(self, entry: OpenEntry) -> None:
        """Raises EntryUnusable when a graph needs what we do not feed, or lacks what the details name."""
        if entry.encoder is None:
            raise EntryUnusable(f"entry.json: details need 'encoder' for {entry.task}, found {sorted(entry.details)}")
        self.encoder, self.session = entry.encoder, entry.session
        self.vocabulary, self.longest = int(entry.detail("vocabulary")), int(entry.detail("decoder_length"))
        layers = entry.detail("layers")
        self.carried = tuple(str(name) for name in entry.detail("carried"))
        self.past_names = tuple(name for layer in layers for name in (layer["past_key"], layer["past_value"]))
        self.present_names = tuple(name for layer in layers for name in (layer["present_key"], layer["present_value"]))
        entry.graph_input_names(frozenset(("input_ids", *self.carried, *self.past_names)))
        takes = {tensor.name for tensor in self.session.get_inputs()}
        gives = {tensor.name for tensor in self.session.get_outputs()}
        encoded = {tensor.name for tensor in self.encoder.get_outputs()}
        if missing := ({*self.past_names} - takes) | ({"logits", *self.present_names} - gives) | ({*self.carried} - encoded):
            raise EntryUnusable(f"entry.json names tensors that its graphs lack: {sorted(missing)}")
        self.place = place_of(self.session)
        self.empty_cache = empty_cache(entry.detail("graph_inputs"), self.past_names, self.place)
        self._start: list[int | list[int]] = list(entry.detail("start_tokens"))
        self._replaces = bool(entry.detail("does_prompt_replace_start"))
        self._forced = entry.detail("forced_first_token")
        self._never = np.asarray(entry.detail("suppress_tokens"), np.int64)
        self._not_first = np.asarray(entry.detail("begin_suppress_tokens"), np.int64)

    def begin(self, call: Call) -> tuple[Reading, np.ndarray]:
        """Run the encoder, then read what every text of the model begins with, and the call's own beginning."""
        fed = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in call.feeds.items()}
        _, made = run(self.encoder, self.place, fed, [], self.carried)
        encoded = dict(zip(self.carried, made, strict=True))
        reading = Reading(self, encoded, is_prompted=bool(call.prompt))
        waiting: list[int] = []
        for item in [] if call.prompt and self._replaces else self._start:
            if isinstance(item, int):
                waiting.append(item)
                continue
            logits = reading.read_as_it_is(waiting)
            waiting = [item[int(np.argmax(logits[item]))]]
        return reading, reading.read([*waiting, *call.prompt])

    def allowed(self, logits: np.ndarray, place: int, is_prompted: bool) -> np.ndarray:
        """The logits without what may not come at this place of the completion, counted from 0.

        As transformers' `generate` has it: nothing is forced after a prompt, and what may not come first may not come second either
        when the first was forced.
        """
        forced = None if is_prompted else self._forced
        left = np.array(logits[: self.vocabulary], np.float32)
        if forced is not None and place == 0:
            left[:] = -np.inf
            left[int(forced)] = 0.0
            return left
        left[self._never] = -np.inf
        if place == int(forced is not None):
            left[self._not_first] = -np.inf
        return left


class Reading:
    """The decoder's tokens so far, as keys and values."""

    def __init__(self, model: EncoderDecoder, encoded: dict[str, onnxruntime.OrtValue], *, is_prompted: bool) -> None:
        self._model, self._encoded, self._is_prompted = model, encoded, is_prompted
        self._past = dict(model.empty_cache)
        self._length = self._made = 0

    def read(self, tokens: Sequence[int]) -> np.ndarray:
        """Read at least one more token; return the logits after the last without what may not come: float32 [vocabulary]."""
        logits = self._model.allowed(self.read_as_it_is(tokens), self._made, self._is_prompted)
        self._made += 1
        return logits

    def read_as_it_is(self, tokens: Sequence[int]) -> np.ndarray:
        """As `read`, with every logit. Values go from one step to the next as they lie in memory, uncopied."""
        self._length += len(tokens)
        if self._length > self._model.longest:
            raise ValueError(f"the decoder holds {self._model.longest} tokens, asked to read {self._length}")
        fed = {"input_ids": onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray([tokens], np.int64)), **self._encoded, **self._past}
        model = self._model
        (logits,), present = run(model.session, model.place, fed, ["logits"], model.present_names)
        self._past = dict(zip(model.past_names, present, strict=True))
        last: np.ndarray = logits[0, -1]
        return last
