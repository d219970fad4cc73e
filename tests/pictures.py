"""Images that tests send, and their files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Image.Image:
    """Colours of chance, another one at each place."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """kind, options: as Pillow's `save` takes them."""
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()
