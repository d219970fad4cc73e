"""The table and the picture of the embeddings tell what was measured, and what was not."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.embedders import calls
from bench.embeddings import sentences
from bench.embeddings_report import APART, GATE, OURS, charts, table
from bench.plot import svg


def report(**failed: str) -> dict[str, Any]:
    def rates(one: float) -> dict[str, list[float]]:
        return {"1 x 1": [one, 2 * one], "1 x 8": [3 * one], "1 x 64": [4 * one]}

    measured = {
        "optimum": rates(10.0),
        OURS: {**rates(20.0), "16 x 1": [90.0, 110.0]},
        APART: {"16 x 1": [40.0, 50.0]},
        GATE: {**rates(15.0), "16 x 1": [80.0, 100.0]},
    }
    run = {
        "precision": "fp32",
        "differences": {"optimum": 0.0, OURS: 2e-7},
        "sentences_per_second": measured,
        "versions": dict.fromkeys(measured, "1.0"),
        "failed": failed,
    }
    return {"when": "2026-11-27", "machine": "2 cores", "load": 0.1, "model": "a model", "rounds": 2, "seconds": 4.0, "runs": [run]}


def test_a_peers_row_says_how_many_times_ours_is() -> None:
    rows = table(report())
    assert (
        "| optimum 1.0 | 15 (10 to 20); Triton 2.00 times; gate 1.50 times | 30 (30 to 30); Triton 2.00 times; gate 1.50 times |"
        in rows
    )
    assert "Calls that share passes, 16 clients, against calls apart: 2.23 times." in rows
    assert "| posthuman, calls apart | - | 45 (40 to 50) |" in rows


def test_a_peer_that_did_not_run_is_told_with_its_reason() -> None:
    told = report(**{"sentence-transformers": "did not install: no space"})
    assert "sentence-transformers: not measured: did not install: no space" in table(told)
    assert "not measured: did not install: no space" in svg(charts(told)[0])


def test_the_sentences_are_of_mixed_lengths() -> None:
    lengths = [len(one.split()) for one in sentences()]
    assert len(lengths) >= 64 and min(lengths) < 8 and max(lengths) > 25


def test_every_sentence_of_every_client_is_counted() -> None:
    seen: list[int] = []

    def client() -> Any:
        def embed(texts: Any) -> np.ndarray:
            seen.append(len(texts))
            return np.zeros((len(texts), 1))

        return embed

    found = calls(client, [["a"], ["b", "c"]], seconds=0.05, clients=3)
    assert found["sentences"] == sum(seen) > 3 and {1, 2} == set(seen)
