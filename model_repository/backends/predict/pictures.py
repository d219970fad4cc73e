"""Masks and maps as pictures inside a JSON answer.

In: arrays. Out: base64 of a PNG file. This module must never write a file.
"""

from __future__ import annotations

import base64
import io

import numpy as np


def png_of(grey: np.ndarray) -> str:
    """grey: uint8 [rows, columns], 0 is black. Base64 without line breaks, as the Hugging Face inference API has masks."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def mask_of(is_inside: np.ndarray) -> str:
    """White where `is_inside`, black elsewhere."""
    return png_of(is_inside.astype(np.uint8) * np.uint8(255))
