"""Where in an image each label stands.

In: scores at the graph's places. Out: labels and masks at the image's pixels. This module must never hold all labels' scores at the
image's size: 150 labels of a 12-megapixel image are 7 GB.
"""

from __future__ import annotations

import numpy as np

from predict.resize import along, resized

_STRIP_VALUES = 1 << 24


def best_labels(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The label of each pixel. scores: float32 [labels, rows, columns]; size: the image's rows and columns. int [rows, columns]."""
    rows, columns = size
    wide = along(scores, columns, -1, "bilinear")
    strip = max(1, _STRIP_VALUES // (len(scores) * columns))
    strips = (along(wide, rows, -2, "bilinear", begin, begin + strip).argmax(axis=0) for begin in range(0, rows, strip))
    return np.concatenate(list(strips))


def segments(
    chances: np.ndarray, masks: np.ndarray, size: tuple[int, int], threshold: float, mask_threshold: float, overlap: float
) -> list[tuple[int, float, np.ndarray]]:
    """The parts of a picture: label, probability, and where, none over another.

    chances: float32 [queries, labels + 1], the last is "nothing"; masks: float32 [queries, rows, columns], probabilities. A query
    counts when its label is surer than `threshold`, and stays when more than `overlap` of its own mask is left to it.
    Source: MaskFormer (Cheng et al., 2021), appendix "Inference", as transformers has it.
    """
    labels, scores = chances.argmax(axis=1), chances.max(axis=1)
    kept = np.flatnonzero((labels < chances.shape[1] - 1) & (scores > threshold))
    best: np.ndarray = np.full(size, -np.inf, np.float32)
    owner: np.ndarray = np.full(size, -1, np.int64)
    whole: list[int] = []
    for place, query in enumerate(kept):
        weighted = resized(masks[query], *size) * scores[query]
        whole.append(int((weighted >= mask_threshold).sum()))
        is_better = weighted > best
        best[is_better], owner[is_better] = weighted[is_better], place
    found: list[tuple[int, float, np.ndarray]] = []
    for place, query in enumerate(kept):
        is_inside = owner == place
        area = int(is_inside.sum())
        if area > 0 and whole[place] > 0 and area / whole[place] > overlap:
            found.append((int(labels[query]), float(scores[query]), is_inside))
    return found
