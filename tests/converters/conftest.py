"""Tiny models and their entries, each made once for the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.offline import go_offline
from converters.pipeline import Converted, convert
from tests.converters.tiny_models import tiny_model


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random GPT-2 of 2 layers, 32 wide, context 64."""
    go_offline()
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", "gpt2", "LMHeadModel")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT encoder of 2 layers, 32 wide, context 64."""
    go_offline()
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert", "bert", "Model")


@pytest.fixture(scope="session")
def gpt2_entry(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The entry of `tiny_gpt2`; read it, do not change it."""
    return convert(str(tiny_gpt2), tmp_path_factory.mktemp("entries"))


@pytest.fixture(scope="session")
def bert_entry(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """The entry of `tiny_bert`; read it, do not change it."""
    return convert(str(tiny_bert), tmp_path_factory.mktemp("entries"))
