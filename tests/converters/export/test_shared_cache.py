"""A cache that each step writes in place: where it is taken, and where the graph is left as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from converters.coverage.shapes import build
from converters.entry import Entry, read_entry
from converters.export.attention import CannotShare
from converters.export.shared_cache import share_cache
from converters.parity.shared_session import SharedSession
from converters.pipeline import convert

pytestmark = pytest.mark.slow


def entry_of(
    folder: Path, model_type: str, *, kv_cache: str = "grown", precision: str = "fp32", **settings: Any
) -> tuple[Path, Entry]:
    model = build(model_type, folder / "model", "text-generation", **settings).folder
    made = convert(str(model), folder / "out", task="text-generation", kv_cache=kv_cache, precision=precision)
    return made.folder, read_entry(made.folder)


@pytest.mark.parametrize("model_type", ["gpt2", "gptj", "llama", "opt", "gpt_neox", "phi3"])
def test_a_plain_decoder_keeps_one_buffer(model_type: str, tmp_path: Path) -> None:
    folder, entry = entry_of(tmp_path, model_type, kv_cache="shared")
    assert entry.export["kv_cache"].startswith("shared")
    graph = onnx.load(str(folder / "1" / "model.onnx"), load_external_data=False).graph
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert len(attentions) == len(entry.details["layers"]) > 1
    names = {value.name for value in graph.input}
    assert {"seqlens_k", "total_sequence_length", "logits_to_keep"} <= names and "attention_mask" not in names
    assert all(line["worst_relative"] <= line["bound"] for line in entry.parity)
    assert sorted(path.name for path in (folder / "1").iterdir() if path.suffix == ".onnx") == ["model.onnx"]


@pytest.mark.parametrize(
    ("model_type", "settings", "why"),
    [
        ("bloom", {}, "softmax"),  # a slope over distance, added where a product of three is
        ("gpt_oss", {}, "softmax"),  # a place that takes weight and has no value
    ],
)
def test_another_attention_is_left_as_it_is_and_the_entry_says_why(
    model_type: str, settings: dict[str, Any], why: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, entry = entry_of(tmp_path, model_type, kv_cache="shared", **settings)
    assert entry.export["kv_cache"].startswith("grown, copied at each step:") and why in entry.export["kv_cache"]
    assert f"kv cache: {entry.export['kv_cache']}" in capfd.readouterr().err
    names = {tensor["name"] for tensor in entry.details["graph_inputs"]}
    assert "seqlens_k" not in names
    assert sorted(path.name for path in (folder / "1").iterdir() if path.suffix == ".onnx") == ["model.onnx"]


def test_who_wants_a_cache_that_grows_gets_it(tmp_path: Path) -> None:
    _, entry = entry_of(tmp_path, "gpt2", kv_cache="grown")
    assert "kv_cache" not in entry.export
    assert "attention_mask" in {tensor["name"] for tensor in entry.details["graph_inputs"]}


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16"])
def test_a_smaller_precision_is_compared_with_its_shared_cache(precision: str, tmp_path: Path) -> None:
    _, entry = entry_of(tmp_path, "llama", kv_cache="shared", precision=precision)
    assert entry.export["kv_cache"].startswith("shared")
    assert all(line["worst_relative"] <= line["bound"] for line in entry.parity)
    assert entry.details["precision"] == ("FP16" if precision == "fp16" else "FP32")


def test_a_window_is_found_and_kept(tmp_path: Path) -> None:
    folder, entry = entry_of(tmp_path, "mistral", kv_cache="shared", sliding_window=24)
    graph = onnx.load(str(folder / "1" / "model.onnx"), load_external_data=False).graph
    windows = {
        attribute.i
        for node in graph.node
        if node.op_type == "GroupQueryAttention"
        for attribute in node.attribute
        if attribute.name == "local_window_size"
    }
    assert windows == {24}
    assert entry.export["kv_cache"].startswith("shared")


class Mask:
    """Rewrites what is added to the scores of the first layer of an exported graph."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.entry = entry_of(folder, "gpt2", kv_cache="grown")
        self.path = self.folder / "1" / "model.onnx"
        self.model = onnx.load(str(self.path))

    def scaled(self, place: int, by: float) -> Path:
        """One entry of the weights of the softmax is multiplied: what a slope or a hole in the mask does."""
        softmax = next(node for node in self.model.graph.node if node.op_type == "Softmax")
        before = softmax.input[0]
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([by], np.float32), "more"))
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[[[place]]]], np.int64), "where"))
        shape = onnx.helper.make_node("Shape", [before], ["shape of scores"])
        nothing = onnx.helper.make_node("ConstantOfShape", ["shape of scores"], ["nothing"])
        index = onnx.helper.make_node("Expand", ["where", "column"], ["index"])
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 1, 1], np.int64), "column"))
        put = onnx.helper.make_node("ScatterElements", ["nothing", "index", "value"], ["bump"], axis=3)
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([[[[by]]]], np.float32), "value"))
        add = onnx.helper.make_node("Add", [before, "bump"], ["changed"])
        softmax.input[0] = "changed"
        nodes = list(self.model.graph.node)
        at = nodes.index(softmax)
        nodes[at:at] = [shape, nothing, index, put, add]
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        changed = self.path.with_name("changed.onnx")
        onnx.save(self.model, str(changed))
        return changed

    def capped(self, most: float) -> Path:
        """All scores of the layer go through `most * tanh(score / most)`, which small ones pass as they are."""
        makers = {name: node for node in self.model.graph.node for name in node.output}
        mask = makers[next(node for node in self.model.graph.node if node.op_type == "Softmax").input[0]]
        assert mask.op_type == "Add" and makers[mask.input[0]].op_type == "MatMul"
        self.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(most, np.float32), "most"))
        cap = [
            onnx.helper.make_node("Div", [mask.input[0], "most"], ["part"]),
            onnx.helper.make_node("Tanh", ["part"], ["bent"]),
            onnx.helper.make_node("Mul", ["bent", "most"], ["capped"]),
        ]
        nodes = list(self.model.graph.node)
        at = nodes.index(mask)
        mask.input[0] = "capped"
        nodes[at:at] = cap
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        changed = self.path.with_name("changed.onnx")
        onnx.save(self.model, str(changed))
        return changed

    def share(self, path: Path) -> None:
        details = self.entry.details
        share_cache(path, path.with_name("out.onnx"), details["layers"], details["context_length"], details["vocabulary"])


