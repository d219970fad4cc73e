"""Models that look at images: each task converted, compared in this process, and its probes put to the backend's own code."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.entry import read_entry
from converters.errors import ModelRefused, ParityFailed
from converters.probes import Probe, ProbeTensor, differences, infer_answer, infer_request, read_probes, texts
from tests.fixtures_triton import TritonServer, convert_model, triton_server

__all__ = ["triton_server"]

TASKS = {
    "image-classification": "vit",
    "object-detection": "yolos",
    "image-segmentation": "segformer",
    "depth-estimation": "dpt",
    "image-feature-extraction": "dinov2",
    "zero-shot-image-classification": "clip",
}
"""Task -> a type that is quick to convert."""
SIZES = ((72, 64),)
"""Width and height of the image of the first probe."""


def tiny_image_model(folder: Path, model_type: str, task: str) -> Path:
    from converters.coverage.shapes import build

    return build(model_type, folder, task).folder


@pytest.fixture(scope="session")
def image_entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One entry a task; the task itself is found from the model's files, but where a bare model has several."""
    folder = tmp_path_factory.mktemp("images")
    return {
        task: convert_model(tiny_image_model(folder / task, model_type, task), folder / "out") for task, model_type in TASKS.items()
    }


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.parametrize("task", TASKS)
def test_the_served_entry_answers_what_pytorch_answers(
    task: str, image_entries: dict[str, Path], triton_server: TritonServer
) -> None:
    entry = image_entries[task]
    assert read_entry(entry).task == task
    probes = read_probes(entry)
    assert len(probes) >= 3
    name = triton_server.install(entry)
    for probe in probes:
        for difference in differences(probe, asked(triton_server, name, probe)):
            assert difference.is_within, (task, difference)


def asked(server: TritonServer, name: str, probe: Probe) -> dict[str, ProbeTensor]:
    import requests

    body, length = infer_request(probe)
    headers = {"Inference-Header-Content-Length": str(length), "triton-key": server.key}
    answer = requests.post(f"{server.url}/v2/models/{name}/infer", data=body, headers=headers, timeout=60)
    assert answer.ok, answer.text
    return infer_answer(answer.content, int(answer.headers["Inference-Header-Content-Length"]))


@pytest.mark.slow
@pytest.mark.live
@pytest.mark.parametrize("task", TASKS)
def test_the_result_is_what_the_stock_inference_client_reads(
    task: str, image_entries: dict[str, Path], triton_server: TritonServer
) -> None:
    """The client parses an answer with these types and nothing else (huggingface_hub 0.36)."""
    import huggingface_hub as hub
    from PIL import Image

    probe = read_probes(image_entries[task])[0]
    kept = tuple(tensor for tensor in probe.inputs if tensor.name in ("image", "candidate_labels"))
    low = {"object-detection": (texts("parameters", ['{"threshold": 0.0}']),)}.get(task, ())
    name = triton_server.install(image_entries[task])
    raw = asked(triton_server, name, Probe((*kept, *low), (texts("result", []),), 1.0))["result"].raw
    answer = json.loads(raw[4:])  # one image was asked, so one element
    if task == "image-feature-extraction":
        assert np.asarray(answer).ndim == 2
        return
    if task == "depth-estimation":
        assert np.asarray(answer["predicted_depth"]).ndim == 2
        assert Image.open(io.BytesIO(base64.b64decode(answer["depth"]))).size == SIZES[0]
        return
    kinds = {
        "image-classification": hub.ImageClassificationOutputElement,
        "object-detection": hub.ObjectDetectionOutputElement,
        "image-segmentation": hub.ImageSegmentationOutputElement,
        "zero-shot-image-classification": hub.ZeroShotImageClassificationOutputElement,
    }
    elements = kinds[task].parse_obj_as_list(answer)
    assert elements
    assert all(isinstance(element.label, str) for element in elements)
    if task == "image-segmentation":
        masks = [np.asarray(Image.open(io.BytesIO(base64.b64decode(element.mask)))) for element in elements]
        assert {mask.shape[::-1] for mask in masks} == {SIZES[0]}
        assert (np.stack(masks).astype(int).sum(axis=0) == 255).all(), "each pixel belongs to one label"
    else:
        scores = [element.score for element in elements]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)


