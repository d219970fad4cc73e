"""Entries in each precision, converted as a publisher would: what they state, and that they are other entries."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from converters.entry import PRECISIONS
from converters.errors import ModelRefused, ParityFailed
from converters.parity.compare import BOUNDS
from converters.pipeline import Converted, convert
from converters.probes import read_probes
from tests.converters.tiny_models import tiny_model

REDUCED = [precision for precision in PRECISIONS if precision != "fp32"]


@pytest.fixture(scope="module")
def reduced(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    out = tmp_path_factory.mktemp("reduced")
    return {precision: convert(str(tiny_gpt2), out, precision=precision) for precision in REDUCED}


def test_each_precision_has_a_bound() -> None:
    assert set(BOUNDS) == set(PRECISIONS)


def test_a_precision_we_do_not_have_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="precision: expected one of fp32, fp16, bf16, int8, int4, found 'fp8'"):
        convert("no/such-model@" + "0" * 40, tmp_path, precision="fp8")


@pytest.mark.slow
def test_each_precision_is_another_entry_and_says_so(reduced: dict[str, Converted], gpt2_entry: Converted) -> None:
    digests = {gpt2_entry.digest, *(made.digest for made in reduced.values())}
    assert len(digests) == len(PRECISIONS)
    for precision, made in reduced.items():
        stated = json.loads((made.folder / "entry.json").read_text(encoding="utf-8"))
        assert stated["precision"] == stated["export"]["precision"]["precision"] == precision
        assert stated["export"]["precision"]["verified"].startswith("on a CPU")
        assert stated["source"] == gpt2_entry.entry.to_json()["source"]
        assert {line["bound"] for line in stated["parity"]} == {BOUNDS[precision], 2 * BOUNDS[precision]}


@pytest.mark.slow
def test_a_full_entry_states_no_quality_and_a_reduced_one_its_loss(reduced: dict[str, Converted], gpt2_entry: Converted) -> None:
    assert gpt2_entry.entry.quality == ()
    for made in reduced.values():
        (line,) = made.entry.quality
        assert (line["measure"], line["unit"], line["on"]) == ("loss", "nats a token", "posthuman/passage/v1")
        assert abs(line["value"] - line["full_precision"]) < 0.5 and line["samples"] > 500


@pytest.mark.slow
def test_only_half_precision_changes_the_caches_dtype_and_no_answer_changes_its(reduced: dict[str, Converted]) -> None:
    caches = {precision: made.entry.details["precision"] for precision, made in reduced.items()}
    assert caches == {"fp16": "FP16", "bf16": "BF16", "int8": "FP32", "int4": "FP32"}
    for precision, made in reduced.items():
        listed = {
            tensor["name"]: tensor["dtype"] for tensor in made.entry.details["graph_inputs"] + made.entry.details["graph_outputs"]
        }
        assert listed["logits"] == "FP32"
        assert listed["past_key_values.0.key"] == listed["present.1.value"] == caches[precision]


@pytest.mark.slow
def test_an_entry_holds_the_graph_it_serves_and_no_other(reduced: dict[str, Converted]) -> None:
    for precision, made in reduced.items():
        assert sorted(path.name for path in made.folder.rglob("*.onnx*")) == ["model.onnx"]
        facts = made.entry.export["precision"]
        assert facts["bytes"] == (made.folder / "1" / "model.onnx").stat().st_size < facts["full_precision_bytes"]
        operators = {node.op_type for node in onnx.load(str(made.folder / "1" / "model.onnx")).graph.node}
        assert ("MatMulNBits" in operators) == precision.startswith("int")


@pytest.mark.slow
def test_the_same_model_gives_the_same_entry_again(reduced: dict[str, Converted], tiny_gpt2: Path, tmp_path: Path) -> None:
    for precision in ("fp16", "int4"):
        again = convert(str(tiny_gpt2), tmp_path / precision, precision=precision)
        assert again.digest == reduced[precision].digest


@pytest.mark.slow
def test_probes_promise_only_tokens_that_the_precision_keeps(reduced: dict[str, Converted]) -> None:
    promised = {}
    for precision, made in reduced.items():
        outputs = [{tensor.name for tensor in probe.outputs} for probe in read_probes(made.folder)]
        assert len(outputs) >= 3 and all({"prompt_tokens", "completion_tokens"} <= names for names in outputs)
        promised[precision] = sum("token_ids" in names for names in outputs)
    assert promised["fp16"] == 3


@pytest.mark.slow
def test_weights_that_fp16_cannot_hold_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "wide", "bert", "Model", initializer_range=1e5)
    with pytest.raises((ModelRefused, ParityFailed), match=r"expected values up to 65504|differs from PyTorch"):
        convert(str(model), tmp_path / "out", precision="fp16")
    assert not list((tmp_path / "out").glob("m-*"))


@pytest.mark.slow
def test_a_model_without_a_matrix_to_quantise_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "narrow", "bert", "Model", hidden_size=16, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ModelRefused, match="precision int8: expected matrix multiplications with constant weights of 32 rows"):
        convert(str(model), tmp_path / "out", precision="int8")
