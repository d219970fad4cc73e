"""Images from strangers are opened safely, and what the backend makes of a graph's numbers is what transformers makes of them."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from generate.source import SourceImage
from opening import images as opened
from opening.feeds import Inputs
from opening.images import MAX_IMAGES, MAX_PIXELS, read_images
from opening.looking import Looker
from opening.refusal import Refused
from predict.detection import ObjectDetection, corners
from predict.images import embedding_of
from predict.maps import MAX_PLACES, ImageSegmentation, _grey
from predict.pictures import mask_of, png_of
from predict.pixels import Pixels
from predict.resize import resized
from predict.scores import sigmoid, softmax
from predict.segments import best_labels, segments
from tests.pictures import file_of, picture


def refusal(raws: list[bytes]) -> dict[str, str]:
    with pytest.raises(Refused) as refused:
        read_images(raws)
    return json.loads(refused.value.to_json())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_every_common_format_becomes_rgb(kind: str) -> None:
    (image,) = read_images([file_of(picture(), kind)])
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "I;16"])
def test_every_kind_of_pixel_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)) if mode == "I;16" else picture().convert(mode)
    assert read_images([file_of(grey)])[0].mode == "RGB"


def test_a_data_url_is_opened_like_the_file() -> None:
    url = b"data:image/png;base64," + base64.b64encode(file_of(picture()))
    assert np.array_equal(np.asarray(read_images([url])[0]), np.asarray(picture()))


def test_an_image_that_lies_on_its_side_is_turned_as_its_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    (image,) = read_images([file_of(picture(), "PNG", exif=exif)])
    assert image.size == (30, 40)
    assert np.array_equal(np.asarray(image), np.rot90(np.asarray(picture()), k=-1))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "not empty"),
        (b"not an image", "PNG"),
        (file_of(picture())[:-200], "whole"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PNG"),
        (file_of(picture(), "TIFF"), "PNG"),
        (file_of(picture(4, 400)), "shorter"),
    ],
    ids=["empty", "text", "cut", "postscript", "tiff", "stretched"],
)
def test_what_is_no_whole_image_of_a_known_format_is_refused(raw: bytes, expected: str) -> None:
    said = refusal([file_of(picture()), raw])
    assert said["field"] == "image"
    assert expected in said["expected"]
    assert "item 1" in said["found"]


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that says it is huge."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 4096)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(10_000, 6_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    said = refusal([bomb(*size)])
    assert str(MAX_PIXELS) in said["expected"]


def test_many_large_images_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MAX_CALL_PIXELS", 3000)
    assert read_images([file_of(picture())] * 2)
    assert "3000 pixels in one call" in refusal([file_of(picture())] * 3)["expected"]


def test_none_and_too_many_images_are_refused() -> None:
    assert refusal([])["found"] == "0 files"
    assert refusal([b"x"] * (MAX_IMAGES + 1))["found"] == f"{MAX_IMAGES + 1} files"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("found", "wanted"), [((16, 24), (33, 100)), ((50, 41), (20, 13)), ((128, 128), (777, 1031)), ((1, 1), (5, 7))]
)
def test_maps_are_resized_as_pytorch_does(kind: Any, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Against PyTorch in float64: in float32 it rounds the places it samples, and is itself 4e-5 away at 1,031 columns.

    Ours is a sum of at most 16 float32 products of numbers below 8, so 16 * 8 * 2**-26; found with torch 2.13: 8e-7.
    """
    import torch

    maps = np.random.default_rng(0).standard_normal((2, 3, *found)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(maps).double(), size=wanted, mode=kind, align_corners=False)
    assert np.abs(resized(maps, *wanted, kind) - expected.numpy()).max() < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("strip", [1, 1 << 24])
