"""Tasks that say something of each place of an image: how deep it lies, or what stands there.

In: image files. Out: maps of numbers, first axis = images, and pictures of the image's own size. This module must never know of
Triton.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from opening.entry import EntryUnusable, OpenEntry
from opening.images import read_images
from opening.refusal import Refused
from predict.parameters import Parameters
from predict.pictures import mask_of, png_of
from predict.pixels import Pixels
from predict.resize import resized
from predict.scores import sigmoid, softmax
from predict.segments import best_labels, segments
from predict.task import RESULT, Arrays, Task, items_of, results_of

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_STRIDE = 1 << 16
MAX_PLACES = 1 << 31
"""Pixels of a call's images times the maps that are brought to their size: some 40 ns each, while nobody else is answered."""


class DepthEstimation:
    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._pixels = entry, Pixels(entry)
        self._output = entry.detail("output")

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        Parameters(tensors, ())
        step = _stride(tensors)
        images = read_images(items_of(tensors, "image"))
        depths: list[np.ndarray] = [np.empty(0)] * len(images)
        for indices, feeds in self._pixels.batches(images):
            (given,) = self._entry.session.run([self._output], feeds)
            for row, index in enumerate(indices):
                depths[index] = given[row]
        answer: Arrays = {}
        if "depth" in wanted:
            answer["depth"] = _stacked("depth", depths, step)
        if RESULT in wanted:
            answer[RESULT] = results_of(
                {
                    "predicted_depth": depth.tolist(),
                    "depth": png_of(_grey(resized(depth, image.height, image.width, "bicubic"))),
                }
                for depth, image in zip(depths, images, strict=True)
            )
        return answer


def _grey(depth: np.ndarray) -> np.ndarray:
    """The nearest number 0, the farthest 255; all black where they are the same."""
    reach = float(depth.max() - depth.min())
    shares = (depth - depth.min()) / reach if reach > 0 else np.zeros_like(depth)
    return (shares * 255).astype(np.uint8)


class ImageSegmentation:
    """`semantic`: the graph gives each label's score at each place. `queries`: it gives masks, and what each of them shows.

    Source of the second: MaskFormer (Cheng et al., 2021).
    """

    def __init__(self, entry: OpenEntry) -> None:
        self._entry, self._pixels = entry, Pixels(entry)
        self._form, self._labels = entry.detail("form"), entry.detail("labels")
        self._outputs = [entry.detail("output")]
        if self._form not in ("semantic", "queries"):
            raise EntryUnusable(f"entry.json: form must be semantic or queries, found {self._form!r}")
        if self._form == "queries":
            self._outputs.append(entry.detail("masks_output"))

    def answer(self, tensors: Mapping[str, np.ndarray], wanted: AbstractSet[str], until: float = math.inf) -> Arrays:
        parameters = Parameters(tensors, ("mask_threshold", "overlap_mask_area_threshold", "subtask", "threshold"))
        subtasks = ("semantic",) if self._form == "semantic" else ("panoptic", "semantic")
        subtask = parameters.choice("subtask", subtasks[0], subtasks)
        # The defaults of transformers' image-segmentation pipeline.
        threshold = parameters.number("threshold", 0.9, 0.0, 1.0)
        mask_threshold = parameters.number("mask_threshold", 0.5, 0.0, 1.0)
        overlap = parameters.number("overlap_mask_area_threshold", 0.5, 0.0, 1.0)
        step = _stride(tensors)
        images = read_images(items_of(tensors, "image"))
        given: list[list[np.ndarray]] = [[]] * len(images)
        for indices, feeds in self._pixels.batches(images):
            outputs = self._entry.session.run(self._outputs, feeds)
            for row, index in enumerate(indices):
                given[index] = [output[row] for output in outputs]
        answer: Arrays = {}
        if "scores" in wanted:
            answer["scores"] = _stacked("scores", [self._scores(item) for item in given], step)
        if RESULT in wanted:
            _check_places([max(len(self._labels), len(item[-1])) for item in given], images)
            found = []
            for item, image in zip(given, images, strict=True):
                size = (image.height, image.width)
                if subtask == "semantic":
                    found.append(self._regions(self._scores(item), size))
                else:
                    chances, masks = softmax(item[0]), sigmoid(item[1])
                    parts = segments(chances, masks, size, threshold, mask_threshold, overlap)
                    found.append([self._part(label, score, mask) for label, score, mask in parts])
            answer[RESULT] = results_of(found)
        return answer

    def _scores(self, item: Sequence[np.ndarray]) -> np.ndarray:
        """Of each label at each place: float32 [labels, rows, columns]."""
        if self._form == "semantic":
            return item[0]
        return np.einsum("ql,qrc->lrc", softmax(item[0])[:, :-1], sigmoid(item[1]), optimize=True)

    def _regions(self, scores: np.ndarray, size: tuple[int, int]) -> list[dict[str, Any]]:
        places = best_labels(scores, size)
        return [self._part(int(label), None, places == label) for label in np.unique(places)]

    def _part(self, label: int, score: float | None, is_inside: np.ndarray) -> dict[str, Any]:
        return {"label": self._labels[label], "score": score, "mask": mask_of(is_inside)}


def _check_places(maps: Sequence[int], images: Sequence[Image]) -> None:
    """maps: of each image, how many will be brought to its size. Raises Refused for more work than one call may ask for."""
    places = sum(count * image.width * image.height for count, image in zip(maps, images, strict=True))
    if places > MAX_PLACES:
        pixels = sum(image.width * image.height for image in images)
        raise Refused("image", f"at most {MAX_PLACES // max(maps)} pixels in one call of this model", f"{pixels} pixels")


def _stride(tensors: Mapping[str, np.ndarray]) -> int:
    if "stride" not in tensors:
        return 1
    values = tensors["stride"].reshape(-1)
    if len(values) != 1 or not 1 <= int(values[0]) <= MAX_STRIDE:
        raise Refused("stride", f"one whole number from 1 to {MAX_STRIDE}", values[:4].tolist())
    return int(values[0])


def _stacked(name: str, maps: Sequence[np.ndarray], step: int) -> np.ndarray:
    """Every `step`-th row and column of each map, the first among them."""
    shapes = sorted({each.shape for each in maps})
    if len(shapes) > 1:
        raise Refused("image", f"images whose maps are of one size, or one image a call, where {name} is asked for", shapes[:2])
    return np.ascontiguousarray(np.stack([each[..., ::step, ::step] for each in maps]).astype(np.float32))


TASKS: Mapping[str, Callable[[OpenEntry], Task]] = MappingProxyType(
    {"depth-estimation": DepthEstimation, "image-segmentation": ImageSegmentation}
)
