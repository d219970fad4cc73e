"""Which route a model takes, and what is said when one fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from converters.errors import ConversionFailed, ParityFailed
from converters.export import routes
from converters.export.decoder_route import measured_cache
from converters.export.graphs import Graph
from converters.export.plain_inputs import sample_for
from converters.pipeline import convert
from converters.tasks import TASKS
from tests.converters.tiny_models import write_tokenizer

_SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}


def _saved(folder: Path, model: Any) -> str:
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    return str(folder)


def _attempts(monkeypatch: pytest.MonkeyPatch, folder: Path, *runs: Callable[[Path, Path], Mapping[str, Graph]]) -> routes.Attempts:
    named = [routes._Route(f"route {number}", f"why {number}", run) for number, run in enumerate(runs, 1)]
    monkeypatch.setattr(routes, "_routes", lambda *_: named)
    return routes.Attempts(None, "any", TASKS["text-generation"], folder / "scratch", folder)


def _fails(_scratch: Path, into: Path) -> Mapping[str, Graph]:
    (into / "model.onnx").write_bytes(b"half")
    raise ConversionFailed("export: no such operator")


def _gives(_scratch: Path, into: Path) -> Mapping[str, Graph]:
    assert not (into / "model.onnx").exists()
    return {"model": Graph(into / "model.onnx", [], [])}


def test_a_route_that_fails_is_named_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = _attempts(monkeypatch, tmp_path, _fails, _gives).export()
    assert exported.route == "route 2"
    assert exported.why == "route 1 failed: export: no such operator; so route 2"
    assert "route 1 failed: export: no such operator; trying route 2" in capsys.readouterr().err


def test_graphs_that_differ_lead_to_the_next_route(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    attempts = _attempts(monkeypatch, tmp_path, _gives, _gives)
    assert attempts.export().why == "why 1"
    attempts.refuse(ParityFailed("ONNX differs from PyTorch by 1.0e-01"))
    assert attempts.export().why == "route 1 failed: ONNX differs from PyTorch by 1.0e-01; so route 2"


def test_when_all_fail_every_cause_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConversionFailed, match=r"route 1 failed: export: no such operator; route 2 failed: export: no such"):
        _attempts(monkeypatch, tmp_path, _fails, _fails).export()


def test_the_only_route_fails_as_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    attempts = _attempts(monkeypatch, tmp_path, _gives)
    attempts.export()
    with pytest.raises(ParityFailed, match="differs"):
        attempts.refuse(ParityFailed("ONNX differs"))


def test_a_state_that_does_not_grow_is_no_key_value_cache() -> None:
    config = transformers.RwkvConfig(vocab_size=64, hidden_size=16, attention_hidden_size=16, num_hidden_layers=2)
    with pytest.raises(ConversionFailed, match="cache: expected"):
        measured_cache(transformers.RwkvForCausalLM(config).eval())


def test_a_table_of_words_of_its_own_kind_ends_the_route_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformer-XL's is several tables, and says no size."""
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=1)).eval()
    assert len(measured_cache(model).layers) == 1
    monkeypatch.setattr(model, "get_input_embeddings", torch.nn.Module)
    with pytest.raises(ConversionFailed, match="cache: expected keys and values of each layer, found AttributeError"):
        measured_cache(model)


def test_axes_that_pytorch_fixes_are_told_as_lengths() -> None:
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    (picture,) = sample_for(transformers.ViTForImageClassification(config).eval(), TASKS["image-classification"]).inputs
    assert picture["axes"] == ["batch_size", 3, 32, 32]
    names = ["input_ids", "attention_mask", "token_type_ids"]
    encoder = transformers.BertModel(transformers.BertConfig(**_SHAPE, max_position_embeddings=64)).eval()
    sample = sample_for(encoder, TASKS["feature-extraction"])
    assert [tensor["name"] for tensor in sample.inputs] == names
    assert all(tensor["axes"] == ["batch_size", "sequence_length"] for tensor in sample.inputs)


@pytest.mark.slow
def test_a_decoder_that_optimum_does_not_know_keeps_its_cache(tmp_path: Path) -> None:
    config = transformers.Starcoder2Config(**_SHAPE, **_ENDS, num_key_value_heads=2, max_position_embeddings=64)
    model = _saved(tmp_path / "model", transformers.Starcoder2ForCausalLM(config))
    entry = convert(model, tmp_path / "out").entry
    assert entry.export["route"] == "optimum, our configuration"
    assert (len(entry.details["layers"]), entry.details["kv_heads"], entry.details["head_size"]) == (2, 2, 8)


@pytest.mark.slow
def test_keys_and_values_of_two_sizes_are_served(tmp_path: Path) -> None:
    config = transformers.DeepseekV3Config(
        **_SHAPE,
        **_ENDS,
        max_position_embeddings=64,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        first_k_dense_replace=1,
        num_key_value_heads=4,
    )
    entry = convert(_saved(tmp_path / "model", transformers.DeepseekV3ForCausalLM(config)), tmp_path / "out").entry
    axes = {tensor["name"]: tensor["axes"] for tensor in entry.details["graph_inputs"]}
    assert (axes["past_key_values.0.key"][3], axes["past_key_values.0.value"][3]) == (16, 12)


@pytest.mark.slow
def test_a_recurrent_model_reads_the_whole_text_at_each_step(tmp_path: Path) -> None:
    config = transformers.MambaConfig(**_ENDS, vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4, use_mambapy=False)
    entry = convert(_saved(tmp_path / "model", transformers.MambaForCausalLM(config)), tmp_path / "out").entry
    assert entry.export["route"] == "torchscript"
    assert "cache: expected keys and values" in entry.export["why"]
    assert entry.details["layers"] == []


@pytest.mark.slow
def test_an_encoder_that_optimum_does_not_know_goes_through_dynamo(tmp_path: Path) -> None:
    config = transformers.LukeConfig(
        **_SHAPE, max_position_embeddings=64, type_vocab_size=1, pad_token_id=1, entity_vocab_size=8, entity_emb_size=8
    )
    entry = convert(_saved(tmp_path / "model", transformers.LukeModel(config)), tmp_path / "out").entry
    assert entry.export == {"route": "dynamo", "why": "optimum has no configuration for luke with feature-extraction"}
