"""Images to compare an image model with, at sizes and batches it was not traced with, and what PyTorch makes of them.

In: seeds and a model. Out: images, feeds and PyTorch's outputs. This module must never look at what ONNX gives.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch

from converters.errors import ModelRefused, ParityFailed

SIZES = ((72, 64), (96, 131), (160, 90))
"""Width and height of what is sent: upright, across, and longer than any trace. Processors bring them to what the model takes."""
_BLOCK = 8


def picture(width: int, height: int, seed: int) -> Any:
    """An image of Pillow: a slanted gradient under coarse noise, so that neither its PNG nor its content is empty."""
    from PIL import Image

    chances = numpy.random.default_rng(seed)
    rows, columns = numpy.mgrid[0:height, 0:width]
    noise = chances.integers(0, 96, size=(height // _BLOCK + 1, width // _BLOCK + 1, 3))
    coarse = noise.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)[:height, :width]
    slopes = chances.uniform(-1.0, 1.0, size=(3, 2))
    waves = [numpy.sin(slope[0] * rows / 9 + slope[1] * columns / 7) for slope in slopes]
    values = 80 + 70 * numpy.stack(waves, axis=-1) + coarse
    return Image.fromarray(values.clip(0, 255).astype(numpy.uint8))


def png(image: Any) -> bytes:
    """Not JPEG: decoders differ in their last bit there."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def processed(processor: Any, images: Sequence[Any]) -> dict[str, Any]:
    """What the processor makes of images of one size: arrays by name, first axis = images. Each image is processed alone.

    Raises ModelRefused when the processor cannot: it is the publisher's configuration that does not fit.
    """
    try:
        made = [dict(processor(images=[image], return_tensors="np")) for image in images]
    # A size that it does not know shows as a KeyError, one that is too small as whatever numpy and Pillow raise.
    except Exception as error:
        name, sizes = type(processor).__name__, sorted({image.size for image in images})
        raise ModelRefused(
            f"preprocessor_config.json: expected {name} to take an image of {sizes}, found {type(error).__name__}: {error}"
        ) from error
    return {name: numpy.concatenate([numpy.asarray(each[name]) for each in made]) for name in made[0]}


def like(feeds: Mapping[str, Any], batch: int, chances: numpy.random.Generator) -> dict[str, Any]:
    """Random pixels of the shape the processor gives, everything else repeated: it is the processor that knows masks."""
    made: dict[str, Any] = {}
    for name, value in feeds.items():
        one = numpy.repeat(value[:1], batch, axis=0)
        made[name] = chances.standard_normal(one.shape).astype(numpy.float32) if one.dtype.kind == "f" else one
    return made


def reference(model: Any, feeds: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """PyTorch's outputs by name, given of `feeds` what the graph is given (`names`)."""
    given = {name: torch.from_numpy(numpy.ascontiguousarray(feeds[name])) for name in names}
    given = {name: value.float() if value.is_floating_point() else value for name, value in given.items()}
    try:
        with torch.inference_mode():
            outputs = model(**given, return_dict=True)
    except (IndexError, RuntimeError, ValueError) as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in given.items())
        raise ParityFailed(f"PyTorch cannot run the model with {shapes}: {error}") from error
    return {name: value.numpy() for name, value in outputs.items() if isinstance(value, torch.Tensor)}


def size_of(feeds: Mapping[str, Any]) -> tuple[int, ...]:
    """Batch, rows and columns, for `Worst.compare`."""
    shape = next(iter(feeds.values())).shape
    return (shape[0], *shape[-2:]) if len(shape) > 2 else tuple(shape)
