"""Entries in smaller precisions, computed by our backends, in this process and through Triton."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control_plane.serving.replay import replay
from generate.cache import empty_cache
from generate.decode import Decoder
from opening.entry import EntryUnusable, open_entry
from tests.fixtures_triton import TritonServer, convert_model, tiny_model, triton_server
from tests.model_repository.calls import call_of

__all__ = ["triton_server"]

_BOUNDS = {"fp16": 2e-2, "int8": 1.6e-1, "int4": 6e-1}
"""As `converters/parity/compare.py` states them; what is measured on this model is ten times less."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("precision") / "model", "gpt2", "LMHeadModel")


@pytest.fixture(scope="module")
def entries(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("entries")
    grown = ("--kv-cache", "grown")
    return {
        precision: convert_model(model, out, "--precision", precision, *grown) for precision in ("fp16", "bf16", "int8", "int4")
    }


def empty_of(dtype: str) -> Any:
    return empty_cache([{"name": "past", "dtype": dtype, "axes": ["batch", 2, "past", 8]}], ["past"])["past"]


@pytest.mark.parametrize(("dtype", "told"), [("FP32", "tensor(float)"), ("FP16", "tensor(float16)"), ("BF16", "tensor(bfloat16)")])
def test_a_cache_begins_empty_in_the_graphs_own_dtype(dtype: str, told: str) -> None:
    value = empty_of(dtype)
    assert value.data_type() == told and list(value.shape()) == [1, 2, 0, 8]


def test_a_cache_of_another_dtype_is_refused_by_name() -> None:
    with pytest.raises(EntryUnusable, match=r"must be one of \['BF16', 'FP16', 'FP32'\], found 'FP64'"):
        empty_of("FP64")


def logits_of(model: Path, tokens: list[int]) -> Any:
    import torch
    import transformers

    with torch.inference_mode():
        reference = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
        return reference(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_our_loop_gives_float32_logits_near_pytorchs_whole_and_in_pieces(
    entries: dict[str, Path], model: Path, precision: str
) -> None:
    tokens = [5, 17, 200, 33, 4, 91]
    expected = logits_of(model, tokens)
    entry = open_entry(entries[precision])
    reading, found = Decoder(entry).begin(call_of(tokens[:3]))
    answers = {3: found, 4: reading.read(tokens[3:4]), 6: reading.read(tokens[4:])}
    for end, found in answers.items():
        assert found.dtype == np.float32
        assert np.abs(found - expected[end - 1]).max() < _BOUNDS[precision] * np.abs(expected).max()


@pytest.mark.slow
def test_a_bf16_graph_on_a_machine_without_a_gpu_says_what_it_is(entries: dict[str, Path]) -> None:
    with pytest.raises(EntryUnusable, match="precision bf16, cannot be opened"):
        open_entry(entries["bf16"])


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_triton_serves_it_and_it_answers_its_probes(entries: dict[str, Path], triton_server: TritonServer, precision: str) -> None:
    name = triton_server.install(entries[precision])
    lines = {line.output: line for line in replay(triton_server.client, name, entries[precision])}
    assert {"prompt_tokens", "completion_tokens"} <= set(lines)
    assert precision != "fp16" or "token_ids" in lines
