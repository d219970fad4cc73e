"""A PyTorch model whose weights stay in their files: each layer's are read when it computes, and let go after.

In: a `Source` and a task. Out: the model, and its weights by name. This module must never hold more than one layer's weights.

Without its files mapped in, such a model computes with zeros that take no memory: enough to trace it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors import safe_open

from converters.errors import ConversionFailed, ModelRefused
from converters.export.load import class_for
from converters.export.quiet import quiet, said_in
from converters.source import Source
from converters.tasks.task import Task


@dataclass(frozen=True)
class Weights:
    """Where each of the model's weights lies. files: name in the model -> (file, name in the file)."""

    files: Mapping[str, tuple[Path, str]]

    def read(self, name: str) -> Any:
        """One weight in its stored dtype; its memory is the file's, mapped."""
        path, stored = self.files[name]
        with safe_open(str(path), framework="pt") as opened:
            return opened.get_tensor(stored)


@dataclass(frozen=True)
class Streamed:
    """model: in float32 and evaluating, of no weight until `reading`. weights: by the names of `model.named_parameters()`."""

    model: Any
    weights: Weights

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """The model with its weights: within the block every layer reads its own in float32 before it computes."""
        handles = []
        try:
            for place, module in self.model.named_modules():
                if module._parameters:
                    handles += self._hooks(place, module)
            yield self.model
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, place: str, module: Any) -> list[Any]:
        own = {name: weight for name, weight in module._parameters.items() if weight is not None}
        names = {name: self._name_of(f"{place}.{name}" if place else name, weight) for name, weight in own.items()}

        def take(_module: Any, _inputs: Any) -> None:
            for name, stored in names.items():
                wide = self.weights.read(stored).to(torch.float32)
                module._parameters[name] = torch.nn.Parameter(wide, requires_grad=False)

        def let_go(_module: Any, _inputs: Any, _outputs: Any) -> None:
            module._parameters.update(own)

        return [module.register_forward_pre_hook(take), module.register_forward_hook(let_go, always_call=True)]

    def _name_of(self, name: str, weight: Any) -> str:
        """A tied weight is stored once, under the first of its names."""
        if name in self.weights.files:
            return name
        return next(other for other, one in self.model.named_parameters() if one is weight)


def open_streamed(source: Source, task: Task) -> Streamed:
    """The staged model, not loaded. Raises ModelRefused for missing or mismatched weights, ConversionFailed for any other fault."""
    with quiet() as noise:
        try:
            config = transformers.AutoConfig.from_pretrained(str(source.folder), local_files_only=True, trust_remote_code=False)
            config.torch_dtype = torch.float32
            loaded_by = class_for(source, task)
            with init_empty_weights(include_buffers=False):
                is_auto = not issubclass(loaded_by, transformers.PreTrainedModel)
                model = loaded_by.from_config(config, trust_remote_code=False) if is_auto else loaded_by(config)
            if (source.folder / "generation_config.json").exists():
                model.generation_config = transformers.GenerationConfig.from_pretrained(str(source.folder), local_files_only=True)
            model.tie_weights()
        # Whatever a stranger's configuration provokes in a model's constructor.
        except Exception as error:
            raise ConversionFailed(f"load: {type(error).__name__}: {error}{said_in(noise)}") from error
    weights = _found(model, source)
    _put_zeros(model)
    model.tie_weights()
    for name, buffer in _buffers(model, source):
        buffer.copy_(weights.read(name))
    return Streamed(model.eval(), Weights({name: weights.files[name] for name, _ in model.named_parameters()}))


def _stored(source: Source) -> dict[str, tuple[Path, tuple[int, ...]]]:
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for name in source.files:
        if name.endswith(".safetensors"):
            with safe_open(str(source.folder / name), framework="pt") as opened:
                found |= {key: (source.folder / name, tuple(opened.get_slice(key).get_shape())) for key in opened.keys()}  # noqa: SIM118  # not a mapping
    return found


def _found(model: Any, source: Source) -> Weights:
    """Each parameter's place, by its name or by its name without the head's prefix (a model saved without its head)."""
    stored, files, missing, wrong = _stored(source), {}, [], []
    prefix = f"{model.base_model_prefix}."
    for name, weight in model.named_parameters():
        tied = [other for other, one in model.named_parameters(remove_duplicate=False) if one is weight]
        names = [candidate for one in (name, *tied) for candidate in (one, one.removeprefix(prefix))]
        place = next((candidate for candidate in names if candidate in stored), None)
        if place is None:
            missing.append(name)
        elif stored[place][1] != tuple(weight.shape):
            wrong.append(name)
        else:
            files[name] = (stored[place][0], place)
    if missing or wrong:
        raise ModelRefused(
            f"weights: expected every tensor of {type(model).__name__}, missing {missing[:5]}, of another shape {wrong[:5]}"
        )
    kept = {name: (stored[name][0], name) for name, _ in _buffers(model, source)}
    return Weights({**files, **kept})


def _buffers(model: Any, source: Source) -> list[tuple[str, Any]]:
    """Buffers that the model saves and whose values the files hold, such as running means."""
    saved, stored = set(model.state_dict()), _stored(source)
    return [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if name in saved and name in stored and stored[name][1] == tuple(buffer.shape)
    ]


def _put_zeros(model: Any) -> None:
    """A parameter of any size made of one zero, so that a trace needs no memory."""
    zero = torch.zeros((), dtype=torch.float32)
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                made.setdefault(id(weight), torch.nn.Parameter(zero.expand(weight.shape), requires_grad=False))
                module._parameters[name] = made[id(weight)]
