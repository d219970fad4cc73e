"""Processors come from transformers alone, run without torchvision, and are written as they were read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from converters.errors import ModelRefused
from converters.source import Source
from converters.tasks import TASKS, task_of


def source(
    architecture: str = "ViTModel", model_type: str = "vit", files: tuple[str, ...] = (), **documents: dict[str, Any]
) -> Source:
    named = {f"{name}.json": document for name, document in documents.items()}
    listed = dict.fromkeys((*files, *named), "0" * 64)
    return Source(Path("model"), "model", None, None, model_type, (architecture,), listed, named)


VIT = {"image_processor_type": "ViTImageProcessor", "size": {"height": 30, "width": 30}}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (source(preprocessor_config=VIT), "image-feature-extraction"),
        (source(config={"image_size": 224, "num_channels": 3}), "image-feature-extraction"),
        (source("CLIPVisionModel", files=("tokenizer.json",), preprocessor_config=VIT), "image-feature-extraction"),
        (source("FlavaModel", files=("tokenizer.json",), preprocessor_config=VIT), "tensors"),
        (source("VideoMAEModel", preprocessor_config={"image_processor_type": "VideoMAEImageProcessor"}), "tensors"),
        (source("Wav2Vec2Model", preprocessor_config={"sampling_rate": 16000}), "tensors"),
        (source("BertModel", files=("tokenizer.json",), config={"vocab_size": 320}), "feature-extraction"),
        (source("CLIPModel", files=("tokenizer.json",), preprocessor_config=VIT), "zero-shot-image-classification"),
        (source("ViTForImageClassification", preprocessor_config=VIT), "image-classification"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.architectures[0],
)
def test_what_a_bare_model_reads_decides_its_task(made: Source, expected: str) -> None:
    assert task_of(made.architectures, made.reads).name == expected


def test_only_tasks_that_read_texts_need_a_tokenizer() -> None:
    reading = {name for name, task in TASKS.items() if task.reads_text}
    assert {"feature-extraction", "text-generation", "question-answering", "zero-shot-image-classification"} <= reading
    assert not reading & {"image-classification", "object-detection", "depth-estimation", "audio-classification", "tensors"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stated",
    [
        {"image_processor_type": "ViTImageProcessor"},
        {"image_processor_type": "ViTImageProcessorFast"},
        {"feature_extractor_type": "ViTFeatureExtractor"},
        {},
    ],
    ids=["slow", "fast", "old name", "by type"],
)
def test_the_slow_processor_is_written_whatever_the_file_names(stated: dict[str, Any], tmp_path: Path) -> None:
    from converters.kinds.processors import PROCESSOR, load_image_processor, write_processor

    (tmp_path / "1").mkdir()
    processor = load_image_processor(source(preprocessor_config={**stated, "size": {"height": 30, "width": 30}}))
    write_processor(processor, tmp_path)
    written = json.loads((tmp_path / PROCESSOR).read_text())
    assert written["image_processor_type"] == "ViTImageProcessor"
    assert written["size"] == {"height": 30, "width": 30}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["pipeline", "AutoModel", "os", "DINOv3ViTImageProcessorFast", "__class__", "GPT2LMHeadModel", "../evil"]
)
def test_a_processor_that_is_not_one_of_transformers_is_refused(name: str) -> None:
    from converters.kinds.processors import load_feature_extractor, load_image_processor

    with pytest.raises(ModelRefused, match="expected an image processor"):
        load_image_processor(source(preprocessor_config={"image_processor_type": name}))
    with pytest.raises(ModelRefused, match="expected a feature extractor"):
        load_feature_extractor(source(preprocessor_config={"feature_extractor_type": name}))


@pytest.mark.slow
def test_a_processor_that_cannot_be_made_is_refused_with_the_cause() -> None:
    from converters.kinds.processors import load_image_processor

    with pytest.raises(ModelRefused, match=r"preprocessor_config\.json: expected what ViTImageProcessor can read"):
        load_image_processor(source(preprocessor_config={**VIT, "size": "huge"}))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(72, 64), (96, 131), (640, 90)])
def test_the_processor_that_stands_in_for_one_that_asks_for_pytorch_makes_the_same(size: tuple[int, int]) -> None:
    import numpy
    import transformers

    from converters.kinds.processors import load_image_processor
    from converters.parity.images import picture

    stated = {"image_processor_type": "DeformableDetrImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 128}}
    own = transformers.DeformableDetrImageProcessor.from_dict(stated)
    ours = load_image_processor(source(preprocessor_config=stated))
    assert type(ours).__name__ == "DetrImageProcessor"
    expected, found = (dict(processor(images=[picture(*size, 1)], return_tensors="np")) for processor in (own, ours))
    assert set(expected) == set(found) == {"pixel_values", "pixel_mask"}
    assert all(numpy.array_equal(expected[name], found[name]) for name in expected)
