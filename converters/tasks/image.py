"""The tasks of the backend `predict` that look at images.

In: nothing. Out: `Task` rows and what each offers. This module must never import anything heavy.

Images arrive as files in a BYTES tensor (PNG, JPEG, WebP, GIF, BMP), one element each. Each is made a tensor by itself, and never
padded to the size of its neighbours in a call.

`Entry.details`, exactly these keys, all of them always present. Paths are relative to the entry's folder.

All of them:

    model                 str    the graph, always "1/model.onnx"
    processor             str    always "1/preprocessor_config.json": how transformers makes tensors of an image
    graph_inputs, graph_outputs  as in `tasks/generation.py`; the graph is fed what it lists of what the processor gives
    output                str    the graph output that the task begins with, FP32; its axes stand below

image-classification: output [batch, labels]; labels, activation as in text-classification.

object-detection: output [batch, queries, labels, and with softmax one for "nothing" at the end]

    boxes_output          str    FP32 [batch, queries, 4]: centre, width and height as shares of the image's width and height
    labels                [str]
    activation            str    "softmax": a query has its best label, or none; "sigmoid": it may have several
    most                  int    things in one image

image-segmentation: output [batch, labels, rows, columns], or where `form` is "queries" [batch, queries, labels and "nothing"]

    form                  str    "semantic" or "queries"
    masks_output          str|null  with queries: FP32 [batch, queries, rows, columns], before the sigmoid
    labels                [str]

depth-estimation: output [batch, rows, columns].

image-feature-extraction: output [batch, tokens, dimensions] or [batch, dimensions, rows, columns]

    pooled_output         str|null  what the model itself makes of it, [batch, dimensions] and axes of length 1
    dimensions            int    of `embedding`: the pooled output, else the mean over tokens, or over rows and columns

zero-shot-image-classification: output [images, texts]; the tokenizer's keys as in `tasks/text.py`, and

    activation            str    "softmax" over the texts (CLIP), or "sigmoid" (SigLIP)
    hypothesis_template   str    "This is a photo of {}."
    text_length           int    every text is padded to so many tokens; 0: to the longest of its call
"""

from __future__ import annotations

from typing import Any

from converters.tasks.task import PARAMETERS, RESULT, Task
from converters.tensors import Tensor

_IMAGE = Tensor("image", "BYTES", (-1,))
_STRIDE = Tensor("stride", "INT32", (1,), is_optional=True)
"""Of the numeric output every so many rows and columns, 1 when left out; whole maps are megabytes. `result` is always whole."""


def _task(
    name: str,
    auto_classes: tuple[str, ...],
    architectures: tuple[str, ...],
    *inputs: Tensor,
    export_task: str = "",
) -> Task:
    return Task(
        name=name,
        pipeline=name,
        kind="image",
        backend="predict",
        auto_classes=auto_classes,
        export_task=export_task or name,
        architectures=architectures,
        inputs=(*inputs, PARAMETERS),
    )


TASKS = (
    _task(
        "image-classification",
        ("AutoModelForImageClassification",),
        ("ForImageClassification", "ForImageClassificationWithTeacher"),
        _IMAGE,
    ),
    _task("object-detection", ("AutoModelForObjectDetection",), ("ForObjectDetection",), _IMAGE),
    _task(
        "image-segmentation",
        ("AutoModelForSemanticSegmentation", "AutoModelForUniversalSegmentation", "AutoModelForImageSegmentation"),
        ("ForSemanticSegmentation", "ForUniversalSegmentation", "ForSegmentation", "ForInstanceSegmentation"),
        _IMAGE,
        _STRIDE,
    ),
    _task("depth-estimation", ("AutoModelForDepthEstimation",), ("ForDepthEstimation",), _IMAGE, _STRIDE),
    _task("image-feature-extraction", ("AutoModel",), (), _IMAGE, export_task="feature-extraction"),
    _task(
        "zero-shot-image-classification",
        ("AutoModelForZeroShotImageClassification",),
        (
            *("CLIPModel", "SiglipModel", "Siglip2Model", "AlignModel", "ChineseCLIPModel", "AltCLIPModel", "MetaClip2Model"),
            "CLIPSegModel",
        ),
        _IMAGE,
        Tensor("candidate_labels", "BYTES", (-1,)),
    ),
)


def outputs(name: str, details: dict[str, Any]) -> tuple[Tensor, ...]:
    """What Triton offers for a task of this file; `details` as above."""
    labels = len(details.get("labels", ())) or -1
    per_task: dict[str, tuple[Tensor, ...]] = {
        "image-classification": (Tensor("scores", "FP32", (-1, labels)), Tensor("label", "BYTES", (-1,))),
        "object-detection": (
            Tensor("scores", "FP32", (-1, -1, labels)),  # images, queries, labels
            Tensor("boxes", "FP32", (-1, -1, 4)),  # left, top, right, bottom as shares of the image's width and height
        ),
        "image-segmentation": (Tensor("scores", "FP32", (-1, labels, -1, -1)),),  # images, labels, rows, columns of the graph
        "depth-estimation": (Tensor("depth", "FP32", (-1, -1, -1)),),  # images, rows, columns of the graph
        "image-feature-extraction": (Tensor("embedding", "FP32", (-1, int(details.get("dimensions", -1)))),),
        "zero-shot-image-classification": (  # images, candidate labels in their order
            Tensor("scores", "FP32", (-1, -1)),
            Tensor("logits", "FP32", (-1, -1)),  # before the activation: each label by itself, whatever the others are
        ),
    }
    return (*per_task[name], RESULT)
