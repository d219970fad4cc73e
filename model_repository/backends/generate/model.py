"""Triton's door to `generate`. A decoupled backend: `execute` takes the calls and returns at once, answers follow from the engine.

In: Triton's requests. Out: its responses: exactly one for a call that is not streamed, else one for each piece of text.
This module must never compute a token itself.
"""

from __future__ import annotations

import secrets
import sys
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
from generate.teller import Answer, Teller
from opening.meters import Meters
from opening.tritonside import counter, end_with_the_server, error_response, gauge, name_of, open_from, tensors_of

MOST_WAITING = 256
MOST_CONVERSATIONS = 64
"""That wait for their prompt, which takes a millisecond, and a second where a model's template is at its limit."""


class TritonPythonModel:
    """One per loaded entry. The names of its methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        end_with_the_server()
        self._entry = open_from(args)
        self._source = source_of(self._entry)
        self._end_tokens = frozenset(int(token) for token in self._entry.detail("eos_token_ids"))
        rows = rows_of(self._entry, most_bytes=cache_bytes(self._entry))
        self._engine = Engine(rows, most_waiting=MOST_WAITING)
        self._teller = Teller()
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
            line = _Line(call, sender, name)
            answer = Answer(line, self._teller, is_streamed=call.is_streamed, has_beats=said.has_beats)
            self._engine.add(generation, answer, said.caller, said.most_wait_s)
        except BaseException as error:  # a call that cannot start must not take the others with it; see engine.py
            _send_error(sender, error, name)

    def finalize(self) -> None:
        self._aside.close()
        self._engine.close()
        self._teller.close()
        self._meters.close()


class _Line:
    """See `teller.Line`: one call's responses."""

    def __init__(self, call: Call, sender: pb_utils.InferenceResponseSender, name: str) -> None:
        """name: of the request, see `name_of`."""
        self._call, self._sender, self._name = call, sender, name

    def is_cut(self) -> bool:
        return bool(self._sender.is_cancelled())

    def say(self, pieces: Sequence[Piece]) -> None:
        if not pieces:
            self._sender.send(pb_utils.InferenceResponse([]))
            return
        last = pieces[-1]
        tensors = [
            pb_utils.Tensor("text_output", np.array(["".join(part.text for part in pieces).encode()], object)),
            pb_utils.Tensor("token_ids", np.array([token for part in pieces for token in part.token_ids], np.int32)),
            pb_utils.Tensor("prompt_tokens", np.array([self._call.prompt_tokens], np.int32)),
            pb_utils.Tensor("completion_tokens", np.array([last.completion_tokens], np.int32)),
            pb_utils.Tensor("finish_reason", np.array([last.finish_reason.encode()], object)),
        ]
        if self._call.has_logprobs:  # nobody else pays for carrying them
            logprobs = np.array([one for part in pieces for one in part.logprobs], np.float32)
            texts = np.array([text.encode() for part in pieces for text in part.token_texts], object)
            tensors += [pb_utils.Tensor("token_logprobs", logprobs), pb_utils.Tensor("token_texts", texts)]
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last.finish_reason else 0
        self._sender.send(pb_utils.InferenceResponse(tensors), flags=flags)

    def fail(self, error: BaseException) -> None:
        _send_error(self._sender, error, self._name)


def _send_error(sender: pb_utils.InferenceResponseSender, error: BaseException, name: str) -> None:
    sender.send(error_response(error, name), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