def test_a_mask_that_adds_anything_anywhere_is_refused(tmp_path: Path) -> None:
    mask = Mask(tmp_path)
    mask.share(mask.path)
    for number, by in enumerate((0.5, -1e9)):
        fresh = Mask(tmp_path / str(number))
        changed = fresh.scaled(0, by)
        with pytest.raises(CannotShare, match="expected"):
            fresh.share(changed)
        assert not changed.with_name("out.onnx").exists()


def test_scores_that_are_capped_are_refused_though_small_ones_are_as_they_were(tmp_path: Path) -> None:
    mask = Mask(tmp_path)
    with pytest.raises(CannotShare, match="expected large scores times a number"):
        mask.share(mask.capped(400.0))


def test_a_graph_that_looks_at_the_cache_elsewhere_is_refused(tmp_path: Path) -> None:
    folder, entry = entry_of(tmp_path, "gpt2", kv_cache="grown")
    path = folder / "1" / "model.onnx"
    model = onnx.load(str(path))
    model.graph.node.append(onnx.helper.make_node("ReduceMax", [entry.details["layers"][0]["past_key"]], ["more"], keepdims=0))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, []))
    onnx.save(model, str(path))
    with pytest.raises(CannotShare, match="attention alone to read the cache"):
        share_cache(path, path.with_name("out.onnx"), entry.details["layers"], 126, entry.details["vocabulary"])


def test_finding_leaves_nothing_behind_and_changes_nothing(tmp_path: Path) -> None:
    folder, entry = entry_of(tmp_path, "gpt2", kv_cache="grown")
    path = folder / "1" / "model.onnx"
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    share_cache(path, tmp_path / "out.onnx", entry.details["layers"], 126, entry.details["vocabulary"])
    assert (tmp_path / "out.onnx").exists()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_row_is_not_changed_by_the_rows_beside_it(tmp_path: Path) -> None:
    folder, entry = entry_of(tmp_path, "llama", kv_cache="shared")
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "1" / "model.onnx"
    alone, beside = SharedSession(path, entry.details, 1, 32), SharedSession(path, entry.details, 3, 32)
    beside.read(1, [[9, 8, 7, 6, 5, 4]])
    beside.read(2, [[40, 41]])
    assert np.array_equal(alone.read(0, [[11, 12, 13, 14]]), beside.read(0, [[11, 12, 13, 14]]))
    assert np.array_equal(alone.read(0, [[15]])[0], beside.read(0, [[15], [3], [42]])[0])
