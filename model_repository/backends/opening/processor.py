"""An entry's processor: what transformers makes of an image or a sound before the graph sees it.

In: the entry's `preprocessor_config.json`. Out: an image processor or a feature extractor of transformers. This module must never
import transformers before an entry asks for it, go online, or open a class that is not a processor.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from opening.entry import EntryUnusable, inside

_MAX_BYTES = 16 << 20


def open_image_processor(folder: Path, name: str) -> Any:
    """The image processor (numpy and Pillow) in the file `name` of the entry. Raises EntryUnusable for anything else."""
    document = _document(folder, name)
    _stay_offline()
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    known = {str(names[0]) for names in IMAGE_PROCESSOR_MAPPING_NAMES.values() if names[0] is not None}
    return _opened(document, "image_processor_type", known, name)


def open_feature_extractor(folder: Path, name: str) -> Any:
    """The feature extractor (sounds) in the file `name` of the entry. Raises EntryUnusable for anything else."""
    document = _document(folder, name)
    _stay_offline()
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

    return _opened(document, "feature_extractor_type", set(map(str, FEATURE_EXTRACTOR_MAPPING_NAMES.values())), name)


def _opened(document: dict[str, Any], key: str, known: set[str], name: str) -> Any:
    import transformers

    stated = document.get(key)
    if not isinstance(stated, str) or stated not in known:
        raise EntryUnusable(f"{name}: {key} must be a processor of transformers, found {stated!r}")
    try:
        return getattr(transformers, stated).from_dict(document)
    except Exception as error:  # the library raises whatever a file provokes
        raise EntryUnusable(f"{name}: expected what {stated} can read, found {type(error).__name__}: {error}") from error


def _document(folder: Path, name: str) -> dict[str, Any]:
    path = inside(folder, name)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EntryUnusable(f"{name}: expected at most {_MAX_BYTES} bytes, found {path.stat().st_size}")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EntryUnusable(f"{name}: expected a readable JSON file, found {error}") from error
    if not isinstance(document, dict) or document.get("auto_map"):
        raise EntryUnusable(f"{name}: expected a JSON object that names no code, found {type(document).__name__}")
    return document


def _stay_offline() -> None:
    """Set before the first import: transformers reads them once."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"})
