"""Rows survive a kill, and a second run does what the first has not."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.coverage.attempts import Attempt
from converters.coverage.rows import Row, append_row, chosen, read_rows, steady

TOOLS = {"torch": "2", "transformers": "4"}
EQUAL = Attempt(
    "fill-mask", "BertForMaskedLM", "done", None, "", "optimum", "it has one", "fp32", 1e-6, 2e-6, 1e-4, 4, {"build": 0.1}
)
REFUSED = Attempt("tensors", "BertModel", "export", "ModelRefused", "no route")


def test_a_row_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state" / "rows.jsonl"
    row = Row("bert", (REFUSED, EQUAL), TOOLS)
    append_row(path, row)
    assert read_rows(path) == {"bert": row}


def test_the_later_row_of_a_type_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, Row("bert", (REFUSED,), TOOLS))
    append_row(path, Row("gpt2", (REFUSED,), TOOLS))
    append_row(path, Row("bert", (EQUAL,), TOOLS))
    rows = read_rows(path)
    assert (rows["bert"].is_supported, rows["gpt2"].is_supported) == (True, False)


def test_a_line_that_a_kill_cut_short_costs_that_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, Row("bert", (EQUAL,), TOOLS))
    append_row(path, Row("gpt2", (EQUAL,), TOOLS))
    path.write_bytes(path.read_bytes()[:-40])
    assert set(read_rows(path)) == {"bert"}
    append_row(path, Row("vit", (EQUAL,), TOOLS))
    assert set(read_rows(path)) == {"bert", "vit"}


@pytest.mark.parametrize(("retry_failed", "expected"), [(False, ("t5",)), (True, ("gpt2", "t5"))])
def test_a_run_does_what_has_no_row_and_the_failed_on_request(retry_failed: bool, expected: tuple[str, ...]) -> None:
    rows = {"bert": Row("bert", (EQUAL,), TOOLS), "gpt2": Row("gpt2", (REFUSED,), TOOLS)}
    assert chosen(("bert", "gpt2", "t5"), rows, retry_failed=retry_failed) == expected


def test_a_type_is_judged_by_the_task_that_was_equal_else_by_its_best() -> None:
    other = Attempt("tensors", "T", "parity", "ParityFailed", "off")
    assert Row("bert", (REFUSED, EQUAL), TOOLS).verdict == EQUAL
    assert Row("bert", (REFUSED, other), TOOLS).verdict == REFUSED


def test_a_message_is_one_line_without_folders_and_addresses() -> None:
    said = steady("broken\n  in /srv/models/model.onnx at 0x7f12345678ab for m-0123456789abcdef " + "x" * 1200)
    assert said.startswith("broken in model.onnx at 0x... for the entry xxx")
    assert len(said) == 1000
    kept = "see https://example.org/a/b/INSTALL.md and optimum/exporters/onnx/x.py"
    assert steady(f"{kept}, 'file:///srv/models/x.json', failed:/srv/models/y.json") == f"{kept}, 'file://x.json', failed:y.json"
