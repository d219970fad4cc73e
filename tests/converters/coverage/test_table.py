"""The table: totals are counted, failures are sorted by whose limit they are, and the same rows give the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converters.coverage.attempts import Attempt
from converters.coverage.reasons import EXPORTER, LIBRARY, OURS, sort_of
from converters.coverage.rows import Row
from converters.coverage.table import lines_of, totals, write_table

TOOLS = {"torch": "2.13", "transformers": "4.57.6"}


def _equal(task: str, route: str = "optimum") -> Attempt:
    cache = "shared: one buffer" if task == "text-generation" else ""
    seconds = {"build": 0.5, "export": 1.0}
    return Attempt(task, "Model", "done", None, "", route, "it has one", "fp32", 1e-6, 2e-6, 1e-4, 4, seconds, cache)


def _failed(step: str, error: str, message: str, task: str = "tensors") -> Attempt:
    return Attempt(task, "Model", step, error, message)


ROWS = {
    row.model_type: row
    for row in (
        Row("gpt2", (_equal("text-generation"),), TOOLS),
        Row("aria", (_failed("export", "ModelRefused", "no route"), _equal("tensors", "dynamo")), TOOLS),
        Row("timm_wrapper", (_failed("build", "NotBuilt", "x: ImportError: X requires the timm library but it was not"),), TOOLS),
        Row("funnel", (_failed("export", "ConversionFailed", "torch.export: GuardOnDataDependentSymNode | here"),), TOOLS),
        Row("blt", (_failed("parity", "ParityFailed", "ONNX differs by 3e-1 <b>"),), TOOLS),
    )
}
TYPES = ("gpt2", "aria", "timm_wrapper", "funnel", "blt", "zamba")


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (_failed("build", "NotBuilt", "deta: DetaModel: ImportError: DetaModel requires the Torchvision library"), LIBRARY),
        (_failed("load", "ModelRefused", "No module named 'librosa'"), LIBRARY),
        (_failed("build", "NotBuilt", "edgetam: OSError: We couldn't connect to 'https://x' to load the files"), LIBRARY),
        (_failed("export", "ConversionFailed", "export: torch._dynamo.exc.UserError: Could not guard on data-dependent"), EXPORTER),
        (_failed("export", "ConversionFailed", "export: Exporting the operator 'aten::im2col' to ONNX opset"), EXPORTER),
        (_failed("parity", "ConversionFailed", "[ONNXRuntimeError] : 1 : FAIL"), EXPORTER),
        (_failed("export", "ModelRefused", "config.json: model_type must be one of those with the task tensors"), OURS),
        (_failed("parity", "ParityFailed", "ONNX differs from PyTorch by 3e-1"), OURS),
        (_failed("export", "Crashed", "its process was ended by SIGSEGV"), OURS),
        (_failed("build", "NotBuilt", "x: ValueError: hidden size is no multiple"), OURS),
        (
            _failed("export", "ConversionFailed", "dynamo failed: torch._dynamo.exc.X; torchscript failed: aten::fft is not"),
            EXPORTER,
        ),
        # two routes were tried and one of them got as far as another answer
        (_failed("parity", "ConversionFailed", "dynamo failed: torch._dynamo.exc.X; torchscript failed: ONNX differs"), OURS),
        # what an exporter's word means depends on where it was said
        (_failed("triton replay", "ServedWrongly", "[ONNXRuntimeError] : 1 : FAIL"), OURS),
    ],
)
def test_a_failure_is_sorted_by_whose_limit_it_is(attempt: Attempt, expected: str) -> None:
    assert sort_of((attempt,)) == (expected, attempt)


def test_a_type_is_ours_to_fix_when_any_of_its_attempts_is() -> None:
    library = _failed("build", "NotBuilt", "ImportError: X requires the scipy library")
    exporter = _failed("export", "ConversionFailed", "torch.export failed")
    ours = _failed("parity", "ParityFailed", "differs")
    assert sort_of((library, exporter, ours)) == (OURS, ours)
    assert sort_of((library, exporter)) == (EXPORTER, exporter)


def test_totals_are_counted_from_the_rows() -> None:
    assert totals(lines_of(ROWS, TYPES)) == {
        "types": 6,
        "supported": 2,
        "not tried": 1,
        "failed": {EXPORTER: 1, LIBRARY: 1, OURS: 1},
        "supported by task": {"tensors": 1, "text-generation": 1},
        "supported by route": {"dynamo": 1, "optimum": 1},
        "supported by cache": {"shared": 1},
    }


def test_the_documents_name_every_type_once_and_say_why_it_failed(tmp_path: Path) -> None:
    assert write_table(ROWS, TYPES, tmp_path) == "2 of 6 types converted, served and within the bound"
    text = (tmp_path / "model-coverage.md").read_text()
    assert "**2 of 6 types are supported.**" in text
    assert "| aria | tensors | dynamo: it has one | fp32 | 1e-06 | 2e-06 | 1e-04 | 4 | 1.5 |" in text
    assert "GuardOnDataDependentSymNode \\| here" in text
    assert "\\<b\\>" in text
    named = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert all(named.count(name) == 1 for name in TYPES if name != "zamba")
    assert "zamba." in text
    record = json.loads((tmp_path / "model-coverage.json").read_text())
    assert [line["type"] for line in record["types"]] == sorted(TYPES)
    assert [len(line["attempts"]) for line in record["types"] if line["type"] == "aria"] == [2]


def test_the_same_rows_in_another_order_give_the_same_bytes(tmp_path: Path) -> None:
    write_table(ROWS, TYPES, tmp_path / "one")
    write_table(dict(reversed(ROWS.items())), tuple(reversed(TYPES)), tmp_path / "two")
    for name in ("model-coverage.md", "model-coverage.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_row_of_a_type_that_transformers_does_not_know_is_left_out() -> None:
    assert [line.model_type for line in lines_of(ROWS, ("gpt2",))] == ["gpt2"]
