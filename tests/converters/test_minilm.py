"""The real all-MiniLM-L6-v2: its entry alone gives PyTorch's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

from converters.pipeline import Converted, convert
from tests.real_models import NAME, minilm_folder, minilm_package

pytestmark = pytest.mark.slow

SENTENCES = (
    "A man is playing a guitar on the stage.",
    "Someone performs music with a string instrument.",
    "The central bank raised interest rates again.",
    "Ünïcödé in a sentence that is somewhat longer than the others, " * 12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = minilm_package()
    if package is None:
        pytest.skip("no real MiniLM: run `make setup-tests`")
    return minilm_folder(package, tmp_path_factory.mktemp("minilm"))


@pytest.fixture(scope="module")
def converted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    return convert(str(folder), tmp_path_factory.mktemp("entries"))


def embed_with_entry(converted: Converted, sentence: str) -> Any:
    details = converted.entry.details
    encoded = Tokenizer.from_file(str(converted.folder / details["tokenizer"])).encode(sentence)
    session = InferenceSession(str(converted.folder / details["model"]), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
    wanted = {tensor["name"] for tensor in details["graph_inputs"]}
    vectors = session.run([details["output"]], {n: numpy.array([v], numpy.int64) for n, v in feeds.items() if n in wanted})[0]
    mean = vectors[0].mean(axis=0)
    return mean / numpy.linalg.norm(mean)


def embed_with_pytorch(folder: Path, sentence: str) -> Any:
    given = transformers.AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt")
    with torch.inference_mode():
        mean = transformers.AutoModel.from_pretrained(folder).eval()(**given).last_hidden_state[0].mean(dim=0).numpy()
    return mean / numpy.linalg.norm(mean)


def test_the_entry_states_what_the_model_card_states(converted: Converted) -> None:
    details = converted.entry.details
    assert (converted.entry.name, converted.entry.task, converted.entry.source["licence"]) == (
        NAME,
        "feature-extraction",
        "apache-2.0",
    )
    stated = {key: details[key] for key in ("pooling", "normalize", "dimensions", "context_length", "vocabulary")}
    assert stated == {"pooling": "mean", "normalize": True, "dimensions": 384, "context_length": 256, "vocabulary": 30522}


def test_the_entrys_embeddings_are_pytorchs(converted: Converted, folder: Path) -> None:
    for sentence in SENTENCES:
        cosine = float(embed_with_entry(converted, sentence) @ embed_with_pytorch(folder, sentence))
        assert cosine > 0.99999


def test_related_sentences_are_closer_than_unrelated_ones(converted: Converted) -> None:
    guitar, music, bank = (embed_with_entry(converted, sentence) for sentence in SENTENCES[:3])
    assert guitar @ music > 0.4 > 0.2 > guitar @ bank
