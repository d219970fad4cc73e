"""What a graph that looks is fed.

In: images of Pillow. Out: the graph's inputs, one image at a time, as the entry's own processor makes them. This module must never
cut an image, and never know what is seen in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

from opening.entry import OpenEntry
from opening.feeds import Feeds, Inputs
from opening.images import MAX_VALUES
from opening.processor import open_image_processor
from opening.refusal import Refused

if TYPE_CHECKING:
    from PIL.Image import Image


class Looker:
    """An entry's image processor together with what the graph takes of it."""

    def __init__(self, entry: OpenEntry, inputs: str = "graph_inputs", others: AbstractSet[str] = frozenset()) -> None:
        """inputs: the detail that lists the graph's inputs; others: those of them that are not made of images."""
        self._inputs = Inputs(entry.detail(inputs), others)
        self._processor = open_image_processor(entry.folder, str(entry.detail("processor")))
        known = inspect.signature(self._processor.preprocess).parameters
        # An image of 1 or 3 rows looks like one with its channels first; Pillow's never are.
        self._options = {"input_data_format": "channels_last"} if "input_data_format" in known else {}

    def look(self, image: Image, where: str = "") -> Feeds:
        """The graph's inputs with a batch axis of 1. where: which item, for the message.

        Raises Refused for an image that the processor cannot take, or that makes more numbers than a graph is fed.
        """
        size = f"{image.width} x {image.height}{where}"
        try:
            made = self._processor(images=[np.asarray(image)], return_tensors="np", **self._options)
        except MemoryError:
            raise
        # transformers' processors raise many kinds for an image that is too small or too long for them.
        except Exception as error:
            raise Refused("image", "an image of a size that the model's processor takes", size) from error
        feeds = self._inputs.of(made)
        if sum(value.size for value in feeds.values()) > MAX_VALUES:
            raise Refused("image", f"an image of at most {MAX_VALUES} numbers", size)
        return feeds
