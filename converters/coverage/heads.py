"""Which tasks a model type is tried with, the best one first, and the transformers class of each.

In: a model type. Out: `Head`s. This module must never build a model.

A type counts once, with the first of its tasks that is converted, served and equal. The order: a wrapped task before raw tensors,
and among wrapped tasks the one that people use the type for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from converters.tasks import TASKS

TRIED = 3
"""Most tasks a type is tried with."""

_ORDER = (
    "text2text-generation",
    "speech-to-text",
    "automatic-speech-recognition",
    "fill-mask",
    "text-generation",
    "zero-shot-image-classification",
    "image-classification",
    "object-detection",
    "image-segmentation",
    "depth-estimation",
    "audio-classification",
    "image-to-text",
    "question-answering",
    "text-classification",
    "token-classification",
    "multiple-choice",
)
_FIRST: Mapping[str, tuple[str, ...]] = {
    # The class of another task is in the mapping, and needs more than the task gives.
    **dict.fromkeys(("bert-generation", "xlm", "reformer"), ("text-generation",)),
    **dict.fromkeys(("granite_speech", "qwen2_audio", "voxtral", "seamless_m4t", "seamless_m4t_v2"), ("tensors",)),
    **dict.fromkeys(("layoutlmv2", "layoutlmv3", "lxmert", "tapas", "udop", "bros"), ("tensors",)),
    **dict.fromkeys(("aria", "emu3", "fuyu", "gemma3n", "llama4", "mllama", "moshi", "musicgen", "musicgen_melody"), ("tensors",)),
    **dict.fromkeys(("phi4_multimodal", "speech_to_text_2", "trocr"), ("text-generation", "tensors")),
    "whisper": ("speech-to-text", "audio-classification"),
    "xlm-prophetnet": ("text2text-generation",),
    "yolos": ("object-detection",),
    "beit": ("image-classification",),
    "speecht5": ("speech-to-text", "tensors"),
    "vision-encoder-decoder": ("image-to-text",),
    "blip-2": ("image-to-text",),
    "blip": ("image-to-text", "zero-shot-image-classification"),
}
_BARE: Mapping[str, str] = {
    "superglue": "SuperGlueForKeypointMatching",
    "superpoint": "SuperPointForKeypointDetection",
    "vitmatte": "VitMatteForImageMatting",
    "vitpose": "VitPoseForPoseEstimation",
    "vitpose_backbone": "VitPoseBackbone",
    "rt_detr_resnet": "RTDetrResNetBackbone",
    "rag": "RagModel",
    "realm": "RealmEmbedder",
    "nougat": "VisionEncoderDecoderModel",
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
    "qwen2_5_omni": "Qwen2_5OmniForConditionalGeneration",
    "qwen3_omni_moe": "Qwen3OmniMoeForConditionalGeneration",
    "granitevision": "LlavaNextForConditionalGeneration",
}
"""Types that transformers' own tables of models leave out."""


@dataclass(frozen=True)
class Head:
    """task: one of ours. class_name: the transformers class that the model is an instance of."""

    task: str
    class_name: str


@cache
def model_types() -> tuple[str, ...]:
    """Every type that the installed transformers knows, sorted."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return tuple(sorted(CONFIG_MAPPING_NAMES))


@cache
def heads(model_type: str) -> tuple[Head, ...]:
    """What the type is tried with, the best first, `TRIED` at most; raw tensors of some class last.

    Empty when transformers knows the type's configuration and no model of it.
    """
    known = {head.task: head for head in _all(model_type)}
    wanted = [task for task in (*_FIRST.get(model_type, ()), *known) if task in known]
    chosen = list(dict.fromkeys(wanted))
    if "tensors" in chosen:  # always tried, and in the last place unless it is asked for first
        first = chosen[: TRIED - 1] if chosen.index("tensors") >= TRIED else chosen[:TRIED]
        chosen = [*first, *(["tensors"] if "tensors" not in first else [])]
    return tuple(known[task] for task in chosen[:TRIED])


def _all(model_type: str) -> Iterator[Head]:
    for task in _ORDER:
        for auto_class in TASKS[task].auto_classes:
            if name := _class_name(_names(auto_class), model_type):
                yield Head(task, name)
                break
    bare = _BARE.get(model_type) or next(
        (
            name
            for table in ("AutoModelForImageTextToText", "AutoModelForPreTraining", "AutoModel", "AutoBackbone")
            if (name := _class_name(_names(table), model_type))
        ),
        None,
    )
    base = _class_name(_names("AutoModel"), model_type)
    if base is not None and model_type in _image_types():
        yield Head("image-feature-extraction", base)
    elif base is not None and model_type in _text_types():
        yield Head("feature-extraction", base)
    if (raw := _BARE.get(model_type) or base or bare) is not None:
        yield Head("tensors", raw)


@cache
def _names(auto_class: str) -> Mapping[str, Any]:
    """Model type -> class name or names, of one of transformers' auto classes."""
    from transformers.models.auto import modeling_auto

    mapping: Any = getattr(modeling_auto, auto_class)._model_mapping
    names: Mapping[str, Any] = mapping._model_mapping
    return names


def _class_name(names: Mapping[str, Any], model_type: str) -> str | None:
    found = names.get(model_type)
    return found if found is None or isinstance(found, str) else str(found[0])


@cache
def _image_types() -> frozenset[str]:
    from transformers.models.auto import modeling_auto

    return frozenset((*modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES, "clip_vision_model", "chinese_clip_vision_model"))


@cache
def _text_types() -> frozenset[str]:
    from transformers.models.auto import modeling_auto

    tables = ("TEXT_ENCODING", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "QUESTION_ANSWERING", "MASKED_LM")
    return frozenset(name for table in tables for name in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES"))
