"""Tiny models of many families, published on the running stack as their owners would: one command each, no file written by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from control_plane.did import TransactionHash, parse_did
from converters.coverage.shapes import build
from deploy.local.chain import local_accounts
from deploy.market import Market
from tests.fixtures_stack import LiveStack

__all__ = ["families"]

FAMILIES = {
    "gpt2": "text-generation",
    "llama": "text-generation",
    "bert": "fill-mask",
    "distilbert": "text-classification",
    "roberta": "token-classification",
    "electra": "question-answering",
    "mpnet": "feature-extraction",
    "deberta-v2": "zero-shot-classification",
    "t5": "text2text-generation",
    "vit": "image-classification",
    "yolos": "object-detection",
    "segformer": "image-segmentation",
    "clip": "zero-shot-image-classification",
    "vision-encoder-decoder": "image-to-text",
    "wav2vec2": "automatic-speech-recognition",
    "hubert": "audio-classification",
    "whisper": "speech-to-text",
}
"""Model type -> the task that is sold."""

_ENTAILMENT = {0: "contradiction", 1: "neutral", 2: "entailment"}
_LABELS: Mapping[str, dict[str, Any]] = {
    "zero-shot-classification": {"id2label": _ENTAILMENT, "label2id": {label: place for place, label in _ENTAILMENT.items()}},
}


@dataclass(frozen=True)
class Sold:
    """One model on sale. said: what `posthuman publish` showed; seconds: from the command to its end."""

    model_type: str
    task: str
    folder: Path
    did: str
    said: str
    record: dict[str, object]
    seconds: float


@dataclass
class Families:
    """Publishes a family when it is first asked for, and keeps what came of it."""

    stack: LiveStack
    folder: Path
    _sold: dict[str, Sold] = field(default_factory=dict)
    _clients: dict[str, InferenceClient] = field(default_factory=dict)

    def sold(self, model_type: str) -> Sold:
        if model_type not in self._sold:
            task = FAMILIES[model_type]
            model = build(model_type, self.folder / model_type, task, **_LABELS.get(task, {})).folder
            began = time.monotonic()
            terms = ("--as", "alice", "--price", "1", "--name", f"tiny {model_type}", "--task", task)
            ran = self.stack.run("publish", str(model), *terms, "--json", timeout_s=600)
            seconds = time.monotonic() - began
            assert ran.code == 0, f"{model_type}: {ran.out}{ran.err}"
            self._sold[model_type] = Sold(model_type, task, model, str(ran.json["did"]), ran.err, ran.json, seconds)
        return self._sold[model_type]

    def token(self, model_type: str) -> str:
        return self.token_for(self.sold(model_type).did)

    def token_for(self, did: str) -> str:
        """Bob buys, and signs in."""
        settings = self.stack.settings
        bought = self.stack.run("buy", did, "--as", "bob", "--json")
        assert bought.code == 0, bought.out + bought.err
        order = TransactionHash(bought.json["order"])
        market = Market(settings.public_url)
        return market.sign_in(local_accounts()["bob"], parse_did(did), order, settings.chain_id).token

    def client(self, model_type: str) -> InferenceClient:
        """The stock client, told nothing but the model's URL and Bob's token."""
        if model_type not in self._clients:
            url = f"{self.stack.settings.public_url}/models/{self.sold(model_type).did}"
            self._clients[model_type] = InferenceClient(model=url, token=self.token(model_type))
        return self._clients[model_type]


@pytest.fixture(scope="session")
def families(stack: LiveStack, tmp_path_factory: pytest.TempPathFactory) -> Families:
    return Families(stack, tmp_path_factory.mktemp("families"))
