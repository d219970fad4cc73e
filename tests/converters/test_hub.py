"""Fetching from a hub: only allowed files, only at the pinned commit, never with a token."""

from __future__ import annotations

import json
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from converters.child import child_environment, conversion_command
from converters.errors import ConversionFailed, ModelRefused
from converters.locate import locate
from converters.source import stage
from tests.converters import sources
from tests.converters.hub_server import Hub

ID, REVISION = "somebody/tiny-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = sources.sound(tmp_path / "repository")
    sources.put(folder, "pytorch_model.bin", pickle.dumps(sources.Canary(tmp_path / "canary")))
    sources.put(folder, "modeling_evil.py", b"raise SystemExit")
    sources.put(folder, "onnx/model.onnx", b"not fetched")
    sources.put(folder, "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    with Hub(folder, ID, REVISION).serving() as serving:
        monkeypatch.setenv("HF_ENDPOINT", serving.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield serving


@pytest.mark.parametrize("way", ["at-sign", "option"])
def test_a_pinned_model_is_fetched_without_its_pickles_code_or_a_token(hub: Hub, tmp_path: Path, way: str) -> None:
    located = locate(f"{ID}@{REVISION}", None, tmp_path / "cache") if way == "at-sign" else locate(ID, REVISION, tmp_path / "cache")
    assert (located.identifier, located.revision) == (ID, REVISION)
    assert sorted(hub.asked) == [
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert hub.authorizations == []
    staged = stage(located, tmp_path / "staged")
    assert (staged.revision, staged.licence) == (REVISION, "mit") and not (tmp_path / "canary").exists()


def test_a_model_that_was_fetched_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    locate(f"{ID}@{REVISION}", None, tmp_path / "cache")
    hub.asked.clear()
    locate(f"{ID}@{REVISION}", None, tmp_path / "cache")
    assert hub.asked == []


def test_a_revision_the_hub_does_not_have_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="found none"):
        locate(f"{ID}@{'f' * 40}", None, tmp_path / "cache")


def test_a_model_the_hub_does_not_have_is_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="found none"):
        locate(f"nobody/nothing@{REVISION}", None, tmp_path / "cache")


def test_a_hub_that_is_away_is_a_failure_and_not_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(ConversionFailed, match="could not be fetched"):
        locate(f"{ID}@{REVISION}", None, tmp_path / "cache")


@pytest.mark.slow
def test_the_command_fetches_and_converts_a_hub_model_with_a_clean_environment(tiny_gpt2: Path, tmp_path: Path) -> None:
    with Hub(tiny_gpt2, ID, REVISION).serving() as serving:
        environment = child_environment({"PATH": "/usr/bin:/bin", "HF_ENDPOINT": serving.url, "HF_TOKEN": "hf_secret"}, tmp_path)
        command = conversion_command(f"{ID}@{REVISION}", tmp_path / "out", cache=tmp_path / "cache")
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout.splitlines()[-1])["entry"]
    assert (entry["name"], entry["source"]["id"], entry["source"]["revision"]) == ("tiny-model", ID, REVISION)
    assert serving.authorizations == []
