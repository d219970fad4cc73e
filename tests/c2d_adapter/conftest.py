"""Tiny models to train, each made once for the whole run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.converters.tiny_models import tiny_model


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random GPT-2 of 2 layers, 32 wide, context 64, with dropout."""
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", "gpt2", "LMHeadModel")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama", "llama", "ForCausalLM")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny-bert", "bert", "ForMaskedLM", words=True)
