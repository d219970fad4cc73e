"""Images as they arrive in BYTES tensors, opened safely.

In: bytes from outside. Out: RGB images of Pillow, upright. This module must never decode an image before its size is known, write a
file, or show what is in an image. Pillow is imported when the first image comes: most entries never see one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opening.files import read_files
from opening.refusal import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 64
"""Images in one call."""
MAX_PIXELS = 50_000_000
"""Of one image: the largest that common cameras make. Decoded, that is 150 MB."""
MAX_CALL_PIXELS = 200_000_000
"""Of one call's images together."""
MAX_VALUES = 1 << 23
"""Numbers that a graph is fed of one image. A processor that keeps an image's own size would otherwise
let the attention over a photo take all memory there is."""
MAX_STRETCH = 40
"""Longer side to shorter side. A processor that brings the shorter side to 800 pixels would make a wall of a thread."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Of what Pillow reads, the formats that buyers send; each further one is code that strangers can reach."""


def read_images(raws: Sequence[bytes], field: str = "image", *, most: int = MAX_IMAGES) -> list[Image]:
    """Every item, as transformers' pipelines open it: turned as its EXIF orientation says, then RGB; of a film the first picture.

    Raises Refused for none or more than `most` items, another format, a broken file, or more pixels than are decoded here.
    """
    files = read_files(raws, field, most=most)
    opened = [_opened(file, field, f" in item {index}") for index, file in enumerate(files)]
    if (pixels := sum(image.width * image.height for image in opened)) > MAX_CALL_PIXELS:
        raise Refused(field, f"at most {MAX_CALL_PIXELS} pixels in one call", f"{pixels} pixels")
    return [_decoded(image, field, f" in item {index}") for index, image in enumerate(opened)]


def _opened(file: bytes, field: str, where: str) -> Any:
    """The image with only its header read."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(file), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Refused(field, f"at most {MAX_PIXELS} pixels", f"far more{where}") from None
    # A broken header gives any of OSError, ValueError, SyntaxError, struct.error and others; none of them is ours to act on.
    except Exception:
        raise Refused(field, f"an image file: {', '.join(FORMATS)}", f"{len(file)} bytes of something else{where}") from None
    width, height = image.size
    if not 1 <= width * height <= MAX_PIXELS:
        raise Refused(field, f"1 to {MAX_PIXELS} pixels", f"{width} x {height}{where}")
    if max(width, height) > MAX_STRETCH * min(width, height):
        raise Refused(field, f"a longer side of at most {MAX_STRETCH} times the shorter", f"{width} x {height}{where}")
    return image


def _decoded(image: Any, field: str, where: str) -> Image:
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    # As above: what a broken body or a broken EXIF block gives.
    except Exception:
        raise Refused(field, "a whole image file", f"one that ends early or is damaged{where}") from None