def test_the_labels_of_a_semantic_map_are_those_of_transformers(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import SegformerImageProcessor

    monkeypatch.setattr("predict.segments._STRIP_VALUES", strip)
    logits = np.random.default_rng(1).standard_normal((1, 5, 16, 12)).astype(np.float32)
    outputs = SimpleNamespace(logits=torch.from_numpy(logits))
    (expected,) = SegformerImageProcessor().post_process_semantic_segmentation(outputs, [(61, 40)])
    # Where two labels are as good as equal, the last bit of the resizing may decide.
    assert (best_labels(logits[0], (61, 40)) == expected.numpy()).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_the_parts_of_a_picture_are_those_of_transformers(threshold: float) -> None:
    import torch
    from transformers import MaskFormerImageProcessor

    chances = np.random.default_rng(2)
    classes = (4 * chances.standard_normal((1, 12, 5))).astype(np.float32)
    masks = resized((6 * chances.standard_normal((1, 12, 4, 5))).astype(np.float32), 16, 20)
    outputs = SimpleNamespace(class_queries_logits=torch.from_numpy(classes), masks_queries_logits=torch.from_numpy(masks))
    (expected,) = MaskFormerImageProcessor().post_process_panoptic_segmentation(
        outputs, threshold, 0.5, 0.5, label_ids_to_fuse=set(), target_sizes=[(48, 40)]
    )
    found = segments(softmax(classes[0]), sigmoid(masks[0]), (48, 40), threshold, 0.5, 0.5)
    assert found, "a picture without parts proves little"
    assert [label for label, _, _ in found] == [part["label_id"] for part in expected["segments_info"]]
    for (_, score, is_inside), part in zip(found, expected["segments_info"], strict=True):
        assert abs(score - part["score"]) < 1e-5
        assert (is_inside == (expected["segmentation"].numpy() == part["id"])).mean() > 0.999


def detector(activation: str, labels: int, most: int) -> ObjectDetection:
    """What turns scores into things, without a graph."""
    made = ObjectDetection.__new__(ObjectDetection)
    made._labels, made._activation, made._most = [f"L{number}" for number in range(labels)], activation, most
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Detr", "Yolos", "RTDetr", "DeformableDetr", "ConditionalDetr"])
def test_things_and_their_boxes_are_those_of_transformers(name: str) -> None:
    import torch
    import transformers

    chances = np.random.default_rng(3)
    is_softmax = name in ("Detr", "Yolos")
    logits = (3 * chances.standard_normal((1, 40, 7))).astype(np.float32)
    places = chances.uniform(0.2, 0.6, (1, 40, 4)).astype(np.float32)
    outputs = SimpleNamespace(logits=torch.from_numpy(logits), pred_boxes=torch.from_numpy(places))
    processor = getattr(transformers, f"{name}ImageProcessor")()
    (expected,) = processor.post_process_object_detection(outputs, threshold=0.5, target_sizes=torch.tensor([[300, 400]]))
    scores = softmax(logits[0])[:, :-1] if is_softmax else sigmoid(logits[0])
    most = 40 if is_softmax or name == "RTDetr" else 100
    found = detector("softmax" if is_softmax else "sigmoid", scores.shape[1], most)._things(
        scores, corners(places[0]), 400, 300, 0.5
    )
    told = sorted(
        (
            (float(score), int(label), [int(edge) for edge in box])
            for score, label, box in zip(*map(list, expected.values()), strict=True)
        ),
        reverse=True,
    )
    assert len(found) == len(told) > 3
    assert [thing["label"] for thing in found] == [f"L{label}" for _, label, _ in told]
    assert [list(thing["box"].values()) for thing in found] == [box for _, _, box in told]
    assert np.allclose([thing["score"] for thing in found], [score for score, _, _ in told], atol=1e-6)


class Grid:
    """A graph that says one thing of every place, in as many labels as it is told."""

    def __init__(self, labels: int) -> None:
        self.labels = labels

    def run(self, _names: object, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.zeros((len(feeds["pixel_values"]), self.labels, 2, 2), np.float32)]


class Same:
    """A processor that keeps every image's own size."""

    def __call__(self, images: list[np.ndarray], **_: object) -> dict[str, np.ndarray]:
        return {"pixel_values": np.stack([image.transpose(2, 0, 1).astype(np.float32) for image in images])}


def looker() -> Looker:
    made = Looker.__new__(Looker)
    made._processor, made._inputs, made._options = Same(), Inputs([{"name": "pixel_values", "dtype": "FP32"}]), {}
    return made


def same_size() -> Pixels:
    made = Pixels.__new__(Pixels)
    made._looker = looker()
    return made


def test_a_small_file_cannot_ask_for_minutes_of_drawing() -> None:
    labels = 150
    made = ImageSegmentation.__new__(ImageSegmentation)
    made._form, made._labels, made._outputs = "semantic", [str(number) for number in range(labels)], ["logits"]
    made._entry, made._pixels = SimpleNamespace(session=Grid(labels)), same_size()  # type: ignore[assignment]  # all it asks of them
    made._pixels.batches = lambda images: [([0], {"pixel_values": np.zeros((len(images), 3, 2, 2))})]  # type: ignore[method-assign,assignment,return-value]  # a processor that shrinks
    large, small = (np.array([file_of(Image.new("RGB", size))], object) for size in ((4000, 3800), (40, 30)))
    with pytest.raises(Refused, match=f"at most {MAX_PLACES // labels} pixels in one call of this model.*15200000"):
        made.answer({"image": large}, {"result"})
    assert set(made.answer({"image": large}, {"scores"})) == {"scores"}, "without pictures there is nothing to draw"
    assert set(made.answer({"image": small}, {"result"})) == {"result"}


def test_an_image_that_keeps_its_size_may_not_be_a_whole_photo() -> None:
    with pytest.raises(Refused, match=r"2000 x 1500 in item 1"):
        list(same_size().batches([Image.new("RGB", (1000, 800)), Image.new("RGB", (2000, 1500))]))


def test_what_an_image_is_told_of_may_not_be_a_whole_photo_either() -> None:
    made = SourceImage.__new__(SourceImage)
    made._looker, made.context, made._replaced, made._begun = looker(), 9, 0, ()
    assert made.read({"image": np.array([file_of(picture())], object)}).room == 9
    with pytest.raises(Refused, match=r"2000 x 1500"):
        made.read({"image": np.array([file_of(Image.new("RGB", (2000, 1500)))], object)})


def test_images_of_many_sizes_wait_for_each_other_only_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predict.pixels._BATCH_VALUES", 3 * 40 * 30 * 2)
    sizes = [(40, 30), (30, 40), (40, 30), (20, 60), (60, 20), (24, 50), (40, 30)]
    seen: list[int] = []

    def coming() -> Any:
        for number, size in enumerate(sizes):
            seen.append(number)
            yield Image.new("RGB", size)

    batches = same_size().batches(coming())
    assert next(batches)[0] == [0, 2] and seen == [0, 1, 2]
    assert next(batches)[0] == [1] and seen == [0, 1, 2, 3, 4]
    assert next(batches)[0] == [3] and seen == [0, 1, 2, 3, 4, 5]
    assert sorted(index for indices, _ in batches for index in indices) == [4, 5, 6]


def test_a_mask_is_a_black_and_white_png() -> None:
    is_inside = np.zeros((30, 40), bool)
    is_inside[3:9, 5:20] = True
    image = Image.open(io.BytesIO(base64.b64decode(mask_of(is_inside))))
    assert (image.mode, image.size) == ("L", (40, 30))
    assert np.array_equal(np.asarray(image), is_inside * 255)


def test_a_flat_depth_is_drawn_black() -> None:
    assert png_of(_grey(np.full((4, 4), 2.5, np.float32))) == png_of(np.zeros((4, 4), np.uint8))
    assert _grey(np.array([[1.0, 3.0]], np.float32)).tolist() == [[0, 255]]


def test_an_image_without_a_pooling_of_its_own_is_the_mean_of_its_places() -> None:
    tokens, places = np.ones((2, 5, 8), np.float32), np.full((2, 8, 3, 4), 2.0, np.float32)
    assert embedding_of(tokens, None).tolist() == [[1.0] * 8] * 2
    assert embedding_of(places, None).tolist() == [[2.0] * 8] * 2
    assert embedding_of(places, np.zeros((2, 6, 1, 1), np.float32)).shape == (2, 6)
