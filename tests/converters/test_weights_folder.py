"""Weights: which files they may hold, and the digest that is their identity."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from converters.entry import digest_of
from converters.errors import WeightsBroken
from converters.hub import FETCHED
from converters.manifest import ManifestLine
from converters.weights_folder import NAMES, may_be_in, weights_digest, weights_digest_of, weights_manifest, weights_name

TEXT = b"{}"


def make_weights(folder: Path, **files: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": TEXT, "model.safetensors": b"tensors", **files}.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_weights_digest_is_what_the_design_says_and_stays_so() -> None:
    listed = (ManifestLine("config.json", 2, "ab" * 32), ManifestLine("model.safetensors", 5, "cd" * 32))
    text = '[["config.json",2,"' + "ab" * 32 + '"],["model.safetensors",5,"' + "cd" * 32 + '"]]'
    assert weights_digest_of(listed) == "0x" + hashlib.sha256(b"posthuman/weights/v1\0" + text.encode()).hexdigest()
    # Frozen: weights that were kept under this format keep their identity for ever.
    assert weights_digest_of(listed) == "0x6f3fd5e16bb4a1f8038c847126471e4e44763d9051d294c87cb13919c286b0dc"
    assert weights_name(weights_digest_of(listed)) == "w-" + weights_digest_of(listed)[2:18]


def test_weights_and_an_entry_of_the_same_files_have_two_digests(tmp_path: Path) -> None:
    lines = weights_manifest(make_weights(tmp_path))
    assert weights_digest_of(lines) != str(digest_of(lines))


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.py", "entry.json", "config.pbtxt", "model.onnx", "1_Pooling/other.json", "sub/config.json"]
)
def test_a_file_that_is_no_part_of_a_model_is_no_part_of_weights(tmp_path: Path, name: str) -> None:
    make_weights(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    assert not may_be_in(name)
    with pytest.raises(WeightsBroken, match="expected only files of a model"):
        weights_digest(tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_weights_without_a_configuration_or_tensors_are_none(tmp_path: Path, missing: str) -> None:
    (make_weights(tmp_path) / missing).unlink()
    with pytest.raises(WeightsBroken, match=r"expected config\.json and safetensors"):
        weights_digest(tmp_path)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_link_is_no_part_of_weights(tmp_path: Path, link: object) -> None:
    make_weights(tmp_path / "weights")
    (tmp_path / "outside").write_bytes(b"secret")
    link(tmp_path / "outside", tmp_path / "weights" / "tokenizer.json")  # type: ignore[operator]  # one of the two above
    with pytest.raises(WeightsBroken, match="link"):
        weights_digest(tmp_path / "weights")


def test_any_changed_byte_changes_the_weights_digest(tmp_path: Path) -> None:
    before = weights_digest(make_weights(tmp_path))
    assert weights_digest(make_weights(tmp_path, **{"model.safetensors": b"Tensors"})) != before
    assert weights_digest(make_weights(tmp_path)) == before


def test_what_is_fetched_from_a_hub_may_be_in_weights() -> None:
    assert set(NAMES) == {name for name in FETCHED if "*" not in name}
    assert all(may_be_in(name) for name in (*NAMES, "model-00001-of-00002.safetensors", "LICENSE", "LICENSE.md"))
    assert not any(may_be_in(name) for name in ("model-1-of-2.safetensors", "LICENSE.py", "LICENSE/x"))
