"""What an attribute's name does not tell about making a configuration tiny, by the model type of the configuration.

In: nothing. Out: `OVERRIDES`, arguments over those of `shrinking`; `...` leaves an attribute to the class. Sub-configurations are
looked up by their own type. This module must never hold a value that only avoids a difference between PyTorch and ONNX.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.coverage.overrides import images, mixed, sounds, texts

UNTOUCHED = frozenset({"id2label", "label2id", "_name_or_path", "transformers_version"})

OVERRIDES: Mapping[str, Mapping[str, Any]] = {**texts.OVERRIDES, **images.OVERRIDES, **sounds.OVERRIDES, **mixed.OVERRIDES}
