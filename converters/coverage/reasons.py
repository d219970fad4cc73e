"""Whose limit a failure is.

In: attempts that failed. Out: one of three sorts. This module must never count what nobody has looked at as somebody else's: what
no rule names is ours to fix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from converters.coverage.attempts import Attempt

EXPORTER, LIBRARY, OURS = "the exporter's limit", "needs a library we do not ship", "ours to fix"
SORTS = (EXPORTER, LIBRARY, OURS)

_LIBRARY = re.compile(
    r"requires the [\w -]+ library"
    r"|No module named"
    r"|ModuleNotFoundError"
    # A type whose own defaults fetch timm's configuration of a backbone.
    r"|We couldn't connect to"
    # transformers lists classes that only exist beside torchvision or timm.
    r"|module transformers has no attribute"
)
_EXPORTER = re.compile(
    r"torch\.export|torch\._dynamo|torch\.onnx|TorchExportError|ConversionError|SerdeError"
    r"|[Dd]ata-dependent|GuardOnDataDependent|UserError|Unsupported(?:Operator)?(?:Error)?\b.*(?:aten|onnx|operator)"
    r"|Exporting the operator|aten::|ONNX opset|prim::|symbolic function"
    r"|Constraints violated|L\['|specialized"
    r"|ONNXRuntimeError"
    r'|missing the required "forward" function'
)
_TRIED_BY_EXPORTER = ("export", "parity")
_ROUTE = re.compile(r"(?:^|; )(?:optimum(?:, our configuration)?|dynamo|torchscript) failed: ")
"""How a message begins to tell of each route, when several were tried."""


def sort_of(attempts: Sequence[Attempt]) -> tuple[str, Attempt]:
    """Whose limit it is that a type is not supported, and the attempt that shows it; all attempts have failed.

    Ours when any attempt failed for a reason that is ours; else the exporter's when any got as far as the exporter.
    """
    found = [(_sort(attempt), attempt) for attempt in attempts]
    for wanted in (OURS, EXPORTER, LIBRARY):
        for sort, attempt in found:
            if sort == wanted:
                return sort, attempt
    raise ValueError("sort_of: expected an attempt that failed, found none")


def _sort(attempt: Attempt) -> str:
    if attempt.error == "ImportError" or _LIBRARY.search(attempt.message):
        return LIBRARY
    told = [part for part in _ROUTE.split(attempt.message) if part]
    if attempt.step in _TRIED_BY_EXPORTER and all(_EXPORTER.search(part) for part in told):
        return EXPORTER
    return OURS
