"""Tensors in, tensors out: what the graph computes, and what the caller is told when it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from opening.entry import EntryUnusable, open_entry
from opening.refusal import Refused
from predict.tasks import task_of
from tests.model_repository.raw_entries import ROWS, answers, feeds, make_entry
from tests.model_repository.replaying import replayed

BACKENDS = Path(__file__).resolve().parent.parent.parent / "model_repository" / "backends"


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


def test_what_the_graph_gives_is_handed_on_where_it_lies(folder: Path) -> None:
    found = task_of(open_entry(folder)).answer(feeds(4, 9), {"moved", "others", "wholes"})
    # ONNX Runtime's own memory, in its own keeping; a copy would own its numbers.
    assert all(not array.flags.owndata and type(array.base).__name__ == "PyCapsule" for array in found.values())


_READS_MUCH = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from opening.entry import open_entry
from predict.tasks import task_of

task = task_of(open_entry(Path(sys.argv[2])))
small = {"points": np.ones(8, np.float32)}
assert task.answer(small, {"most"})["most"].tolist() == [1.0]
points = np.ones(1 << 25, np.float32)
points.flags.writeable = False
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert task.answer({"points": points}, {"most"})["most"].tolist() == [1.0]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / points.nbytes)
"""


@pytest.mark.slow
def test_a_tensor_is_fed_where_it_lies(tmp_path: Path) -> None:
    node = helper.make_node("ReduceMax", ["points"], ["most"], keepdims=0)
    given = helper.make_tensor_value_info("points", TensorProto.FLOAT, ["length"])
    made = helper.make_tensor_value_info("most", TensorProto.FLOAT, [])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(helper.make_graph([node], "most", [given], [made]), opset_imports=[opset], ir_version=10)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(model.SerializeToString())
    described = {"name": "points", "dtype": "FP32", "axes": ["length"]}, {"name": "most", "dtype": "FP32", "axes": []}
    details = {"model": "1/model.onnx", "graph_inputs": [described[0]], "graph_outputs": [described[1]]}
    record = {"format": "posthuman/entry/v1", "task": "tensors", "details": details}
    (tmp_path / "entry.json").write_text(json.dumps(record))
    command = [sys.executable, "-c", _READS_MUCH, str(BACKENDS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    # The peak of memory does not grow by another 128 MB for the copy.
    assert float(done.stdout) < 0.2
