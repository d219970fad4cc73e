"""Triton's door to `predict`. `execute` takes the calls and returns at once, so that calls which come together can share the graph.

In: Triton's requests. Out: its responses, exactly one for each. This module must never interpret a tensor itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the stub ignores PYTHONPATH

from opening.meters import Meters
from opening.refusal import Cancelled
from opening.tritonside import (
    counter,
    end_with_the_server,
    error_response,
    gauge,
    most_wait_of,
    name_of,
    open_from,
    parameter_of,
    tensors_of,
)
from predict.crew import Crew
from predict.meters import COUNTERS, GAUGES, Tally
from predict.tasks import at_once, task_of

MOST_WAITING = 256


class TritonPythonModel:
    """One per loaded entry. The names of its methods are Triton's.

    Parameter of config.pbtxt: `at_once`, how many calls may be under way together.
    """

    def initialize(self, args: Mapping[str, str]) -> None:
        end_with_the_server()
        # Threads that do not spin cost the CPU what one thread costs, so a free core is taken and a busy one is not lost.
        entry = open_from(args)
        self._task = task_of(entry)
        self._crew = Crew(int(parameter_of(args, "at_once") or at_once(entry)), MOST_WAITING)
        self._tally = Tally(self._crew)
        self._meters = Meters(self._tally.counts, GAUGES, COUNTERS, (gauge, counter), args)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                most_wait_s, fail = most_wait_of(request), partial(self._fail, sender, request)
                job = partial(self._respond, request, sender, time.monotonic() + most_wait_s)
                self._crew.add(job, fail, most_wait_s)
            except BaseException as error:  # one call's failure is that call's alone
                self._fail(sender, request, error)

    def finalize(self) -> None:
        self._crew.close()
        self._meters.close()

    def _respond(self, request: pb_utils.InferenceRequest, sender: pb_utils.InferenceResponseSender, until: float) -> None:
        try:
            if sender.is_cancelled():
                raise Cancelled
            wanted = frozenset(request.requested_output_names())  # all of them when the caller named none
            arrays = self._task.answer(tensors_of(request), wanted, until)
            response = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in wanted]
            )
        except BaseException as error:  # as above; a panic in a library's Rust is no Exception
            self._fail(sender, request, error)
            return
        _send(sender, response)

    def _fail(self, sender: pb_utils.InferenceResponseSender, request: pb_utils.InferenceRequest, error: BaseException) -> None:
        self._tally.note(error)
        _send(sender, error_response(error, name_of(request)))


def _send(sender: pb_utils.InferenceResponseSender, response: pb_utils.InferenceResponse) -> None:
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
