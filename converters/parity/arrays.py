"""Arrays as the tensors of a probe.

In: numpy arrays. Out: `ProbeTensor`. This module must never change a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from converters.probes import ProbeTensor

_NAMES: Mapping[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}


def numbers(name: str, array: Any) -> ProbeTensor:
    """An array of numbers or flags as it is; a scalar has one element, since Triton offers no tensor without axes."""
    array = numpy.ascontiguousarray(array)  # gives a scalar one axis
    little = array.astype(array.dtype.newbyteorder("<"))
    return ProbeTensor(name, _NAMES[array.dtype.name], tuple(array.shape), little.tobytes())
