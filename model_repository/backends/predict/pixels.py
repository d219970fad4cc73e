"""Images as a graph's inputs.

In: images of Pillow. Out: batches of what the graph is fed, made by the entry's own processor. This module must never pad an image
to the size of its neighbours: each is processed alone, and only those of one size go through the graph together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

from opening.entry import OpenEntry
from opening.feeds import Feeds
from opening.looking import Looker

if TYPE_CHECKING:
    from PIL.Image import Image

_BATCH_VALUES = 1 << 23
"""Numbers fed in one forward pass: bounds its memory, whatever a call asks for."""


class Pixels:
    """An entry's image processor together with what its graph takes. others: inputs of the graph that are not made of images."""

    def __init__(self, entry: OpenEntry, others: AbstractSet[str] = frozenset()) -> None:
        entry.graph_input_names(frozenset(str(tensor["name"]) for tensor in entry.detail("graph_inputs")))
        self._looker = Looker(entry, others=others)

    def batches(self, images: Sequence[Image]) -> Iterator[tuple[list[int], Feeds]]:
        """Images that come out alike together: their indices, and the graph's inputs, first axis = images.

        Those that wait for another of their size hold two batches' numbers at most.
        """
        waiting: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        fed: dict[int, Feeds] = {}
        for index, image in enumerate(images):
            feeds = self._looker.look(image, f" in item {index}")
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
        if len(rows) == 1:  # nothing is copied for an image that is alone
            return indices, rows[0]
        return indices, {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
