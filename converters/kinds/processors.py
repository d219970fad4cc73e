"""How transformers makes tensors of images and sounds: a model's processor, read from its folder and written into its entry.

In: a staged model. Out: the processor of transformers, and `preprocessor_config.json` in the entry. This module must never run a
processor that is not one of transformers' own.

The file that is written names the slow class (numpy and Pillow): the fast ones need torchvision, which the backend does not have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from converters.errors import ConversionFailed, ModelRefused
from converters.source import Source

FILE = "preprocessor_config.json"
PROCESSOR = f"1/{FILE}"
"""Where an entry keeps it: the value of `Entry.details["processor"]`."""

_SAME_WITHOUT_TORCH = {"DeformableDetrImageProcessor": "DetrImageProcessor"}
"""The first asks for PyTorch, which the backend has not; what it makes of an image is the same (transformers 4.57)."""
_NEED_TORCH = frozenset(
    {
        *("DepthProImageProcessor", "EfficientLoFTRImageProcessor", "EomtImageProcessor", "LightGlueImageProcessor"),
        *("SuperGlueImageProcessor", "TimmWrapperImageProcessor", "ZoeDepthImageProcessor"),
    }
)
"""These compute with PyTorch or torchvision, so the backend cannot run them (transformers 4.57)."""


def load_image_processor(source: Source) -> Any:
    """The staged model's image processor, the slow one. Raises ModelRefused when there is none that runs without torchvision."""
    document = _document(source)
    stated = document.get("image_processor_type") or str(document.get("feature_extractor_type") or "")
    name = str(stated).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    slow = {names[0] for names in IMAGE_PROCESSOR_MAPPING_NAMES.values() if names[0] is not None}
    if not stated and (names := IMAGE_PROCESSOR_MAPPING_NAMES.get(source.model_type)):
        name = names[0] or f"{names[1]}, which needs torchvision"
    name = _SAME_WITHOUT_TORCH.get(name, name)
    if name in _NEED_TORCH:
        raise ModelRefused(f"{FILE}: expected an image processor that runs on numpy, found {name}, which computes with PyTorch")
    if name not in slow:
        raise ModelRefused(f"{FILE}: expected an image processor of transformers that needs no torchvision, found {name!r}")
    return _made(name, document)


def load_feature_extractor(source: Source) -> Any:
    """The staged model's feature extractor for sounds. Raises ModelRefused when transformers has no such class."""
    document = _document(source)
    known = {str(name) for name in FEATURE_EXTRACTOR_MAPPING_NAMES.values()}
    name = str(document.get("feature_extractor_type") or FEATURE_EXTRACTOR_MAPPING_NAMES.get(source.model_type))
    if name not in known:
        raise ModelRefused(f"{FILE}: expected a feature extractor of transformers, found {name!r}")
    return _made(name, document)


def write_processor(processor: Any, folder: Path) -> None:
    """Write the processor into the entry's `folder`, and check that what is read back is the same. Again: replaces the file."""
    path = folder / PROCESSOR
    path.write_text(processor.to_json_string(), encoding="utf-8")
    again = type(processor).from_dict(json.loads(path.read_text(encoding="utf-8")))
    if again.to_json_string() != processor.to_json_string():
        raise ConversionFailed(f"{FILE}: expected the processor that was written, found another: {type(processor).__name__}")


def _document(source: Source) -> dict[str, Any]:
    document = source.document(FILE)
    if not document:
        raise ModelRefused(f"{source.identifier}: expected a {FILE}, found none: the model cannot say what it does with a file")
    return dict(document)


def _made(name: str, document: dict[str, Any]) -> Any:
    try:
        return getattr(transformers, name).from_dict(document)
    # The library raises whatever a stranger's file provokes.
    except Exception as error:
        raise ModelRefused(f"{FILE}: expected what {name} can read, found {type(error).__name__}: {error}") from error
