"""What the simulated `predict` backend answers: made by hashing what was asked, in the shape of the Hugging Face inference API.

The shapes are those that the real backend gives (`model_repository/backends/predict`), read by the same stock client in
`tests/stories/test_model_families.py`.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

VOCABULARY = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
FILES = ("audio", "image")
WIDTH = 8
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "feature-extraction": ("normalize",),
    "text-classification": ("function_to_apply", "top_k"),
    "zero-shot-classification": ("hypothesis_template", "multi_label"),
    "token-classification": ("aggregation_strategy", "ignore_labels"),
    "fill-mask": ("targets", "top_k"),
    "question-answering": ("top_k",),
    "image-classification": ("function_to_apply", "top_k"),
    "object-detection": ("threshold",),
    "image-segmentation": ("threshold",),
    "audio-classification": ("function_to_apply", "top_k"),
    "zero-shot-image-classification": ("hypothesis_template",),
}


def answer(name: str, task: str, index: int, inputs: Mapping[str, Sequence[Any]], parameters: Mapping[str, Any]) -> Any:
    """The item `index` of a call; the same for the same question."""
    first = next(iter(inputs.values()))[index]
    raw = first if isinstance(first, bytes) else str(first).encode()
    places = hashlib.shake_256(name.encode() + b"|" + raw).digest(WIDTH)
    word = VOCABULARY[places[0] % len(VOCABULARY)]
    if task == "feature-extraction":
        return [place / 128 - 1 for place in places]  # float32 holds these exactly
    if task in ("zero-shot-classification", "zero-shot-image-classification"):
        labels = [str(label) for label in inputs["candidate_labels"]]
        scores = [1.0 / (2 << place) for place in range(len(labels))]
        if task == "zero-shot-classification":
            return {"sequence": first, "labels": labels, "scores": scores}
        return [{"label": label, "score": score} for label, score in zip(labels, scores, strict=True)]
    if task == "question-answering":
        context = str(inputs["context"][index])
        return {"answer": context[:3], "score": 0.5, "start": 0, "end": len(context[:3])}
    if task == "automatic-speech-recognition":
        return {"text": word}
    one: dict[str, Any] = {"score": 0.75, "label": word}
    shapes: Mapping[str, dict[str, Any]] = {
        "fill-mask": {"score": 0.75, "token": places[0], "token_str": word, "sequence": str(first).replace("[MASK]", word)},
        "token-classification": {"entity_group": word, "score": 0.75, "word": str(first)[:2], "start": 0, "end": 2},
        "object-detection": one | {"box": {"xmin": 0, "ymin": 1, "xmax": 2, "ymax": 3}},
        "image-segmentation": one | {"mask": base64.b64encode(_PIXEL).decode()},
    }
    return [shapes.get(task, one)] * int(parameters.get("top_k", 1))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


_PIXEL = (
    b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", (1).to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0)))
    + _chunk(b"IDAT", zlib.compress(b"\0\xff"))
    + _chunk(b"IEND", b"")
)
"""A PNG of one white pixel."""
