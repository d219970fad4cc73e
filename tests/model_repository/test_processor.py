"""Only transformers' own processors are opened, from inside the entry, and each image goes through one by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opening.entry import EntryUnusable, OpenEntry
from opening.looking import Looker
from opening.processor import open_feature_extractor, open_image_processor
from opening.refusal import Refused
from predict.maps import DepthEstimation
from predict.pixels import Pixels
from tests.pictures import file_of

FILE = "preprocessor_config.json"
DIVISIBLE = {"image_processor_type": "GLPNImageProcessor", "size_divisor": 8}
"""Sizes come out as multiples of 8, so images of different sizes stay different."""


class Mean:
    """A graph that gives each pixel's mean over the colours, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="pixel_values")]

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self.batches.append(feeds["pixel_values"].shape)
        return [feeds["pixel_values"].mean(axis=1)] * len(names)


def entry_with(folder: Path, document: Any, **details: Any) -> OpenEntry:
    (folder / FILE).write_text(document if isinstance(document, str) else json.dumps(document))
    listed = [{"name": "pixel_values", "dtype": "FP32", "axes": ["batch", 3, "rows", "columns"]}]
    return OpenEntry("depth-estimation", {"processor": FILE, "graph_inputs": listed, **details}, folder, None, Mean())


def grey_picture(width: int, height: int, grey: int = 0) -> Image.Image:
    return Image.new("RGB", (width, height), (grey, grey, grey))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pipeline", "AutoModel", "os", "__class__", "ViTImageProcessorFast", None, ["ViTImageProcessor"]])
def test_a_class_that_is_no_processor_is_not_opened(name: Any, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"image_processor_type": name, "feature_extractor_type": name}))
    with pytest.raises(EntryUnusable, match="must be a processor of transformers"):
        open_image_processor(tmp_path, FILE)
    with pytest.raises(EntryUnusable, match="must be a processor of transformers"):
        open_feature_extractor(tmp_path, FILE)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "readable JSON"),
        ("[1]", "JSON object"),
        ({"image_processor_type": "ViTImageProcessor", "auto_map": {"AutoImageProcessor": "evil.Evil"}}, "names no code"),
    ],
)
def test_a_file_that_is_no_plain_description_is_not_opened(document: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(EntryUnusable, match=said):
        open_image_processor(tmp_path, FILE)


def test_a_file_outside_the_entry_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "entry").mkdir()
    (tmp_path / FILE).write_text(json.dumps(DIVISIBLE))
    with pytest.raises(EntryUnusable, match="inside the entry"):
        open_image_processor(tmp_path / "entry", f"../{FILE}")


def test_images_that_come_out_alike_go_through_together_and_keep_their_places(tmp_path: Path) -> None:
    entry = entry_with(tmp_path, DIVISIBLE)
    images = [grey_picture(16, 24, 10), grey_picture(32, 16, 20), grey_picture(17, 25, 30), grey_picture(32, 16, 40)]
    found = {
        index: (feeds["pixel_values"].shape, round(float(feeds["pixel_values"][row].mean()) * 255))
        for indices, feeds in Pixels(entry).batches(images)
        for row, index in enumerate(indices)
    }
    upright, across = (2, 3, 24, 16), (2, 3, 16, 32)
    assert found == {0: (upright, 10), 1: (across, 20), 2: (upright, 30), 3: (across, 40)}


def test_a_batch_is_bounded_whatever_a_call_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predict.pixels._BATCH_VALUES", 2 * 3 * 16 * 16)
    batches = list(Pixels(entry_with(tmp_path, DIVISIBLE)).batches([grey_picture(16, 16)] * 5))
    assert [len(indices) for indices, _ in batches] == [2, 2, 1]


def test_an_image_that_is_alone_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"pixel_values": np.zeros((1, 3, 16, 16), np.float32)}
    monkeypatch.setattr(Looker, "look", lambda *_: made)
    ((_, feeds),) = Pixels(entry_with(tmp_path, DIVISIBLE)).batches([grey_picture(16, 16)])
    assert feeds["pixel_values"] is made["pixel_values"]


@pytest.mark.parametrize("rows", [1, 3])
def test_an_image_of_few_rows_is_not_taken_for_one_with_its_colours_first(rows: int, tmp_path: Path) -> None:
    document = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "do_normalize": False}
    image = Image.new("RGB", (5, rows), (255, 0, 0))
    ((_, feeds),) = Pixels(entry_with(tmp_path, document)).batches([image])
    assert feeds["pixel_values"][0].mean(axis=(1, 2)).tolist() == [1.0, 0.0, 0.0]


def test_an_image_that_the_processor_cannot_take_is_the_callers_to_change(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="4 x 4 in item 0"):
        list(Pixels(entry_with(tmp_path, DIVISIBLE)).batches([grey_picture(4, 4)]))


def test_a_dtype_that_numpy_lacks_is_refused_when_the_entry_is_opened(tmp_path: Path) -> None:
    entry = entry_with(tmp_path, DIVISIBLE)
    entry.detail("graph_inputs")[0]["dtype"] = "BF16"
    for inputs in ("graph_inputs", "encoder_inputs"):
        entry = replace(entry, details={**entry.details, inputs: entry.detail("graph_inputs")})
        with pytest.raises(EntryUnusable, match=r"dtype of 'pixel_values' must be one of .*'FP32'.*, found 'BF16'"):
            Looker(entry, inputs)


def test_a_processor_that_does_not_give_what_the_graph_takes_is_the_operators_to_change(tmp_path: Path) -> None:
    entry = entry_with(tmp_path, DIVISIBLE)
    entry.detail("graph_inputs").append({"name": "pixel_mask", "dtype": "INT64", "axes": ["batch", "rows", "columns"]})
    with pytest.raises(EntryUnusable, match="pixel_mask"):
        list(Pixels(entry).batches([grey_picture(16, 16)]))


def test_maps_of_different_sizes_are_no_tensor_but_each_has_its_result(tmp_path: Path) -> None:
    task = DepthEstimation(entry_with(tmp_path, DIVISIBLE, output="predicted_depth"))
    tensors = {"image": np.array([file_of(grey_picture(16, 24)), file_of(grey_picture(32, 16))], object)}
    results = [json.loads(text) for text in task.answer(tensors, {"result"})["result"]]
    assert [np.asarray(each["predicted_depth"]).shape for each in results] == [(24, 16), (16, 32)]
    with pytest.raises(Refused, match="one image a call"):
        task.answer(tensors, {"depth"})


@pytest.mark.parametrize("stride", [0, -1, 1 << 20])
def test_a_stride_that_is_no_step_is_refused(stride: int, tmp_path: Path) -> None:
    task = DepthEstimation(entry_with(tmp_path, DIVISIBLE, output="predicted_depth"))
    tensors = {"image": np.array([file_of(grey_picture(16, 16))], object)}
    whole = task.answer(tensors, {"depth"})["depth"]
    assert task.answer({**tensors, "stride": np.array([4], np.int32)}, {"depth"})["depth"].tolist() == whole[..., ::4, ::4].tolist()
    with pytest.raises(Refused, match="stride"):
        task.answer({**tensors, "stride": np.array([stride], np.int32)}, {"depth"})


def test_a_parameter_that_a_task_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    task = DepthEstimation(entry_with(tmp_path, DIVISIBLE, output="predicted_depth"))
    tensors = {"image": np.array([file_of(grey_picture(16, 16))], object), "parameters": np.array([b'{"treshold": 1}'], object)}
    with pytest.raises(Refused, match="treshold"):
        task.answer(tensors, {"depth"})
