"""Triton's door to `predict`. One request, one response.

In: Triton's requests. Out: its responses. This module must never interpret a tensor itself.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the stub ignores PYTHONPATH

from opening.tritonside import error_response, name_of, open_from, tensors_of
from predict.tasks import task_of


class TritonPythonModel:
    """One per loaded entry. The names of its methods are Triton's."""

    def initialize(self, args: Mapping[str, str]) -> None:
        self._task = task_of(open_from(args))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            wanted = frozenset(request.requested_output_names())  # all of them when the caller named none
            arrays = self._task.answer(tensors_of(request), wanted)
            tensors = [pb_utils.Tensor(name, array) for name, array in arrays.items() if name in wanted]
        except BaseException as error:  # one call's failure is that call's alone; a panic in a library's Rust is no Exception
            return error_response(error, name_of(request))
        return pb_utils.InferenceResponse(tensors)
