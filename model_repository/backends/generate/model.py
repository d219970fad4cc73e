"""Triton's door to `generate`. A decoupled backend: `execute` takes the calls and returns at once, answers follow from the engine.

In: Triton's requests. Out: its responses: exactly one for a call that is not streamed, else one for each piece of text.
This module must never compute a token itself.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the stub ignores PYTHONPATH

from chat.messages import FIELD as MESSAGES
from generate.aside import Aside
from generate.call import Call, Parameters, read_call, read_parameters
from generate.engine import Engine
from generate.generation import Generation, Piece
from generate.meters import COUNTERS, GAUGES
from generate.model_rows import cache_bytes, rows_of
from generate.scoring import Scoring
from generate.source import source_of
from opening.meters import Meters
from opening.tritonside import counter, end_with_the_server, error_response, gauge, name_of, open_from, tensors_of

MOST_WAITING = 256
MOST_CONVERSATIONS = 64
"""That wait for their prompt, which takes a millisecond, and a second where a model's template is at its limit."""
BEAT_S = 0.1
"""Between two signs of life. Triton 2.51 finds out that a caller has gone when it writes to the connection, and not before: what is
answered in one piece would be computed to its end for nobody."""


class TritonPythonModel:
    """One per loaded entry. The names of its methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        end_with_the_server()
        self._entry = open_from(args)
        self._source = source_of(self._entry)
        self._end_tokens = frozenset(int(token) for token in self._entry.detail("eos_token_ids"))
        rows = rows_of(self._entry, most_bytes=cache_bytes(self._entry))
        self._engine = Engine(rows, most_waiting=MOST_WAITING)
        self._aside = Aside(most_waiting=MOST_CONVERSATIONS)
        self._meters = Meters(self._engine.counts, GAUGES, COUNTERS, (gauge, counter), args)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            sender, name = request.get_response_sender(), ""
            try:
                name = name_of(request)
                tensors, said = tensors_of(request), read_parameters(request.parameters())
                begin = partial(self._begin, request, tensors, said, sender, name)
                if MESSAGES in tensors:
                    self._aside.add(begin, said.caller)
                else:
                    begin()
            except BaseException as error:  # as in `_begin`
                _send_error(sender, error, name)

    def _begin(
        self,
        request: pb_utils.InferenceRequest,
        tensors: Mapping[str, np.ndarray],
        said: Parameters,
        sender: pb_utils.InferenceResponseSender,
        name: str,
    ) -> None:
        """request: kept as long as its tensors are read, since they may be views of its memory."""
        try:
            call = read_call(tensors, self._entry, self._source)
            decode = self._entry.tokenizer.decode
            generation: Generation | Scoring
            if call.is_scored:
                generation = Scoring(call, decode)
            else:
                generation = Generation(call, decode, self._end_tokens, secrets.randbits(63))
            self._engine.add(generation, _Answer(call, sender, name, has_beats=said.has_beats), said.caller, said.most_wait_s)
        except BaseException as error:  # a call that cannot start must not take the others with it; see engine.py
            _send_error(sender, error, name)

    def finalize(self) -> None:
        self._aside.close()
        self._engine.close()
        self._meters.close()


class _Answer:
    """Where one call's pieces go, and where its caller is looked after: while there is nothing to say, empty answers go out."""

    def __init__(self, call: Call, sender: pb_utils.InferenceResponseSender, name: str, *, has_beats: bool) -> None:
        """name: of the request, see `name_of`."""
        self._call, self._sender, self._name = call, sender, name
        self._has_beats, self._beat_at = has_beats, time.monotonic()
        self._pieces: list[Piece] = []

    def is_cancelled(self) -> bool:
        if self._has_beats and time.monotonic() - self._beat_at >= BEAT_S:
            self._beat_at = time.monotonic()
            self._sender.send(pb_utils.InferenceResponse([]))
        return bool(self._sender.is_cancelled())

    def deliver(self, piece: Piece) -> None:
        self._pieces.append(piece)
        if not (self._call.is_streamed or piece.finish_reason):
            return
        pieces, self._pieces = self._pieces, []
        tensors = [
            pb_utils.Tensor("text_output", np.array(["".join(part.text for part in pieces).encode()], object)),
            pb_utils.Tensor("token_ids", np.array([token for part in pieces for token in part.token_ids], np.int32)),
            pb_utils.Tensor("prompt_tokens", np.array([self._call.prompt_tokens], np.int32)),
            pb_utils.Tensor("completion_tokens", np.array([piece.completion_tokens], np.int32)),
            pb_utils.Tensor("finish_reason", np.array([piece.finish_reason.encode()], object)),
        ]
        if self._call.has_logprobs:  # nobody else pays for carrying them
            logprobs = np.array([one for part in pieces for one in part.logprobs], np.float32)
            texts = np.array([text.encode() for part in pieces for text in part.token_texts], object)
            tensors += [pb_utils.Tensor("token_logprobs", logprobs), pb_utils.Tensor("token_texts", texts)]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if piece.finish_reason else 0
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=flags)
        self._beat_at = time.monotonic()

    def fail(self, error: BaseException) -> None:
        _send_error(self._sender, error, self._name)


def _send_error(sender: pb_utils.InferenceResponseSender, error: BaseException, name: str) -> None:
    sender.send(error_response(error, name), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
