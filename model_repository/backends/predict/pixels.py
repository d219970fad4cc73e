"""Images as a graph's inputs.

In: images of Pillow. Out: batches of what the graph is fed, made by the entry's own processor. This module must never pad an image
to the size of its neighbours: each is processed alone, and only those of one size go through the graph together.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.images import MAX_VALUES
from opening.processor import open_image_processor
from opening.refusal import Refused

if TYPE_CHECKING:
    from PIL.Image import Image

Feeds = dict[str, np.ndarray]

_BATCH_VALUES = 1 << 23
"""Numbers fed in one forward pass: bounds its memory, whatever a call asks for."""
_DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
}


class Pixels:
    """An entry's image processor together with what its graph takes. others: inputs of the graph that are not made of images."""

    def __init__(self, entry: OpenEntry, others: AbstractSet[str] = frozenset()) -> None:
        self._processor = open_image_processor(entry.folder, str(entry.detail("processor")))
        listed = {str(tensor["name"]): str(tensor["dtype"]) for tensor in entry.detail("graph_inputs")}
        self._dtypes = {name: dtype for name, dtype in listed.items() if name not in others}
        entry.graph_input_names(frozenset(listed))
        if unknown := set(self._dtypes.values()) - set(_DTYPES):
            raise EntryUnusable(f"entry.json: dtypes of graph_inputs must be among {sorted(_DTYPES)}, found {sorted(unknown)}")
        known = inspect.signature(self._processor.preprocess).parameters
        # An image of 1 or 3 rows looks like one with its channels first; Pillow's never are.
        self._options = {"input_data_format": "channels_last"} if "input_data_format" in known else {}

    def batches(self, images: Sequence[Image]) -> Iterator[tuple[list[int], Feeds]]:
        """Images that come out alike together: their indices, and the graph's inputs, first axis = images.

        Those that wait for another of their size hold two batches' numbers at most.
        """
        waiting: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        fed: dict[int, Feeds] = {}
        for index, image in enumerate(images):
            feeds = self._processed(image, index)
            alike = tuple(value.shape for value in feeds.values())
            fed[index] = feeds
            waiting.setdefault(alike, []).append(index)
            if sum(value.size for value in feeds.values()) * (len(waiting[alike]) + 1) > _BATCH_VALUES:
                yield self._joined(waiting.pop(alike), fed)
            while sum(value.size for feeds in fed.values() for value in feeds.values()) > _BATCH_VALUES:
                yield self._joined(waiting.pop(next(iter(waiting))), fed)
        for indices in waiting.values():
            yield self._joined(indices, fed)

    def _joined(self, indices: list[int], fed: dict[int, Feeds]) -> tuple[list[int], Feeds]:
        rows = [fed.pop(index) for index in indices]
        return indices, {name: np.concatenate([row[name] for row in rows]) for name in self._dtypes}

    def _processed(self, image: Image, index: int) -> Feeds:
        try:
            made = self._processor(images=[np.asarray(image)], return_tensors="np", **self._options)
        except MemoryError:
            raise
        # transformers' processors raise many kinds for an image that is too small or too long for them.
        except Exception as error:
            size = f"{image.width} x {image.height} in item {index}"
            raise Refused("image", "an image of a size that the model's processor takes", size) from error
        if missing := sorted(set(self._dtypes) - set(made)):
            raise EntryUnusable(f"the processor gives {sorted(made)}, the graph also needs {missing}")
        feeds = {name: np.asarray(made[name]).astype(_DTYPES[dtype], copy=False) for name, dtype in self._dtypes.items()}
        if sum(value.size for value in feeds.values()) > MAX_VALUES:
            raise Refused("image", f"an image of at most {MAX_VALUES} numbers", f"{image.width} x {image.height} in item {index}")
        return feeds
