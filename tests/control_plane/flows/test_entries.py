"""Entries on their way into the repository: what a conversion leaves behind when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.errors import Refused
from control_plane.flows.entries import Made, obtain


@pytest.mark.parametrize(
    "error", [Refused("no licence", code="model_refused"), KeyboardInterrupt()], ids=["refused", "interrupted"]
)
def test_a_conversion_that_fails_leaves_no_half_made_weights(error: BaseException, tmp_path: Path) -> None:
    model, scratch = tmp_path / "model", tmp_path / "scratch"
    model.mkdir()

    def convert(out: Path) -> Made:
        (out / "model.onnx").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        obtain(str(model), None, (), tmp_path / "models", tmp_path / "weights", scratch, convert)
    assert list(scratch.iterdir()) == []
