"""The converter runs as a child that sees no key, and its reasons reach the publisher."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from control_plane.errors import Refused, Unavailable
from control_plane.flows.convert import ConversionCrashed, convert_in_child
from control_plane.flows.entries import Made


def convert(model: Path, folder: Path, timeout_s: float = 120.0, environ: dict[str, str] | None = None) -> Made:
    return convert_in_child(
        str(model),
        folder / "out",
        task=None,
        revision=None,
        name=None,
        environ=dict(os.environ) if environ is None else environ,
        scratch=folder / "scratch",
        timeout_s=timeout_s,
        report=lambda _stage, _seconds: None,
    )


def test_a_model_that_is_refused_says_why(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}))
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(Refused) as caught:
        convert(model, tmp_path)
    assert caught.value.code == "model_refused"
    assert "pytorch_model.bin" in caught.value.message


def test_a_conversion_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        convert(tmp_path, tmp_path, timeout_s=0.05)
    assert caught.value.code == "conversion_timeout"


def test_a_converter_that_cannot_start_is_the_operators_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.flows.convert.PACKAGES", tmp_path)
    monkeypatch.setattr(
        "control_plane.flows.convert.conversion_command",
        lambda *_given, **_named: ["sh", "-c", "echo not json; echo no memory >&2; kill -9 $$"],
    )
    with pytest.raises(ConversionCrashed, match="no memory"):
        convert(tmp_path, tmp_path)


def test_an_entry_outside_the_asked_folder_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "control_plane.flows.convert.conversion_command",
        lambda *_given, **_named: ["echo", json.dumps({"folder": "/etc"})],
    )
    with pytest.raises(ConversionCrashed, match="/etc"):
        convert(tmp_path, tmp_path)


def test_no_secret_reaches_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    monkeypatch.setattr(
        "control_plane.flows.convert.conversion_command", lambda *_given, **_named: ["sh", "-c", f"env >{seen}; exit 3"]
    )
    with pytest.raises(Refused):
        convert(tmp_path, tmp_path, environ={"PATH": os.environ["PATH"], "POSTHUMAN_PRIVATE_KEY": "canary"})
    assert "PATH=" in seen.read_text()
    assert "canary" not in seen.read_text()


def test_what_the_converter_notes_reaches_whoever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [json.dumps({"note": "this conversion is only partly confined"}), json.dumps({"folder": "/etc"})]
    monkeypatch.setattr(
        "control_plane.flows.convert.conversion_command",
        lambda *_given, **_named: ["printf", "%s\\n%s\\n", *said],
    )
    heard: list[str] = []
    with pytest.raises(ConversionCrashed):
        convert_in_child(
            "model",
            tmp_path / "out",
            task=None,
            revision=None,
            name=None,
            environ=dict(os.environ),
            scratch=tmp_path / "scratch",
            timeout_s=20.0,
            report=lambda stage, _seconds: heard.append(stage),
        )
    assert heard == ["this conversion is only partly confined"]
