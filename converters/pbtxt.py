"""Triton's `config.pbtxt` for an entry.

In: an `Entry`, the name Triton knows it by, its model digest. Out: the file's text, the same for the same input.
This module must never read a `config.pbtxt`: it is derived at each load, never hashed and never trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.entry import Entry, ModelDigest
from converters.errors import ConversionFailed, EntryBroken
from converters.tasks import offered_inputs, offered_outputs, raw
from converters.tensorrt.profiles import onnxruntime_shapes, profiles_of
from converters.tensors import Tensor

_BACKENDS = {"generate": True, "predict": False}
"""Backend -> does one request have several responses (Triton: "decoupled")."""


PROVIDERS = ("tensorrt", "cuda", "cpu")
"""ONNX Runtime's providers that a deployment may choose, in the order in which they make sense."""


@dataclass(frozen=True)
class Hardware:
    """What a deployment runs its entries on.

    providers: of PROVIDERS, the preferred first; "cpu" is always last, for the nodes that no other has. engine_cache: where ONNX
    Runtime keeps the engines that its TensorRT provider builds; needed for "tensorrt", since a build takes minutes.
    most_batch: the largest batch that engines are built for. device: the GPU's number.
    """

    providers: tuple[str, ...] = ("cpu",)
    engine_cache: Path | None = None
    most_batch: int = 8
    device: int = 0

    def __post_init__(self) -> None:
        expected = tuple(provider for provider in PROVIDERS if provider in self.providers)
        if self.providers != expected or "cpu" not in expected:
            raise EntryBroken(f"providers: expected some of {PROVIDERS} in this order, with cpu; found {self.providers}")
        if "tensorrt" in self.providers and self.engine_cache is None:
            raise EntryBroken("providers: tensorrt needs a folder for its engines, found none")

    @property
    def has_gpu(self) -> bool:
        return self.providers != ("cpu",)


CPU = Hardware()


def config_pbtxt(entry: Entry, name: str, digest: ModelDigest, hardware: Hardware = CPU) -> str:
    """The text Triton reads beside the entry. The first axis is the entry's own, so Triton adds no batch axis.

    hardware: the deployment's; the backend opens its session as the parameters say, and refuses a provider that is not there.
    Raises EntryBroken when the entry names a backend we do not have: a stranger's entry must not choose among Triton's own.
    """
    if entry.backend not in _BACKENDS:
        raise EntryBroken(f"{entry.name}: backend must be one of {sorted(_BACKENDS)}, found {entry.backend!r}")
    lines = [f"name: {_quoted(name)}", f"backend: {_quoted(entry.backend)}", "max_batch_size: 0"]
    if _BACKENDS[entry.backend]:
        lines.append("model_transaction_policy { decoupled: true }")
    lines += [_tensor("input", tensor) for tensor in offered_inputs(entry)]
    lines += [_tensor("output", tensor) for tensor in offered_outputs(entry)]
    if hardware.has_gpu:
        lines.append(f"instance_group [ {{ kind: KIND_GPU count: 1 gpus: [ {hardware.device} ] }} ]")
    else:
        lines.append("instance_group [ { kind: KIND_CPU count: 1 } ]")
    lines += [_parameter("model_digest", digest), _parameter("entry_name", entry.name)]
    lines += [_parameter(key, value) for key, value in _session(entry, digest, hardware).items()]
    return "\n".join(lines) + "\n"


def plan_pbtxt(entry: Entry, name: str, digest: ModelDigest, statement: str, profiles: int) -> str:
    """The text for a plan built from the entry, on Triton's own tensorrt backend: the graph's tensors, without tokenizer or task.

    statement: digest of the plan's statement. profiles: how many the plan has; every instance may use each.
    """
    lines = [f"name: {_quoted(name)}", 'backend: "tensorrt"', "max_batch_size: 0", 'default_model_filename: "model.plan"']
    lines += [_tensor("input", tensor) for tensor in raw.tensors(list(entry.details["graph_inputs"]))]
    lines += [_tensor("output", tensor) for tensor in raw.tensors(list(entry.details["graph_outputs"]))]
    numbers = ", ".join(_quoted(str(number)) for number in range(profiles))
    lines.append(f"instance_group [ {{ kind: KIND_GPU count: 1 profile: [ {numbers} ] }} ]")
    lines += [_parameter("model_digest", digest), _parameter("entry_name", entry.name), _parameter("plan_statement", statement)]
    return "\n".join(lines) + "\n"


def _session(entry: Entry, digest: ModelDigest, hardware: Hardware) -> dict[str, str]:
    """Parameters for the backend; none on a CPU, so that its text stays what it was."""
    if not hardware.has_gpu:
        return {}
    parameters = {"providers": ",".join(hardware.providers), "device": str(hardware.device)}
    if "tensorrt" not in hardware.providers:
        return parameters
    # By digest: an engine of another model, or of the same in another precision, is never taken for this one.
    parameters["engine_cache"] = str(hardware.engine_cache / digest[2:18]) if hardware.engine_cache else ""
    parameters["engine_precision"] = entry.precision
    try:
        profiles = profiles_of(entry.details, hardware.most_batch)
    except ConversionFailed:
        # An axis that the entry does not say: the provider then builds an engine for the shapes that it meets.
        return parameters
    return parameters | {f"engine_{which}": onnxruntime_shapes(profiles, which) for which in ("least", "usual", "most")}


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
