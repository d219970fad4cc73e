"""How a tiny model's images and sounds are made into tensors: the type's own processor, at the tiny model's size.

In: a configuration. Out: `preprocessor_config.json`. This module must never write a processor that the type does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from converters.coverage.shrinking import IMAGE, POSITIONS


def text_length(config: Any) -> int:
    """How many tokens the tokenizer says that the model takes. RoBERTa and its relatives count positions from the padding's id."""
    for part in (config, *_parts(config)):
        for name in ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len"):
            if isinstance(length := getattr(part, name, None), int) and length > 0:
                return max(16, min(length, POSITIONS) - 2)
    return POSITIONS - 2


def write_processor(folder: Path, model_type: str, config: Any) -> str | None:
    """Write the file when the type has an image processor or a feature extractor; returns its class.

    Classes that exist only for torchvision are left out: they are not shipped.
    """
    owner = _SHARED.get(model_type, model_type)
    for candidate in (owner, str(config.model_type), *(str(part.model_type) for part in _parts(config))):
        processor = _image_processor(candidate, config) or _sound_extractor(candidate)
        if processor is not None:
            processor.save_pretrained(folder)
            return type(processor).__name__
    return None


def _parts(config: Any) -> Iterator[Any]:
    for value in vars(config).values():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield value
            yield from _parts(value)


def _image_processor(model_type: str, config: Any) -> Any:
    import transformers
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    if names is None:
        return None
    name = names[0] if isinstance(names, (tuple, list)) else names
    if name is None:
        raise ImportError(f"the image processor of {model_type} requires the torchvision library")
    processor_class = getattr(transformers, name, None)
    if processor_class is None:
        return None
    default = processor_class().to_dict()
    side = _image_side(config)
    changed: dict[str, Any] = {
        key: _resized(value, side) for key, value in default.items() if key in _SIZES and isinstance(value, dict)
    }
    if isinstance(default.get("patch_size"), int) and (patch := _fact(config, "patch_size")) is not None:
        changed["patch_size"] = patch
    if "image_grid_pinpoints" in default and (grid := _fact(config, "image_grid_pinpoints")) is not None:
        changed["image_grid_pinpoints"] = grid
    return processor_class(**{**changed, **_PROCESSORS.get(model_type, {})})


def _fact(config: Any, name: str) -> Any:
    found = (getattr(part, name, None) for part in (config, *_parts(config)))
    return next((value for value in found if value is not None), None)


def _image_side(config: Any) -> tuple[int, int]:
    """Height and width in pixels."""
    size = _fact(config, "image_size")
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    return (size, size) if isinstance(size, int) else (IMAGE, IMAGE)


def _resized(size: dict[str, int], side: tuple[int, int]) -> dict[str, int]:
    """A size of the same keys. Where both edges are named, the longest is a limit for pictures that are not square."""
    height, width = side
    small = {"height": height, "width": width, "shortest_edge": min(side), "longest_edge": max(side)}
    if "shortest_edge" in size and size.get("longest_edge") is not None:
        small["longest_edge"] *= 2
    return {key: small[key] for key in size if key in small and size[key] is not None}


def _sound_extractor(model_type: str) -> Any:
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    name = FEATURE_EXTRACTOR_MAPPING_NAMES.get(model_type)
    if name is None:
        return None
    extractor_class = getattr(transformers, name, None)
    if extractor_class is None or not issubclass(extractor_class, transformers.SequenceFeatureExtractor):
        return None
    return extractor_class(**_PROCESSORS.get(model_type, {}))


_SIZES = ("size", "crop_size", "pad_size", "high_res_size")
_SHARED = {
    "altclip": "clip",
    "chinese_clip_vision_model": "chinese_clip",
    "clip_vision_model": "clip",
    "d_fine": "rt_detr",
    "dinov3_convnext": "dinov3_vit",
    "dab-detr": "conditional_detr",
    "dinov2_with_registers": "dinov2",
    "hgnet_v2": "rt_detr",
    "rt_detr_v2": "rt_detr",
    "siglip_vision_model": "siglip",
    "wav2vec2-bert": "seamless_m4t",
    **dict.fromkeys(("colqwen2", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), "qwen2_vl"),
}
"""Types whose published models name another type's processor, where transformers' own table has none."""

_PROCESSORS: dict[str, dict[str, Any]] = {
    "chinese_clip": {"size": {"height": IMAGE, "width": IMAGE}},
    "clap": {"truncation": "rand_trunc"},
    "mllama": {"max_image_tiles": 2},
    # sizes in pixels of the whole picture
    "qwen2_vl": {"size": {"shortest_edge": 4096, "longest_edge": 16384}},
    "univnet": {"num_mel_bins": 20, "model_in_channels": 8},
    # two seconds of sound instead of thirty
    "whisper": {"chunk_length": 2},
}
