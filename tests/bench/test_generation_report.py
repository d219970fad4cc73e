"""The generation benchmark's report: what it says follows from the figures, and who failed is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import reading
from bench.generation_report import charts, table
from bench.plot import svg

RUN: dict[str, Any] = {
    "precision": "fp32",
    "memory_bytes_per_second": 30e9,
    "memory_read_by": "a way",
    "weights_bytes": 500e6,
    "bound": {"1": 60.0, "8": 400.0},
    "engines": {
        "posthuman": {"version": "1", "computes": "float32", "tokens_per_second": {"1": [45.0, 48.0, 51.0], "8": [200.0] * 3}},
        "optimum": {"version": "2", "computes": "float32", "tokens_per_second": {"1": [24.0, 24.0, 24.0], "8": [100.0] * 3}},
    },
    "failed": {"ctranslate2": "no wheel"},
}
SERVED: dict[str, Any] = {
    "precision": "fp32",
    "tokens_per_second": {
        "engine": {"1": [50.0, 50.0], "8": [200.0, 200.0]},
        "Triton": {"1": [40.0, 50.0], "8": [160.0, 200.0]},
        "gate": {"1": [25.0, 25.0], "8": [100.0, 125.0]},
    },
    "first_text": {
        name: {"alone_ms": 10.0, "calls": 9, "loaded_p50_ms": 20.0, "loaded_p95_ms": 45.0} for name in ("Triton", "gate")
    },
}
REPORT = {
    "large_pages": "ours",
    "machine": "2 cores",
    "load": 0.1,
    "rounds": 3,
    "prompt": 32,
    "tokens": 64,
    "runs": [RUN],
    "served": SERVED,
}


def test_the_table_says_what_follows_from_the_figures() -> None:
    told = table(REPORT)
    assert "| posthuman 1 | 48 (45 to 51), 0.80 of the bound | 200 (200 to 200), 0.50 of the bound |" in told
    assert "| optimum 2 | 24 (24 to 24); ours 2.00 times | 100 (100 to 100); ours 2.00 times |" in told
    assert "ctranslate2: not measured: no wheel" in told
    assert "| Triton | 45 (40 to 50); +12.5 % (+0.0 to +25.0) | 180 (160 to 200); +12.5 % (+0.0 to +25.0) |" in told
    assert "| gate | 10 | 20, 45 of 9 calls | 4.5 | 4.5 (4.0 to 5.0) |" in told


def test_every_engine_has_its_bar_and_a_failed_one_its_reason() -> None:
    generation, way = charts(REPORT)
    assert (generation.name, way.name) == ("generation-fp32", "generation-served")
    for group in generation.groups:
        assert [bar.name for bar in group.bars] == ["posthuman 1", "optimum 2", "ctranslate2"]
    assert "not measured: no wheel" in svg(generation)
    assert [mark.value for mark in generation.groups[1].marks] == [400.0, 200.0]
    assert svg(way)


def test_memory_is_read_in_several_ways_and_each_reads_the_whole_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 20)
    speeds = reading.Reading(2, tmp_path).speeds()
    assert len(speeds) >= 5 and all(speed > 0 for speed in speeds.values())


def test_the_compiled_way_reads_every_word(tmp_path: Path) -> None:
    import numpy

    read = reading._compiled(tmp_path)
    if read is None:
        pytest.skip("no C compiler: apt-get install gcc")
    values = numpy.arange(256, dtype=numpy.int64) * 12345
    for place in (0, 100, 255):
        changed = values.copy()
        changed[place] ^= 1 << 40
        assert read(changed) == int(numpy.bitwise_xor.reduce(changed)) != read(values)
