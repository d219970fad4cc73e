"""The table of what was promised: nothing is held without a figure, and a miss says by how much."""

from __future__ import annotations

from typing import Any

import pytest

from bench.summary import Limit, Promise, promises, table


@pytest.mark.parametrize(
    ("limit", "measured", "verdict"),
    [
        (Limit(1.0, "ms"), 1.0, "held"),
        (Limit(1.0, "ms"), 1.49, "**missed by 0.49 ms** (49 %)"),
        (Limit(0.8, "", False), 0.9, "held"),
        (Limit(0.8, "", False), 0.6, "**missed by 0.20** (25 %)"),
        (Limit(0, "broken"), 3.0, "**missed by 3 broken**"),
    ],
)
def test_a_figure_beyond_its_bar_is_missed_by_the_difference(limit: Limit, measured: float, verdict: str) -> None:
    assert limit.verdict(measured) == verdict
    assert f"| {verdict} |" in Promise("x", limit, measured).row()


def test_without_any_report_nothing_is_held() -> None:
    found = promises({})
    assert len(found) >= 4
    assert all(one.measured is None and "not measured: there is no " in one.row() for one in found)
    assert table(found).startswith(f"0 held, 0 missed, {len(found)} not measured.")


def test_a_report_of_an_older_form_is_not_measured_and_does_not_stop_the_others() -> None:
    stress = {"clients": 64, "seconds": 120, "broken": {"memory is flat": {"number": 0, "first": []}}}
    rows = table(promises({"gate": {"models": {}}, "stress": stress}))
    assert "gate.json is of an older form" in rows
    assert "| load test: memory is flat | at most 0 broken | 0 broken (64 clients, 120 s) | held |" in rows


def contest(gate: list[float], litellm: list[float] | None) -> dict[str, Any]:
    added = {"gate": {"p50_ms_of_blocks": gate, "ratio_of_rounds": [0.5]}}
    if litellm is not None:
        added["LiteLLM"] = {"p50_ms_of_blocks": litellm, "ratio_of_rounds": [0.1]}
    return {"added": added, "sides": {"Triton": {"one_client": {"p50_ms": 6.0}}}, "not_measured": {}}


def test_the_gate_is_held_against_a_fifth_of_what_litellm_adds_to_the_same_call() -> None:
    report = {
        "gate": {"MiniLM's shape": contest([0.8, 0.9, 5.0], None)},
        "gateways": {"completions": contest([0.9], [3.0]), "embeddings": contest([1.5], None)},
        "not_measured": {"LiteLLM": "did not start"},
    }
    rows = {one.what: one for one in promises({"gate": report})}
    assert rows["gate, added p50, /v2 infer, MiniLM's shape"].measured == 0.9
    share = rows["gate, added p50 over LiteLLM's, /v1/completions"]
    assert share.measured == pytest.approx(0.3)
    assert share.limit.verdict(0.3).startswith("**missed by 0.10**")
    assert "not measured: did not start" in rows["gate, added p50 over LiteLLM's, /v1/embeddings"].row()
    assert rows["gate, calls a second of 16 clients over Triton's, MiniLM's shape (6.0 ms)"].measured == 0.5


def test_the_engine_is_held_against_its_best_peer() -> None:
    engines = {
        "posthuman": {"tokens_per_second": {"1": [50.0, 60.0], "8": [200.0]}},
        "slow": {"tokens_per_second": {"1": [10.0, 10.0], "8": [100.0]}},
        "fast": {"tokens_per_second": {"1": [40.0, 60.0], "8": [400.0]}},
    }
    run = {"precision": "fp32", "engines": engines, "bound": {"1": 100.0, "8": 400.0}, "failed": {}}
    rows = {one.what: one for one in promises({"generation": {"runs": [run]}})}
    one = rows["engine, fp32, tokens a second over the best peer's, 1 at once"]
    assert one.measured == pytest.approx((50 / 40 + 60 / 60) / 2)
    assert one.note == "fast"
    assert rows["engine, fp32, tokens a second over the best peer's, 8 at once"].measured == 0.5
    assert rows["engine, fp32, of the memory's bound, 1 at once"].measured == pytest.approx(0.55)
    assert rows["engine, int8, tokens a second over the best peer's"].measured is None


def test_embeddings_are_held_against_the_best_peer_through_the_gate() -> None:
    rates = {
        "posthuman, Triton": {"1 x 1": [90.0], "1 x 8": [90.0]},
        "posthuman, gate": {"1 x 1": [60.0, 80.0], "1 x 8": [50.0]},
        "sentence-transformers": {"1 x 1": [40.0, 40.0], "1 x 8": [100.0]},
        "optimum": {"1 x 1": [50.0, 50.0], "1 x 8": [10.0]},
    }
    rows = {one.what: one for one in promises({"embeddings": {"runs": [{"precision": "fp32", "sentences_per_second": rates}]}})}
    one, eight, many = (rows[f"embeddings, fp32, sentences a second over the best peer's, {size} a call"] for size in (1, 8, 64))
    assert (one.measured, one.note) == (pytest.approx(1.4), "optimum")
    assert (eight.measured, eight.note) == (0.5, "sentence-transformers")
    assert many.measured is None
