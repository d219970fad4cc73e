"""Triton's `config.pbtxt` for an entry.

In: an `Entry`, the name Triton knows it by, its model digest. Out: the file's text, the same for the same input.
This module must never read a `config.pbtxt`: it is derived at each load, never hashed and never trusted.
"""

from __future__ import annotations

from converters.entry import Entry, ModelDigest
from converters.errors import EntryBroken
from converters.tensors import Tensor

_BACKENDS = {"generate": True, "predict": False}
"""Backend -> does one request have several responses (Triton: "decoupled")."""


def config_pbtxt(entry: Entry, name: str, digest: ModelDigest) -> str:
    """The text Triton reads beside the entry. The first axis is the entry's own, so Triton adds no batch axis.

    Raises EntryBroken when the entry names a backend we do not have: a stranger's entry must not choose among Triton's own.
    """
    if entry.backend not in _BACKENDS:
        raise EntryBroken(f"{entry.name}: backend must be one of {sorted(_BACKENDS)}, found {entry.backend!r}")
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(entry.backend)}", "max_batch_size: 0"]
    if _BACKENDS[entry.backend]:
        lines.append("model_transaction_policy { decoupled: true }")
    lines += [_tensor("input", tensor) for tensor in entry.inputs]
    lines += [_tensor("output", tensor) for tensor in entry.outputs]
    lines.append("instance_group [ { kind: KIND_CPU count: 1 } ]")
    lines += [_parameter("model_digest", digest), _parameter("entry_name", entry.name)]
    return "\n".join(lines) + "\n"


def _tensor(direction: str, tensor: Tensor) -> str:
    kind = "TYPE_STRING" if tensor.dtype == "BYTES" else f"TYPE_{tensor.dtype}"
    dims = ", ".join(str(length) for length in tensor.shape)
    # Triton knows "optional" on inputs only; an output is always offered.
    optional = " optional: true" if tensor.is_optional and direction == "input" else ""
    return f"{direction} [ {{ name: {_quoted(tensor.name)} data_type: {kind} dims: [ {dims} ]{optional} }} ]"


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}"


def _quoted(text: str) -> str:
    """A string literal of protobuf's text format: its UTF-8 bytes, octal where they are not plain ASCII."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode("utf-8"))
    return '"' + "".join(plain) + '"'
