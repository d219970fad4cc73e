"""A plan is tied to the entry it was built from, to the GPU and to TensorRT; any change is found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from converters.entry import model_digest
from converters.errors import EntryBroken
from converters.tensorrt.profiles import profiles_of
from converters.tensorrt.statement import FILE, PLAN, Gpu, Statement, read_statement, state, verify, write_statement
from tests.converters.tensorrt.graphs import CACHED, write

A100, H100 = Gpu("NVIDIA A100-SXM4-80GB", "8.0"), Gpu("NVIDIA H100", "9.0")


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return write(tmp_path / "entry", CACHED, "text-generation", "fp16")


@pytest.fixture
def plan(entry: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "plan"
    (folder / "1").mkdir(parents=True)
    (folder / PLAN).write_bytes(b"plan" * 100)
    write_statement(folder, state(entry, folder / PLAN, A100, "10.9.0", "fp16", profiles_of(CACHED, 4)))
    return folder


def test_a_statement_says_what_the_plan_was_built_from(entry: Path, plan: Path) -> None:
    statement = verify(plan, entry, A100, "10.9.0")
    assert (statement.entry, statement.plan_bytes, statement.precision) == (model_digest(entry), 400, "fp16")
    assert sorted(statement.graphs) == ["1/model.onnx", "1/model.onnx_data"]
    assert Statement.from_json(statement.to_json()) == statement


def test_the_canonical_form_and_its_digest_never_change() -> None:
    made = Statement(
        entry="0x" + "5a" * 32,  # type: ignore[arg-type]  # a digest written out
        graphs={"1/model.onnx": "aa"},
        plan="bb",
        plan_bytes=3,
        gpu=A100,
        tensorrt="10.9.0",
        precision="fp16",
        profiles=(),
    )
    assert made.canonical() == (
        b'{"entry":"0x'
        + b"5a" * 32
        + b'","format":"posthuman/plan/v1","gpu":{"architecture":"8.0","name":"NVIDIA A100-SXM4-80GB"},'
        b'"graphs":{"1/model.onnx":"aa"},"plan":"bb","plan_bytes":3,"precision":"fp16","profiles":[],"tensorrt":"10.9.0"}'
    )
    assert made.digest() == "0xce51ab19a3ba95b4bf7d8b884043b29b8bcd091e70c9b2e2c745aedd85151c40"
    assert replace(made, tensorrt="10.9.1").digest() != made.digest()


def test_a_plan_whose_bytes_changed_is_found(plan: Path) -> None:
    (plan / PLAN).write_bytes(b"nalp" * 100)
    with pytest.raises(EntryBroken, match="plan is stated"):
        verify(plan)


def test_a_plan_that_was_cut_is_found(plan: Path) -> None:
    (plan / PLAN).write_bytes(b"plan")
    with pytest.raises(EntryBroken, match="plan_bytes is stated as 400, found 4"):
        verify(plan)


def test_a_plan_that_is_a_link_is_refused(plan: Path, tmp_path: Path) -> None:
    (plan / PLAN).rename(tmp_path / "elsewhere")
    (plan / PLAN).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EntryBroken, match="plain file"):
        verify(plan)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx_data"])
def test_a_plan_of_another_graph_is_found(entry: Path, plan: Path, name: str) -> None:
    (entry / "1" / name).write_bytes(b"another")
    with pytest.raises(EntryBroken, match="graphs"):
        verify(plan, entry)


def test_a_plan_of_the_same_graph_in_another_entry_is_found(entry: Path, plan: Path) -> None:
    (entry / "1" / "tokenizer.json").write_text("{}")
    with pytest.raises(EntryBroken, match="entry is stated"):
        verify(plan, entry)


def test_a_plan_for_another_gpu_or_tensorrt_is_found(plan: Path) -> None:
    with pytest.raises(EntryBroken, match=r"gpu architecture is stated as 8\.0, found 9\.0"):
        verify(plan, gpu=H100)
    with pytest.raises(EntryBroken, match=r"tensorrt is stated as 10\.9\.0, found 8\.6"):
        verify(plan, tensorrt="8.6")


@pytest.mark.parametrize("fault", ["missing", "not-json", "list", "spaces", "format", "extra", "short", "wrong-type"])
def test_a_statement_that_is_not_one_is_refused(plan: Path, fault: str) -> None:
    path = plan / FILE
    record = json.loads(path.read_bytes())
    texts = {
        "not-json": "{",
        "list": "[]",
        "spaces": json.dumps(record, sort_keys=True),
        "format": json.dumps({**record, "format": "posthuman/plan/v2"}),
        "extra": json.dumps({**record, "surprise": 1}),
        "short": json.dumps({key: value for key, value in record.items() if key != "gpu"}),
        "wrong-type": json.dumps({**record, "graphs": 1}),
    }
    if fault == "missing":
        path.unlink()
    else:
        path.write_text(texts[fault])
    with pytest.raises(EntryBroken, match=r"plan\.json"):
        read_statement(plan)
