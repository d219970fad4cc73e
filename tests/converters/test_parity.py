"""Parity finds what it is there to find: changed weights, a wrong cache, wrong padding; and passes honest noise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import ParityFailed
from converters.parity.causal import check_causal
from converters.parity.compare import BOUNDS, round_up
from converters.parity.shared import check_shared
from converters.parity.text import check_text
from converters.parity.texts import sizes_for
from converters.pipeline import Converted, convert
from converters.pooling import Pooling, pool
from converters.tasks import TASKS
from converters.tasks.generation import LENGTHS
from tests.converters.tiny_models import tiny_model

pytestmark = pytest.mark.slow


def check(converted: Converted, model: Any, **changed: Any) -> Any:
    details = {**converted.entry.details, **changed}
    path, task = converted.folder / "1" / "model.onnx", TASKS[converted.entry.task]
    if task.kind == "causal":
        is_shared = any(tensor["name"] == LENGTHS for tensor in details["graph_inputs"])
        return (check_shared if is_shared else check_causal)(model.eval(), path, details, BOUNDS["fp32"])
    return check_text(model.eval(), path, task, details, BOUNDS["fp32"])


@pytest.fixture(scope="module", params=["shared", "grown"])
def decoder(request: pytest.FixtureRequest, tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    made = convert(str(tiny_gpt2), tmp_path_factory.mktemp("decoder"), kv_cache=request.param)
    assert made.entry.export.get("kv_cache", "grown").startswith(request.param)
    return made


def quantise(weight: Any) -> None:
    """Round to 8 bits and back, one scale for the whole matrix: what a cheaper model served in secret would do."""
    scale = weight.data.abs().max() / 127
    weight.data = (weight.data / scale).round() * scale


def test_an_honest_export_is_far_below_the_bound(gpt2_entry: Converted, bert_entry: Converted) -> None:
    for line in (*gpt2_entry.entry.parity, *bert_entry.entry.parity):
        assert 0 <= line["worst_relative"] <= line["bound"] / 20
    assert [line["output"] for line in gpt2_entry.entry.parity] == ["logits", "greedy"]
    assert [line["output"] for line in bert_entry.entry.parity] == ["last_hidden_state", "embedding"]


def test_sizes_are_not_the_traced_ones_and_reach_the_whole_context(gpt2_entry: Converted, tiny_gpt2: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    sizes = sizes_for(model, gpt2_entry.entry.details)
    assert (2, 16) not in sizes and {batch for batch, _ in sizes} == {1, 2, 3} and (1, 64) in sizes
    assert all(length <= 64 for _, length in sizes)


def test_weights_in_8_bits_fail_and_the_failure_names_output_difference_and_bound(decoder: Converted, tiny_gpt2: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    for layer in model.transformer.h:
        quantise(layer.mlp.c_fc.weight)
    with pytest.raises(ParityFailed, match=r"by \d\.\de-\d\d .* output 'logits', batch 1, sequence 1; bound is 1\.0e-04"):
        check(decoder, model)


def test_one_changed_weight_fails(bert_entry: Converted, tiny_bert: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_bert)
    model.encoder.layer[0].intermediate.dense.weight.data[3, 3] += 1.0
    with pytest.raises(ParityFailed, match="last_hidden_state"):
        check(bert_entry, model)


def test_a_model_that_gives_nan_fails(bert_entry: Converted, tiny_bert: Path) -> None:
    model = transformers.AutoModel.from_pretrained(tiny_bert)
    model.encoder.layer[1].output.LayerNorm.bias.data[:] = math.nan
    with pytest.raises(ParityFailed, match="nan"):
        check(bert_entry, model)


def test_keys_and_values_that_are_mixed_up_fail(decoder: Converted, tiny_gpt2: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    layers = [
        {**layer, "past_key": layer["past_value"], "past_value": layer["past_key"]} for layer in decoder.entry.details["layers"]
    ]
    with pytest.raises(ParityFailed, match="sequence 7"):
        check(decoder, model, layers=layers)


def test_layers_in_another_order_fail(gpt2_entry: Converted, tiny_gpt2: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    first, second = gpt2_entry.entry.details["layers"]
    mixed = [{**first, "past_key": second["past_key"]}, {**second, "past_key": first["past_key"]}]
    with pytest.raises(ParityFailed, match="logits"):
        check(gpt2_entry, model, layers=mixed)


def test_a_graph_of_another_model_of_the_same_kind_fails(gpt2_entry: Converted, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", "gpt2", "LMHeadModel", seed=1)
    with pytest.raises(ParityFailed, match="logits"):
        check(gpt2_entry, transformers.AutoModelForCausalLM.from_pretrained(other))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_passes_for_an_encoder(bert_entry: Converted, tiny_bert: Path, side: str) -> None:
    assert check(bert_entry, transformers.AutoModel.from_pretrained(tiny_bert), padding_side=side)


def test_a_context_longer_than_the_models_tables_fails(bert_entry: Converted, tiny_bert: Path) -> None:
    with pytest.raises(ParityFailed, match=r"size \(1, 65\)"):
        check(bert_entry, transformers.AutoModel.from_pretrained(tiny_bert), context_length=65)


def test_a_graph_that_does_not_run_fails(gpt2_entry: Converted, tiny_gpt2: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    with pytest.raises(ParityFailed, match="cannot run the graph"):
        check(gpt2_entry, model, layers=gpt2_entry.entry.details["layers"][:1])
    with pytest.raises(ParityFailed, match="cannot load the graph"):
        check_causal(model.eval(), gpt2_entry.folder / "entry.json", gpt2_entry.entry.details, BOUNDS["fp32"])


def test_the_bound_is_stated_for_each_precision_that_is_made(gpt2_entry: Converted) -> None:
    assert BOUNDS[gpt2_entry.entry.precision] == gpt2_entry.entry.parity[0]["bound"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", ["mean", "cls", "last"])
def test_pooling_of_a_padded_row_is_that_of_the_row_alone(mode: str, side: str) -> None:
    vectors = numpy.random.default_rng(1).normal(size=(2, 5, 4)).astype(numpy.float32)
    mask = numpy.ones((2, 5), numpy.int64)
    kept = slice(2, None) if side == "left" else slice(0, 3)
    mask[1] = 0
    mask[1, kept] = 1
    pooling = Pooling(mode, normalize=True, length_limit=None)
    alone = pool(vectors[1:, kept], numpy.ones((1, 3), numpy.int64), pooling)
    # One float32 rounding of a sum of three, twice.
    assert numpy.abs(pool(vectors, mask, pooling)[1] - alone[0]).max() < 5e-7
    assert abs(float(numpy.linalg.norm(alone)) - 1) < 5e-7


@given(st.floats(1e-30, 1e30))
def test_a_difference_is_rounded_up_to_one_two_or_five(value: float) -> None:
    rounded = round_up(value)
    assert value <= rounded * (1 + 1e-9) and rounded <= value * 2.5 * (1 + 1e-9)
    assert f"{rounded:.0e}"[0] in "125" and round_up(rounded) == rounded
