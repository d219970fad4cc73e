"""A sample of types through the real Triton, across tasks and routes: as the whole table, but small enough for every run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from converters.coverage.rows import read_rows
from tests.fixtures_triton import ENVIRONMENT, REPOSITORY

SAMPLE = {
    "aimv2_vision_model": "image-feature-extraction",
    "audio-spectrogram-transformer": "audio-classification",
    "bert": "fill-mask",
    "biogpt": "text-generation",
    "clip": "zero-shot-image-classification",
    "detr": "object-detection",
    "dpr": "tensors",
    "dpt": "image-segmentation",
    "glpn": "depth-estimation",
    "gpt2": "text-generation",
    "splinter": "question-answering",
    "t5": "text2text-generation",
    "vision-encoder-decoder": "image-to-text",
    "vit": "image-classification",
    "wav2vec2": "automatic-speech-recognition",
    "whisper": "speech-to-text",
}
"""Type -> the task it must be supported with."""


def _coverage(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converters.coverage", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


@pytest.mark.live
@pytest.mark.slow
def test_a_sample_of_types_is_converted_served_and_equal(tmp_path: Path) -> None:
    if not (ENVIRONMENT / "bin" / "python3").exists():
        pytest.skip("no Triton environment in .venv-triton: run `make setup`")
    state = tmp_path / "state"
    done = _coverage("sweep", "--state", str(state), "--only", *SAMPLE)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{len(SAMPLE)}/{len(SAMPLE)}" in done.stdout
    rows = read_rows(state / "rows.jsonl")
    judged = {name: row.verdict for name, row in rows.items()}
    failed = {name: f"{each.step}: {each.message}" for name, each in judged.items() if each is not None and not each.is_equal}
    assert failed == {}
    assert {name: each.task for name, each in judged.items() if each is not None} == SAMPLE
    assert len({each.route for each in judged.values() if each is not None}) >= 4
    assert all(each is not None and each.probes >= 3 for each in judged.values())
    assert list((state / "triton" / "models").iterdir()) == []
    table = _coverage("table", "--state", str(state), "--docs", str(tmp_path / "docs"))
    assert table.stdout.startswith(f"{len(SAMPLE)} of ")
    record = json.loads((tmp_path / "docs" / "model-coverage.json").read_text())
    assert record["totals"]["supported"] == len(SAMPLE)
