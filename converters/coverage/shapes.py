"""A tiny model folder of any type, as a publisher would have it.

In: a model type and a folder. Out: the folder filled, and `Built`. This module must never use a weight that somebody trained.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.coverage import composites, processors, vocabulary
from converters.coverage.heads import Head, heads
from converters.coverage.shrinking import merged, shrunk
from converters.coverage.spread import spread
from converters.tasks import TASKS

PARAMETERS = 6_000_000
"""More than that is not tiny: a default of the type was left as it is."""
_LETTERS = {"vocab_size": len(vocabulary.LETTERS), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_README = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Tiny {model_type}\n\nRandom weights; it answers nothing sensible.\n"


class NotBuilt(Exception):
    """The tiny model could not be made; the message names the type and the cause. Ours to fix, unless a library is missing."""


@dataclass(frozen=True)
class Built:
    """folder: what `python -m converters` takes. task: give it as `--task`. parameters: how many weights there are."""

    folder: Path
    model_type: str
    task: str
    class_name: str
    parameters: int


def build(model_type: str, folder: Path, task: str | None = None, *, seed: int | None = None, **overrides: Any) -> Built:
    """Fill `folder` (made if missing) with a tiny random model of `model_type`, ready to convert.

        built = build("t5", Path("tiny-t5"))                              # the type's best task
        built = build("bert", folder, "question-answering", num_hidden_layers=1)
        convert(str(built.folder), out, task=built.task)

    config.json, model.safetensors, generation_config.json where the class writes one, tokenizer.json and tokenizer_config.json
    for whatever reads text, preprocessor_config.json for whatever looks or listens (the type's own class, at the model's size), and
    a README.md with a licence. Vocabulary of 320 tokens, `vocabulary.py` says which are special; context of 128.

    task: one of ours that `heads.heads(model_type)` or the type's auto classes offer; None for the best. seed: of the weights; the
    type's own otherwise. overrides: arguments of the configuration's class, sub-configurations as dictionaries.

    Raises NotBuilt with the cause. Again: the same arguments write the same bytes.
    """
    import torch
    import transformers

    head = _head(model_type, task)
    try:
        config = composites.config_of(model_type) or _config(model_type, {**_of_task(head.task, model_type), **overrides})
        model_class = getattr(transformers, head.class_name)
        size = _size(model_class, config)
    # Any kind of error may come out of a configuration or a constructor.
    except Exception as error:
        raise NotBuilt(f"{model_type}: {head.class_name}: {type(error).__name__}: {error}") from error
    if size > PARAMETERS:
        raise NotBuilt(f"{model_type}: {head.class_name}: expected at most {PARAMETERS} weights, found {size}")
    seed = zlib.crc32(model_type.encode()) if seed is None else seed
    folder.mkdir(parents=True, exist_ok=True)
    try:
        torch.manual_seed(seed)
        with _own_first_weights(model_type):
            model = model_class(config).eval()
        size = sum(weight.numel() for weight in model.parameters())
        spread(model, seed)
        model.save_pretrained(folder, safe_serialization=True)
        _name_the_type(folder, model_type, model)
        _write_what_it_reads(folder, model_type, head, config)
    except Exception as error:
        raise NotBuilt(f"{model_type}: {head.class_name}: {type(error).__name__}: {error}") from error
    (folder / "README.md").write_text(_README.format(model_type=model_type), encoding="utf-8")
    return Built(folder, model_type, head.task, head.class_name, size)


def _head(model_type: str, task: str | None) -> Head:
    offered = heads(model_type)
    if task is None:
        if not offered:
            raise NotBuilt(f"{model_type}: transformers has a configuration of it and no model")
        return offered[0]
    for head in offered:
        if head.task == task:
            return head
    from transformers.models.auto import modeling_auto

    for name in TASKS[task].auto_classes:
        found = getattr(modeling_auto, name)._model_mapping._model_mapping.get(model_type)
        if found is not None:
            return Head(task, found if isinstance(found, str) else found[0])
    raise NotBuilt(f"{model_type}: expected a task that transformers has a class for, found {task!r}")


def _of_task(task: str, model_type: str) -> Mapping[str, Any]:
    """What a task asks of the configuration."""
    if task == "automatic-speech-recognition":
        return _LETTERS
    # An encoder's configuration makes a decoder only when it says so.
    is_encoder = model_type == "bert-generation" or any(head.task == "fill-mask" for head in heads(model_type))
    return {"is_decoder": True} if task == "text-generation" and is_encoder else {}


def _config(model_type: str, overrides: dict[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    return config_class(**merged(shrunk(config_class()), overrides))


@contextmanager
def _own_first_weights(model_type: str) -> Iterator[None]:
    """Of two old types the drawing of first weights fails in transformers 4.57; theirs stay as PyTorch draws them."""
    from transformers import modeling_utils

    before = modeling_utils._init_weights
    modeling_utils._init_weights = before and model_type not in ("speech_to_text_2", "vit_hybrid")
    try:
        yield
    finally:
        modeling_utils._init_weights = before


def _size(model_class: Any, config: Any) -> int:
    """How many weights the model would have, without making them; 0 for a class whose constructor computes with its weights."""
    import torch

    try:
        with torch.device("meta"):
            # Constructors write into their configuration.
            return sum(weight.numel() for weight in model_class(copy.deepcopy(config)).parameters())
    except ImportError:
        raise
    except Exception:
        return 0


def _name_the_type(folder: Path, model_type: str, model: Any) -> None:
    """Some types share another's configuration class, which writes its own name."""
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["model_type"] = model_type
    document["architectures"] = [type(model).__name__]
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_what_it_reads(folder: Path, model_type: str, head: Head, config: Any) -> None:
    if head.task == "automatic-speech-recognition":
        vocabulary.write_letters(folder)
    elif TASKS[head.task].reads_text or _reads_text(config):
        vocabulary.write_tokenizer(folder, longest=processors.text_length(config))
    try:
        processors.write_processor(folder, model_type, config)
    except ImportError:
        # Of raw tensors the caller makes the tensors; every other task needs what is missing.
        if head.task != "tensors":
            raise


def _reads_text(config: Any) -> bool:
    """Has it, or one of its parts, a table of text tokens? BEiT and its like count pieces of images."""
    if getattr(config, "model_type", "") in ("beit", "data2vec-vision", "imagegpt"):
        return False
    parts = [value for value in vars(config).values() if hasattr(value, "to_dict")]
    return isinstance(getattr(config, "vocab_size", None), int) or any(_reads_text(part) for part in parts)
