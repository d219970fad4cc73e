"""The few things that both backends do with Triton's own objects.

In: what Triton hands to a backend. Out: plain values, and error responses. Beside `model.py`, no other module knows of Triton.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from opening.entry import OpenEntry, open_entry
from opening.memory import ceiling, limit_memory
from opening.meters import Meter
from opening.providers import providers_for
from opening.refusal import Cancelled, Refused, TooBusy

REQUEST_ID = "X-Request-Id"
"""As Triton 2.51 writes a forwarded header's name, however it came; the last of that name in the parameters is the header's."""
WAIT_MS = "X-Posthuman-Wait-Ms"
"""As above; of `infer`, whose body is the caller's. `generate` has it as a parameter of its body."""
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,12}", re.ASCII)
_STUCK_S = 30.0
"""No call holds Python's lock this long: tokenising a MiB takes a second, and the model runs without the lock."""


def open_from(args: Mapping[str, str]) -> OpenEntry:
    """Open the entry that Triton names in `initialize`.

    Parameters of config.pbtxt: `threads` sets ONNX Runtime's threads (all cores by default); for the others see
    `opening/providers.py`.
    """
    chosen = parameter_of(args, "threads")
    providers = providers_for(_parameters(args))
    # A GPU's driver maps more than the machine has; only where the CPU computes does this limit say what it means.
    if providers == ["CPUExecutionProvider"]:
        limit_memory(ceiling())
    return open_entry(Path(args["model_repository"]), threads=int(chosen) if chosen else None, providers=providers)


def parameter_of(args: Mapping[str, str], key: str) -> str | None:
    """A parameter of config.pbtxt; None where it is not set."""
    value = _parameters(args).get(key, {}).get("string_value")
    return None if value is None else str(value)


def _parameters(args: Mapping[str, str]) -> dict[str, Any]:
    return dict(json.loads(args["model_config"]).get("parameters", {}))


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


def gauge(meter: Meter, args: Mapping[str, str]) -> Callable[[float], None]:
    """A number at Triton's own metrics port that goes up and down; call it with each new value, which costs about 30 us."""
    metric = _metric(meter, args, pb_utils.MetricFamily.GAUGE)
    return lambda value: metric.set(value)


def counter(meter: Meter, args: Mapping[str, str]) -> Callable[[float], None]:
    """A number there that only grows, also over loads of the entry; call it with what came to it."""
    metric = _metric(meter, args, pb_utils.MetricFamily.COUNTER)
    return lambda more: metric.increment(more)


def _metric(meter: Meter, args: Mapping[str, str], kind: object) -> pb_utils.Metric:
    """One of an entry's; the server keeps a family of one name once, whichever entry asks first."""
    family = pb_utils.MetricFamily(name=meter.name, description=meter.description, kind=kind)
    metric = family.Metric(labels={"model": args["model_name"], "version": args["model_version"], **meter.labels})
    _KEPT.append((family, metric))
    return metric


_KEPT: list[object] = []
"""A metric is gone from the server when Python forgets its family."""


def tensors_of(request: pb_utils.InferenceRequest) -> dict[str, np.ndarray]:
    """The request's inputs by name; those that the caller left out are absent."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def name_of(request: pb_utils.InferenceRequest) -> str:
    """The id under which the gate's lines know this request; "" where it has none that may stand in a log.

    `infer` brings it in a header, for its body is the caller's, with an id of the caller's own; `generate` as Triton's own id.
    """
    given = json.loads(request.parameters() or "{}")
    name = str(given.get(REQUEST_ID, request.request_id()))
    return name if _NAME.fullmatch(name) else ""


def most_wait_of(request: pb_utils.InferenceRequest) -> float:
    """Seconds that an `infer` may wait before it is computed; any time where the gate did not say."""
    told = str(json.loads(request.parameters() or "{}").get(WAIT_MS, ""))
    return int(told) / 1000 if _WHOLE.fullmatch(told) else math.inf


def error_response(error: BaseException, name: str) -> pb_utils.InferenceResponse:
    """A refusal goes out as INVALID_ARG with its JSON, what nobody is to blame for by its kind, and everything else as INTERNAL
    with its kind alone: texts may be private.

    name: of the request, for the line in Triton's log, which holds the error's kind and place.
    """
    if isinstance(error, Refused):
        return _error(error.to_json(), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, TooBusy):
        return _error(str(error), pb_utils.TritonError.UNAVAILABLE)
    if isinstance(error, Cancelled):
        return _error("the caller has gone", pb_utils.TritonError.CANCELLED)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    where = " < ".join(reversed(places[-6:]))
    pb_utils.Logger.log_error(f"a call failed: request={name or '-'} kind={type(error).__name__} where={where}")
    return _error(f"the computation failed: {type(error).__name__}", pb_utils.TritonError.INTERNAL)


def _error(message: str, kind: int) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, kind))