@pytest.mark.slow
def test_parity_is_compared_at_the_sizes_that_the_processor_gives(image_entries: dict[str, Path]) -> None:
    fixed = read_entry(image_entries["image-classification"]).parity[0]["sizes"]
    free = read_entry(image_entries["object-detection"]).parity[0]["sizes"]
    assert fixed == [[1, 64, 64], [3, 64, 64]]
    assert len({tuple(size[1:]) for size in free}) == 3
    assert {size[0] for size in free} == {1, 3}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["weights", "processor"])
def test_an_entry_that_answers_something_else_is_caught_by_its_probes(
    fault: str, image_entries: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = Path(__file__).resolve().parent.parent.parent / "model_repository" / "backends"
    monkeypatch.syspath_prepend(str(backends))
    from tests.model_repository.replaying import replayed

    entry = tmp_path / "entry"
    shutil.copytree(image_entries["image-feature-extraction"], entry)
    assert all(difference.is_within for _, told in replayed(entry) for difference in told)
    if fault == "weights":
        _change_a_weight(entry / "1" / "model.onnx")
    else:
        path = entry / "1" / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "image_mean": [0.4, 0.5, 0.5]}))
    assert not all(difference.is_within for _, told in replayed(entry) for difference in told)


def _change_a_weight(path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path)
    tensor = max((each for each in graph.graph.initializer if each.data_type == 1), key=lambda each: len(each.raw_data))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(graph, path)


@pytest.mark.slow
def test_a_graph_that_differs_from_its_model_is_refused(image_entries: dict[str, Path], tmp_path: Path) -> None:
    import transformers

    from converters.parity.image import check_image

    entry = image_entries["image-classification"]
    shutil.copy(entry / "1" / "model.onnx", tmp_path / "model.onnx")
    model = transformers.ViTForImageClassification.from_pretrained(entry.parent.parent / "image-classification").eval()
    processor = transformers.ViTImageProcessor.from_pretrained(entry / "1")
    details: dict[str, Any] = dict(read_entry(entry).details)
    assert check_image(model, tmp_path / "model.onnx", processor, details, 1e-4)
    _change_a_weight(tmp_path / "model.onnx")
    with pytest.raises(ParityFailed, match=r"logits.*batch 1, rows 64, columns 64.*bound is 1\.0e-04"):
        check_image(model, tmp_path / "model.onnx", processor, details, 1e-4)


@pytest.mark.slow
def test_a_model_that_says_the_same_of_every_image_is_refused(image_entries: dict[str, Path]) -> None:
    """It would agree with any graph and any processor."""
    import torch
    import transformers

    from converters.parity.image import check_image

    entry = image_entries["image-classification"]
    model = transformers.ViTForImageClassification.from_pretrained(entry.parent.parent / "image-classification").eval()
    torch.nn.init.zeros_(model.classifier.weight)
    details: dict[str, Any] = dict(read_entry(entry).details)
    graph = entry.parent / "deaf.onnx"
    _silence(entry / "1" / "model.onnx", graph, model.classifier.bias.detach().numpy())
    with pytest.raises(ParityFailed, match="alike for different images"):
        check_image(model, graph, transformers.ViTImageProcessor.from_pretrained(entry / "1"), details, 1e-4)


def _silence(path: Path, into: Path, bias: np.ndarray) -> None:
    """A graph whose last layer knows only its bias, as the model it is compared with."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path)
    last = next(node for node in graph.graph.node if "logits" in node.output)
    for tensor in graph.graph.initializer:
        if tensor.name in last.input and len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name))
    assert bias.any(), "a bias of nothing would prove less"
    onnx.save(graph, into)


@pytest.mark.slow
def test_a_model_without_a_processor_is_refused(tmp_path: Path) -> None:
    from converters.pipeline import convert

    model = tiny_image_model(tmp_path / "model", "vit", "image-classification")
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(ModelRefused, match=r"expected a preprocessor_config\.json, found none"):
        convert(str(model), tmp_path / "out")
