"""The few things that both backends do with Triton's own objects.

In: what Triton hands to a backend. Out: plain values, and error responses. Beside `model.py`, no other module knows of Triton.
"""

from __future__ import annotations

import faulthandler
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from opening.entry import OpenEntry, open_entry
from opening.memory import ceiling, limit_memory
from opening.providers import providers_for
from opening.refusal import Refused

_STUCK_S = 30.0
"""No call holds Python's lock this long: tokenising a MiB takes a second, and the model runs without the lock."""


def open_from(args: Mapping[str, str]) -> OpenEntry:
    """Open the entry that Triton names in `initialize`.

    Parameters of config.pbtxt: `threads` sets ONNX Runtime's threads; for the others see `opening/providers.py`.
    """
    parameters = json.loads(args["model_config"]).get("parameters", {})
    threads = parameters.get("threads", {}).get("string_value")
    providers = providers_for(parameters)
    # A GPU's driver maps more than the machine has; only where the CPU computes does this limit say what it means.
    if providers == ["CPUExecutionProvider"]:
        limit_memory(ceiling())
    return open_entry(Path(args["model_repository"]), threads=int(threads) if threads else None, providers=providers)


def end_with_the_server() -> None:
    """End this process when Triton is gone, also when its own stub cannot.

    When the server is killed while we ask it whether a call was cancelled, that question holds Python's lock for ever, and no
    thread of ours runs again (nvidia-pytriton 0.7.0). So it works the other way round: a thread puts off the end while it runs.
    """
    server = os.getppid()

    def put_off() -> None:
        while os.getppid() == server:
            faulthandler.dump_traceback_later(_STUCK_S, exit=True)  # replaces the one before; needs no lock when its time comes
            time.sleep(_STUCK_S / 10)

    threading.Thread(target=put_off, name="end with the server", daemon=True).start()


def tensors_of(request: pb_utils.InferenceRequest) -> dict[str, np.ndarray]:
    """The request's inputs by name; those that the caller left out are absent."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def error_response(error: BaseException) -> pb_utils.InferenceResponse:
    """A refusal goes out as INVALID_ARG with its JSON, everything else as INTERNAL with its kind alone: texts may be private."""
    if isinstance(error, Refused):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.to_json(), pb_utils.TritonError.INVALID_ARG))
    pb_utils.Logger.log_error(f"a call failed: {type(error).__name__}: {error}")
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(f"the computation failed: {type(error).__name__}", pb_utils.TritonError.INTERNAL)
    )
