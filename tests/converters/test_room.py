"""Is there room? Decided from figures before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import room
from converters.errors import ConversionFailed
from converters.limits import GIB
from converters.room import Room, Size, Way, choose, need, require_room_to_stage

GPTJ = Size(parameters=6_050_882_784, largest=206_438_400)
SMALL = Size(parameters=124_000_000, largest=38_000_000)
PLENTY = Room(memory=1 << 50, disk=1 << 50)


def test_a_model_that_fits_is_loaded_whole() -> None:
    assert choose(SMALL, "causal", "fp16", Room(16 * GIB, 60 * GIB)) is Way.ORDINARY
    assert choose(GPTJ, "causal", "fp16", PLENTY) is Way.ORDINARY


def test_gptj_is_streamed_where_there_are_24_gb() -> None:
    assert choose(GPTJ, "causal", "fp16", Room(20 * GIB, 40 * GIB)) is Way.STREAMED
    assert need(GPTJ, "fp16", Way.STREAMED).memory < 8 * GIB


@pytest.mark.parametrize(("kind", "precision"), [("text", "fp16"), ("causal", "int4"), ("causal", "bf16"), ("seq2seq", "fp32")])
def test_what_cannot_be_streamed_and_does_not_fit_is_refused_with_figures(kind: str, precision: str) -> None:
    with pytest.raises(ConversionFailed, match=r"6\.05e9 parameters to .* GiB of memory and .* found 20\.0 GiB and 40\.0 GiB free"):
        choose(GPTJ, kind, precision, Room(20 * GIB, 40 * GIB))


def test_too_little_disk_is_refused_with_figures() -> None:
    with pytest.raises(ConversionFailed, match=r"11\.5 GiB of disk; found .* 5\.0 GiB free"):
        choose(GPTJ, "causal", "fp16", Room(20 * GIB, 5 * GIB))


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.sampled_from(["fp32", "fp16", "int8"]), st.sampled_from(list(Way)))
def test_a_larger_model_never_needs_less(one: int, other: int, precision: str, way: Way) -> None:
    small, large = sorted((one, other))
    less, more = need(Size(small, small), precision, way), need(Size(large, large), precision, way)
    assert less.memory <= more.memory and less.disk <= more.disk


def test_files_that_cannot_be_copied_are_refused_before_the_copy(tmp_path: Path) -> None:
    require_room_to_stage(1 << 20, tmp_path)
    with pytest.raises(ConversionFailed, match="for a copy that is checked and for the entry"):
        require_room_to_stage(1 << 50, tmp_path)


def test_a_conversion_without_room_leaves_nothing(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.pipeline import convert

    monkeypatch.setattr(room.way_for, "__defaults__", (lambda: 1 << 20,))
    with pytest.raises(ConversionFailed, match="of memory"):
        convert(str(tiny_gpt2), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
