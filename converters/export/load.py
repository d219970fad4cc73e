"""A staged model loaded in PyTorch.

In: a `Source` and a task. Out: the PyTorch model. This module must never load a model that has not been staged, or weights that are
not safetensors.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from converters.errors import ConversionFailed, ModelRefused
from converters.export.quiet import quiet, said_in
from converters.source import Source
from converters.tasks.task import Task

_EAGER = frozenset({"aimv2", "doge"})
"""Types that in transformers 4.57 let a token see later ones where there is no padding, unless attention is eager."""


def load_model(source: Source, task: Task) -> Any:
    """The PyTorch model in float32, ready for inference; half-precision weights are widened, which loses nothing.

    Raises ModelRefused for a type that transformers cannot load for the task, ConversionFailed when the weights do not fit.
    """
    with quiet() as noise:
        try:
            model, report = class_for(source, task).from_pretrained(
                str(source.folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except ModelRefused:
            raise
        # Whatever a stranger's configuration provokes in a model's constructor; the cause travels along.
        except Exception as error:
            raise ConversionFailed(f"load: {type(error).__name__}: {error}{said_in(noise)}") from error
    # Missing weights would be drawn at random: the model would load, and be a different one each time.
    if report["missing_keys"] or report["mismatched_keys"]:
        missing, wrong = sorted(report["missing_keys"]), sorted(str(key) for key in report["mismatched_keys"])
        raise ModelRefused(
            f"weights: expected every tensor of {type(model).__name__}, missing {missing[:5]}, of another shape {wrong[:5]}"
        )
    # Some modules make weights of their own in half precision, whatever dtype is asked for.
    model = model.float().eval()
    if source.model_type in _EAGER:
        model.set_attn_implementation("eager")
    return model


def class_for(source: Source, task: Task) -> Any:
    """The class that loads the model; for raw tensors the one that config.json names."""
    if not task.auto_classes:
        named = getattr(transformers, source.architectures[0], None) if source.architectures else None
        return named if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel) else transformers.AutoModel
    # Not `get`: this mapping imports a configuration's class when it is asked for by key.
    is_known = source.model_type in transformers.CONFIG_MAPPING
    config_class = transformers.CONFIG_MAPPING[source.model_type] if is_known else None
    for name in task.auto_classes:
        auto_class = getattr(transformers, name)
        if config_class in auto_class._model_mapping:
            return auto_class
    raise ModelRefused(
        f"config.json: expected a model_type that transformers has the task {task.name} for, found {source.model_type!r}"
    )
