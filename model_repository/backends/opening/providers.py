"""Which of ONNX Runtime's providers runs an entry: what the deployment chose, or a refusal.

In: the parameters of config.pbtxt. Out: the list that a session takes. This module must never fall back to a slower provider
unasked: an operator who pays for a GPU must hear that it is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

_NAMES = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_SHAPES = {
    "engine_least": "trt_profile_min_shapes",
    "engine_usual": "trt_profile_opt_shapes",
    "engine_most": "trt_profile_max_shapes",
}

Provider = str | tuple[str, dict[str, str]]


class ProviderUnusable(Exception):
    """The operator must act: what the deployment chose cannot run here. Triton reports the message as the load's failure."""


def providers_for(parameters: Mapping[str, Any]) -> list[Provider]:
    """The providers that `parameters` name, the preferred first; the CPU's when they name none.

    Raises ProviderUnusable for one we do not know, or that this installation of ONNX Runtime does not have.
    """
    given = {key: str(value.get("string_value", "")) for key, value in parameters.items()}
    wanted = [name for name in given.get("providers", "cpu").split(",") if name]
    if unknown := [name for name in wanted if name not in _NAMES]:
        raise ProviderUnusable(f"config.pbtxt: providers must be among {sorted(_NAMES)}, found {unknown}")
    here = onnxruntime.get_available_providers()
    if missing := [name for name in wanted if _NAMES[name] not in here]:
        raise ProviderUnusable(
            f"config.pbtxt: providers asks for {missing}, and this ONNX Runtime has {here}; install onnxruntime-gpu"
        )
    return [_provider(name, given) for name in wanted]


def check_taken(wanted: Sequence[Provider], taken: Sequence[str]) -> None:
    """Raises ProviderUnusable when a session runs without the preferred provider; ONNX Runtime only warns of it."""
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if first not in taken:
        raise ProviderUnusable(
            f"config.pbtxt: expected the session to run on {first}, found {taken}: its libraries cannot be loaded"
        )


def _provider(name: str, given: Mapping[str, str]) -> Provider:
    if name == "cpu":
        return _NAMES[name]
    options = {"device_id": given.get("device", "0")}
    if name == "cuda":
        # ONNX Runtime lets CUDA round float32 products to 10 bits unless it is told not to; an fp32 entry promises 1e-4.
        options["use_tf32"] = "0"
    if name == "tensorrt":
        cache = Path(given.get("engine_cache", ""))
        if not cache.is_absolute():
            raise ProviderUnusable(f"config.pbtxt: engine_cache must be an absolute path, found {str(cache)!r}")
        cache.mkdir(parents=True, exist_ok=True)
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
            "trt_fp16_enable": str(int(given.get("engine_precision") == "fp16")),
            "trt_bf16_enable": str(int(given.get("engine_precision") == "bf16")),
        }
        options |= {theirs: given[ours] for ours, theirs in _SHAPES.items() if ours in given}
    return _NAMES[name], options
