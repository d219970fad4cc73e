"""Build a plan, where there are a GPU and TensorRT.

In: an entry's graph and profiles. Out: the plan's file and what built it, or `NotBuilt`. This module must never import TensorRT
before it is asked to build, or leave half a plan.

Networks are strongly typed: every node computes in the type that the graph gives it, so a plan has its entry's precision. TF32,
which rounds float32 products to 10 bits, is off: it would not keep the bound of an fp32 entry.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.errors import ConversionFailed, ConverterError
from converters.tensorrt.profiles import Profile
from converters.tensorrt.statement import Gpu

_WITHIN_S = 6 * 3600
_WHICH = (("min", "least"), ("opt", "usual"), ("max", "most"))


class NotBuilt(ConverterError):
    """The operator must act, or nobody: this machine has no GPU or no TensorRT. Nothing is wrong with the entry."""

    exit_code = 7


@dataclass(frozen=True)
class Builder:
    """What builds here: `build` writes a plan. tensorrt: its version."""

    gpu: Gpu
    tensorrt: str
    build: Callable[[Path, tuple[Profile, ...], Path], None]


def trtexec_command(onnx: Path, profiles: tuple[Profile, ...], plan: Path) -> list[str]:
    """The command that builds the same with TensorRT's own tool."""
    command = ["trtexec", f"--onnx={onnx}", f"--saveEngine={plan}", "--stronglyTyped", "--noTF32", "--skipInference"]
    for number, profile in enumerate(profiles):
        command += [f"--profile={number}"] if len(profiles) > 1 else []
        for theirs, ours in _WHICH:
            shapes = ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in profile.at(ours).items())
            command.append(f"--{theirs}Shapes={shapes}")
    return command


def find_builder() -> Builder:
    """TensorRT's Python package, else its tool `trtexec`. Raises NotBuilt saying what is missing."""
    gpu = _gpu()
    if importlib.util.find_spec("tensorrt") is not None:
        tensorrt = importlib.import_module("tensorrt")
        return Builder(gpu, str(tensorrt.__version__), lambda onnx, profiles, plan: _build(tensorrt, onnx, profiles, plan))
    if shutil.which("trtexec"):
        return Builder(gpu, _trtexec_version(), _run)
    raise NotBuilt(f"not built: a {gpu.name} is here, but neither the Python package tensorrt nor the command trtexec")


def _gpu() -> Gpu:
    if not shutil.which("nvidia-smi"):
        raise NotBuilt("not built: no GPU here (no nvidia-smi), and a plan is built on the GPU that runs it")
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    first = done.stdout.strip().splitlines()[:1]
    if done.returncode != 0 or not first or "," not in first[0]:
        raise NotBuilt(f"not built: expected a GPU, nvidia-smi says {(done.stderr or done.stdout).strip()[:200]!r}")
    name, architecture = first[0].rsplit(",", 1)
    return Gpu(name.strip(), architecture.strip())


def _trtexec_version() -> str:
    done = subprocess.run(["trtexec", "--help"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"TensorRT v(\d+)", done.stdout + done.stderr)
    if found is None:
        raise NotBuilt("not built: expected trtexec to say its version, found none")
    return found[1]


def _run(onnx: Path, profiles: tuple[Profile, ...], plan: Path) -> None:
    part = plan.with_name(plan.name + ".part")
    done = subprocess.run(trtexec_command(onnx, profiles, part), capture_output=True, text=True, timeout=_WITHIN_S, check=False)
    if done.returncode != 0 or not part.is_file():
        part.unlink(missing_ok=True)
        raise ConversionFailed(
            f"plan: trtexec ended with {done.returncode}: {' '.join((done.stdout + done.stderr).split())[-600:]}"
        )
    part.replace(plan)


def _build(tensorrt: Any, onnx: Path, profiles: tuple[Profile, ...], plan: Path) -> None:
    """tensorrt: the package, version 10 or later."""
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        reasons = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise ConversionFailed(f"plan: TensorRT cannot read the graph: {reasons[:600]}")
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    for profile in profiles:
        made = builder.create_optimization_profile()
        for name in profile.shapes:
            made.set_shape(name, *(profile.at(ours)[name] for _, ours in _WHICH))
        config.add_optimization_profile(made)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ConversionFailed("plan: TensorRT built no engine; its log says why")
    part = plan.with_name(plan.name + ".part")
    part.write_bytes(built)
    part.replace(plan)
