"""Job folders for tests: a model, texts of our own, parameters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from c2d_adapter.job_io import Folder

CORPUS = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "corpus.txt"


def job_folder(path: Path, model: Path, *, texts: tuple[str, ...] | None = None, kind: str = "train", **parameters: Any) -> Folder:
    """A folder as a job finds it; without texts, the first three quarters of the demo's corpus."""
    (path / "texts").mkdir(parents=True)
    corpus = CORPUS.read_text(encoding="utf-8")
    for number, text in enumerate((corpus[: len(corpus) * 3 // 4],) if texts is None else texts):
        (path / "texts" / f"{number:03}.txt").write_text(text, encoding="utf-8")
    (path / "job.json").write_text(json.dumps({"kind": kind, "parameters": parameters}))
    shutil.copytree(model, path / "weights", ignore=shutil.ignore_patterns("README.md", "training.json"))
    for file in (path / "weights").iterdir():
        file.chmod(0o444)
    return Folder(path)


def said(folder: Folder, name: str) -> dict[str, Any]:
    return dict(json.loads((folder.path / f"{name}.json").read_text()))


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return {name: value for path in sorted(folder.glob("*.safetensors")) for name, value in load_file(path).items()}


def widest_difference(one: Path, other: Path) -> float:
    """The largest absolute difference between two models' weights; both must have the same tensors."""
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys() and first
    return max(float(abs(first[name] - second[name]).max()) for name in first)


def held_out_loss(model: Path, text: str, length: int = 64) -> float:
    """Mean loss of a text in blocks, by transformers alone."""
    import torch
    import transformers.models.auto.modeling_auto  # noqa: F401 -- first, or it is a circular import (transformers 4.57)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(model)(text, verbose=False)["input_ids"]
    blocks = torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)
    with torch.no_grad():
        return float(AutoModelForCausalLM.from_pretrained(model).eval()(input_ids=blocks, labels=blocks).loss)
