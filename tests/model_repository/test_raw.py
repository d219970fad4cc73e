"""Tensors in, tensors out: what the graph computes, and what the caller is told when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from opening.entry import EntryUnusable, open_entry
from opening.refusal import Refused
from predict.tasks import task_of
from tests.model_repository.raw_entries import ROWS, answers, feeds, make_entry
from tests.model_repository.replaying import replayed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_entry(tmp_path_factory.mktemp("raw") / "entry")


def test_the_graphs_outputs_come_as_they_are(folder: Path) -> None:
    task = task_of(open_entry(folder))
    for batch, length in ((1, 1), (4, 9)):
        given = feeds(batch, length)
        found = task.answer(given, {"moved", "total", "others", "wholes"})
        for name, expected in answers(given).items():
            assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6)


def test_the_probes_of_a_raw_entry_hold(folder: Path) -> None:
    told = [difference for _, differences in replayed(folder) for difference in differences]
    assert len(told) == 12 and all(difference.is_within for difference in told)


def test_only_what_is_asked_for_is_computed(folder: Path) -> None:
    assert set(task_of(open_entry(folder)).answer(feeds(2, 3), {"others"})) == {"others"}


@pytest.mark.parametrize(
    ("name", "array", "field", "found"),
    [
        ("ids", None, "ids", "none"),
        ("ids", np.zeros((2, 3), np.int32), "ids", "int32"),
        ("ids", np.zeros((2, 3, 1), np.int64), "ids", "[2, 3, 1]"),
        ("ids", np.zeros((2, 0), np.int64), "ids", "[2, 0]"),
        ("points", np.zeros((2, 4), np.float32), "points", "[2, 4]"),
        ("points", np.zeros((3, 3), np.float32), "points", "3"),
        ("points", np.zeros((2, 3), np.float64), "points", "float64"),
        ("flags", np.zeros(2, np.int64), "flags", "int64"),
        ("halves", np.zeros((2, 2), np.float32), "halves", "float32"),
    ],
)
def test_a_tensor_that_the_graph_cannot_take_is_refused_by_name(
    folder: Path, name: str, array: np.ndarray | None, field: str, found: str
) -> None:
    given = feeds(2, 3)
    if array is None:
        del given[name]
    else:
        given[name] = array
    with pytest.raises(Refused) as refused:
        task_of(open_entry(folder)).answer(given, {"moved"})
    assert (refused.value.field, refused.value.found) == (field, found)


def test_a_value_that_the_graph_refuses_is_the_callers(folder: Path) -> None:
    given = {**feeds(1, 2), "ids": np.array([[0, ROWS]], np.int64)}
    with pytest.raises(Refused, match="values that this graph can compute with"):
        task_of(open_entry(folder)).answer(given, {"moved"})


def test_a_dtype_that_cannot_be_passed_on_is_found_when_the_entry_is_opened(tmp_path: Path) -> None:
    folder = make_entry(tmp_path / "entry")
    record = json.loads((folder / "entry.json").read_text())
    record["details"]["graph_inputs"][3]["dtype"] = "BF16"
    (folder / "entry.json").write_text(json.dumps(record))
    with pytest.raises(EntryUnusable, match=r"'halves'.*BF16"):
        task_of(open_entry(folder))
