"""Object detection: what is where in an image.

In: image files. Out: probabilities and boxes of each query. This module must never know of Triton, or drop a box that overlaps
another: the models it serves answer each thing once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.images import read_images
from predict.parameters import Parameters
from predict.pixels import Pixels
from predict.scores import sigmoid, softmax
from predict.task import RESULT, Arrays, Task, items_of, results_of

DEFAULT_THRESHOLD = 0.5
"""Of transformers' object-detection pipeline."""


class ObjectDetection:
    """After DETR (Carion et al., 2020, softmax: one label a query, or none) and Deformable DETR (Zhu et al., 2020, sigmoid: each
    label by itself)."""

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._pixels = entry, Pixels(entry)
        self._outputs = [entry.detail("output"), entry.detail("boxes_output")]
        self._labels, self._activation, self._most = (entry.detail(key) for key in ("labels", "activation", "most"))
        if self._activation not in ("softmax", "sigmoid"):
            raise EntryUnusable(f"entry.json: activation must be softmax or sigmoid, found {self._activation!r}")

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        threshold = Parameters(tensors, ("threshold",)).number("threshold", DEFAULT_THRESHOLD, 0.0, 1.0)
        images = read_images(items_of(tensors, "image"))
        scores: list[np.ndarray] = [np.empty(0)] * len(images)
        boxes: list[np.ndarray] = [np.empty(0)] * len(images)
        for indices, feeds in self._pixels.batches(images):
            logits, places = self._entry.session.run(self._outputs, feeds)
            chances = softmax(logits)[..., :-1] if self._activation == "softmax" else sigmoid(logits)
            for row, index in enumerate(indices):
                scores[index], boxes[index] = chances[row], corners(places[row])
        answer: Arrays = {"scores": np.stack(scores).astype(np.float32), "boxes": np.stack(boxes).astype(np.float32)}
        if RESULT in wanted:
            answer[RESULT] = results_of(
                self._things(chances, places, image.width, image.height, threshold)
                for chances, places, image in zip(answer["scores"], answer["boxes"], images, strict=True)
            )
        return answer

    def _things(self, scores: np.ndarray, boxes: np.ndarray, width: int, height: int, threshold: float) -> list[dict[str, Any]]:
        """What reaches the threshold, the surest first, its box in whole pixels."""
        if self._activation == "softmax":
            queries: np.ndarray = np.arange(len(scores))
            labels = scores.argmax(axis=1)
        else:
            queries, labels = np.divmod(np.arange(scores.size), scores.shape[1])
        chances = scores[queries, labels]
        order = np.argsort(-chances, kind="stable")[: int(self._most)]
        pixels = np.trunc(boxes * np.array([width, height, width, height], np.float32)).astype(int)
        return [
            {
                "label": self._labels[labels[place]],
                "score": float(chances[place]),
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), pixels[queries[place]].tolist(), strict=True)),
            }
            for place in order
            if chances[place] > threshold
        ]


def corners(boxes: np.ndarray) -> np.ndarray:
    """From centre, width and height to left, top, right and bottom; both as shares of the image: float32 [queries, 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType({"object-detection": ObjectDetection})
