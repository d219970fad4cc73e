"""The optional input `parameters`: a JSON object, the `parameters` of the Hugging Face inference API for the task.

In: a request's tensors. Out: one checked value at a time. This module must never know which keys a task has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opening.refusal import Refused

MAX_BYTES = 1 << 16


class Parameters:
    """What one call asks beside its inputs. A key that is absent or null has the task's default."""

    def __init__(self, tensors: Mapping[str, np.ndarray], known: Sequence[str]) -> None:
        """Raises Refused for anything but one JSON object with keys among `known`, naming the key."""
        self._values = {key: value for key, value in _read(tensors).items() if value is not None}
        for key in self._values:
            if key not in known:
                raise Refused(f"parameters.{key[:40]}", f"a parameter among {', '.join(known)}" if known else "no parameters", key)

    def count(self, key: str, default: int, most: int) -> int:
        """A whole number from 1 to `most`."""
        value = self._values.get(key, default)
        if type(value) is not int or not 1 <= value <= most:
            raise Refused(f"parameters.{key}", f"a whole number from 1 to {most}", _shown(value))
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if type(value) is not bool:
            raise Refused(f"parameters.{key}", "true or false", _shown(value))
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self._values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:  # NaN fails too
            raise Refused(f"parameters.{key}", f"a number from {least:g} to {most:g}", _shown(value))
        return float(value)

    def choice(self, key: str, default: str, choices: Sequence[str]) -> str:
        value = self._values.get(key, default)
        if value not in choices:
            raise Refused(f"parameters.{key}", f"one of {', '.join(choices)}", _shown(value))
        return str(value)

    def text(self, key: str, default: str, longest: int) -> str:
        """longest: in characters."""
        value = self._values.get(key, default)
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise Refused(f"parameters.{key}", f"a text of 1 to {longest} characters", _shown(value))
        return value

    def texts(self, key: str, most: int) -> tuple[str, ...]:
        """Nothing when the key is absent."""
        if key not in self._values:
            return ()
        value = self._values[key]
        if not isinstance(value, list) or not 1 <= len(value) <= most or not all(isinstance(item, str) and item for item in value):
            raise Refused(f"parameters.{key}", f"a list of 1 to {most} texts that are not empty", _shown(value))
        return tuple(value)

    def has(self, key: str) -> bool:
        return key in self._values


def _read(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "parameters" not in tensors:
        return {}
    values = tensors["parameters"].reshape(-1)
    if len(values) != 1:
        raise Refused("parameters", "one JSON object", f"{len(values)} values")
    if len(values[0]) > MAX_BYTES:
        raise Refused("parameters", f"at most {MAX_BYTES} bytes", f"{len(values[0])} bytes")
    try:
        record = json.loads(bytes(values[0]))
    except (ValueError, RecursionError):
        raise Refused("parameters", "a JSON object", "no JSON") from None
    if not isinstance(record, dict):
        raise Refused("parameters", "a JSON object", type(record).__name__)
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can write halves of characters, which no tokenizer takes
        raise Refused("parameters", "texts that UTF-8 can hold", "half a character") from None
    return record


def _shown(value: object) -> str:
    """A number or a flag as it is; of a text or a list only its kind and length, since it may be private."""
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, str | list | dict) else type(value).__name__
