"""Whole conversions of tiny models: every family and task, the same bytes again, and what happens when something is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import transformers
from onnxruntime import InferenceSession
from tokenizers import Tokenizer

from converters.entry import model_digest, read_entry, triton_name
from converters.errors import ConversionFailed, EntryBroken, ModelRefused, WeightsBroken
from converters.pipeline import Converted, convert
from converters.probes import read_probes
from converters.weights_folder import weights_digest, weights_name
from tests.converters.tiny_models import tiny_model

pytestmark = pytest.mark.slow

SHARED_KEYS = {
    "model",
    "tokenizer",
    "add_special_tokens",
    "context_length",
    "vocabulary",
    "pad_token_id",
    "padding_side",
    "graph_inputs",
    "graph_outputs",
}
KEYS = {
    "text-generation": {
        "eos_token_ids",
        "bos_token_id",
        "layers",
        "chat_template",
        "kv_heads",
        "head_size",
        "defaults",
        "precision",
    },
    "feature-extraction": {"output", "pooling", "normalize", "dimensions"},
    "text-classification": {"output", "labels", "activation"},
    "zero-shot-classification": {"output", "entailment", "contradiction", "hypothesis_template"},
    "token-classification": {"output", "labels"},
    "fill-mask": {"output", "mask_token", "mask_token_id"},
    "question-answering": {"start_output", "end_output", "max_answer_tokens"},
    "multiple-choice": {"output"},
}
DECODERS = ("gpt2", "gptj", "gpt_neo", "gpt_neox", "opt", "llama", "qwen2", "mistral")
ENCODERS = ("bert", "distilbert", "roberta")


def head_of(decoder: str) -> str:
    return "LMHeadModel" if decoder == "gpt2" else "ForCausalLM"


def greedy(converted: Converted, text: str, count: int) -> list[int]:
    """Greedy tokens by the entry alone: its tokenizer, its graph, its details; written here a second time, as a backend would."""
    details = converted.entry.details
    session = InferenceSession(str(converted.folder / details["model"]), providers=["CPUExecutionProvider"])
    encoded = Tokenizer.from_file(str(converted.folder / details["tokenizer"])).encode(
        text, add_special_tokens=details["add_special_tokens"]
    )
    empty = numpy.zeros((1, details["kv_heads"], 0, details["head_size"]), numpy.float32)
    cache = {layer[f"past_{kind}"]: empty for layer in details["layers"] for kind in ("key", "value")}
    names = {tensor["name"] for tensor in details["graph_inputs"]}
    outputs = [tensor["name"] for tensor in details["graph_outputs"]]
    ids, tokens, seen = [list(encoded.ids)], [], 0
    while len(tokens) < count:
        total = seen + len(ids[0])
        feeds = {
            "input_ids": numpy.array(ids, numpy.int64),
            "attention_mask": numpy.ones((1, total), numpy.int64),
            "position_ids": numpy.arange(seen, total, dtype=numpy.int64)[None],
            # Of a graph whose cache may be shared; here each step gives another.
            "seqlens_k": numpy.array([total - 1], numpy.int32),
            "total_sequence_length": numpy.array([total], numpy.int32),
            "logits_to_keep": numpy.array([1], numpy.int64),
        }
        given = dict(zip(outputs, session.run(None, {**{n: v for n, v in feeds.items() if n in names}, **cache}), strict=True))
        tokens.append(int(given["logits"][0, -1].argmax()))
        cache = {layer[f"past_{kind}"]: given[layer[f"present_{kind}"]] for layer in details["layers"] for kind in ("key", "value")}
        ids, seen = [[tokens[-1]]], total
    return tokens


def transformers_greedy(folder: Path, text: str, count: int) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    given = tokenizer(text, return_tensors="pt")
    made = model.generate(
        given["input_ids"],
        attention_mask=given["attention_mask"],
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(token) for token in made[0, given["input_ids"].shape[1] :]]


def test_an_entry_is_whole_and_named_for_its_digest(gpt2_entry: Converted) -> None:
    assert read_entry(gpt2_entry.folder) == gpt2_entry.entry
    assert gpt2_entry.digest == model_digest(gpt2_entry.folder) and gpt2_entry.folder.name == triton_name(gpt2_entry.digest)
    files = sorted(str(path.relative_to(gpt2_entry.folder)) for path in gpt2_entry.folder.rglob("*") if path.is_file())
    assert files == ["1/model.onnx", "1/tokenizer.json", "entry.json", "probes.json"]
    assert sorted(path.name for path in gpt2_entry.folder.parent.iterdir()) == [gpt2_entry.folder.name]
    assert list(gpt2_entry.stages) == ["fetch", "scan", "start", "load", "export", "parity", "probes", "entry"]


def test_an_entry_says_where_it_came_from_without_a_path_or_a_time(gpt2_entry: Converted, tiny_gpt2: Path) -> None:
    source = gpt2_entry.entry.source
    assert (source["id"], source["revision"], source["licence"]) == ("tiny-gpt2", None, "apache-2.0")
    assert set(source["files"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    for name in ("entry.json", "1/model.onnx", "1/tokenizer.json"):
        content = (gpt2_entry.folder / name).read_bytes()
        assert str(tiny_gpt2.parent).encode() not in content and str(gpt2_entry.folder.parent).encode() not in content


def test_the_same_model_gives_the_same_digest_again(gpt2_entry: Converted, tiny_gpt2: Path, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(tiny_gpt2, tmp_path / "somewhere" / "tiny-gpt2")
    again = convert(str(elsewhere), tmp_path / "out")
    assert again.digest == gpt2_entry.digest and again.is_new


def test_an_entry_that_is_there_is_kept_and_a_changed_one_is_refused(
    tiny_gpt2: Path, gpt2_entry: Converted, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    copy = shutil.copytree(gpt2_entry.folder, out / gpt2_entry.folder.name)
    before = (copy / "1" / "model.onnx").stat().st_ino
    again = convert(str(tiny_gpt2), out)
    assert (again.folder, again.is_new) == (copy, False) and (copy / "1" / "model.onnx").stat().st_ino == before
    with (copy / "1" / "model.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(EntryBroken, match="changed"):
        convert(str(tiny_gpt2), out)


def test_what_a_killed_run_left_is_removed_and_a_running_one_is_not(tiny_gpt2: Path, tmp_path: Path) -> None:
    import fcntl
    import os

    out = tmp_path / "out"
    (out / ".converting-dead" / "entry").mkdir(parents=True)
    (out / ".converting-alive").mkdir()
    held = os.open(out / ".converting-alive", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        convert(str(tiny_gpt2), out)
        assert sorted(path.name for path in out.glob(".converting-*")) == [".converting-alive"]
    finally:
        os.close(held)


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_family_converts_and_writes_what_transformers_writes(family: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / family, family, head_of(family), initializer_range=0.5)
    converted = convert(str(folder), tmp_path / "out")
    entry = converted.entry
    assert (entry.task, entry.backend, set(entry.details)) == ("text-generation", "generate", SHARED_KEYS | KEYS["text-generation"])
    assert len(entry.details["layers"]) == 2 and entry.details["context_length"] == 64
    text = "The market sells"
    assert greedy(converted, text, 32) == transformers_greedy(folder, text, 32)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("Model", "feature-extraction"),
        ("ForSequenceClassification", "text-classification"),
        ("ForTokenClassification", "token-classification"),
        ("ForMaskedLM", "fill-mask"),
        ("ForQuestionAnswering", "question-answering"),
        ("ForMultipleChoice", "multiple-choice"),
    ],
)
def test_every_encoder_family_converts_for_every_task(family: str, head: str, task: str, tmp_path: Path) -> None:
    converted = convert(str(tiny_model(tmp_path / "model", family, head, words=True, pad_token_id=0)), tmp_path / "out")
    entry = converted.entry
    assert (entry.task, entry.backend, set(entry.details)) == (task, "predict", SHARED_KEYS | KEYS[task])
    assert entry.details["context_length"] == 64 and all(line["worst_relative"] <= line["bound"] for line in entry.parity)
    assert len(read_probes(converted.folder)) >= 3 and (converted.folder / "probes.json").stat().st_size < 300_000


@pytest.mark.parametrize(("family", "head"), [("gpt2", "Model"), ("gpt2", "ForSequenceClassification"), ("llama", "Model")])
def test_a_decoder_can_serve_the_other_tasks(family: str, head: str, tmp_path: Path) -> None:
    overrides = {"pad_token_id": 1} if head == "ForSequenceClassification" else {}
    converted = convert(str(tiny_model(tmp_path / "model", family, head, **overrides)), tmp_path / "out")
    assert converted.entry.backend == "predict" and "layers" not in converted.entry.details


def test_an_embedding_states_mean_pooling_and_normalising_when_the_model_says_nothing(bert_entry: Converted) -> None:
    details = bert_entry.entry.details
    assert (details["pooling"], details["normalize"], details["dimensions"]) == ("mean", True, 32)
    assert bert_entry.entry.outputs[0].shape == (-1, 32)


def describe_pooling(folder: Path, mode: str, *, normalize: bool, extra: tuple[str, ...] = ()) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else []), *extra]
    modules = [
        {
            "idx": place,
            "name": str(place),
            "path": "" if place == 0 else f"{place}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for place, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48}))


@pytest.mark.parametrize(
    ("mode", "normalize", "stated"), [("cls_token", False, "cls"), ("lasttoken", True, "last"), ("mean_tokens", True, "mean")]
)
def test_sentence_transformers_own_description_is_followed(
    tiny_bert: Path, tmp_path: Path, mode: str, normalize: bool, stated: str
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    describe_pooling(folder, mode, normalize=normalize)
    details = convert(str(folder), tmp_path / "out").entry.details
    assert (details["pooling"], details["normalize"], details["context_length"]) == (stated, normalize, 48)


@pytest.mark.parametrize(
    ("mode", "extra", "named"),
    [("max_tokens", (), "pooling_mode_max_tokens"), ("mean_tokens", ("Dense",), "Dense"), ("nothing", (), "1_Pooling")],
)
def test_a_pooling_we_would_have_to_approximate_is_refused(
    tiny_bert: Path, tmp_path: Path, mode: str, extra: tuple[str, ...], named: str
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    describe_pooling(folder, mode, normalize=True, extra=extra)
    with pytest.raises(ModelRefused, match=named):
        convert(str(folder), tmp_path / "out")


def test_a_module_of_somebody_elses_is_code_and_refused(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.module.Transformer"}]))
    with pytest.raises(ModelRefused, match="that is code"):
        convert(str(folder), tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "labels", "activation"),
    [
        ({"id2label": {0: "no", 1: "yes", 2: "maybe"}}, ["no", "yes", "maybe"], "softmax"),
        ({"problem_type": "multi_label_classification"}, ["LABEL_0", "LABEL_1"], "sigmoid"),
        ({"problem_type": "regression", "num_labels": 1}, ["LABEL_0"], "none"),
        ({"num_labels": 1}, ["LABEL_0"], "sigmoid"),
    ],
)
def test_labels_and_activation_are_those_of_transformers_pipeline(
    tmp_path: Path, overrides: dict[str, Any], labels: list[str], activation: str
) -> None:
    folder = tiny_model(tmp_path / "model", "bert", "ForSequenceClassification", **overrides)
    entry = convert(str(folder), tmp_path / "out").entry
    assert (entry.details["labels"], entry.details["activation"]) == (labels, activation)
    assert entry.outputs[0].shape == (-1, len(labels))


def test_half_precision_weights_are_served_in_float32(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "gpt2", "LMHeadModel")
    transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(folder)
    entry = convert(str(folder), tmp_path / "out").entry
    assert entry.precision == "fp32" and {tensor["dtype"] for tensor in entry.details["graph_outputs"]} == {"FP32"}


def test_sharded_weights_convert_to_the_same_graph(tiny_gpt2: Path, gpt2_entry: Converted, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_gpt2, tmp_path / "tiny-gpt2")
    (folder / "model.safetensors").unlink()
    transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2).save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").exists() and len(list(folder.glob("model-*.safetensors"))) > 1
    sharded = convert(str(folder), tmp_path / "out")
    assert (sharded.folder / "1" / "model.onnx").read_bytes() == (gpt2_entry.folder / "1" / "model.onnx").read_bytes()


def test_large_weights_lie_beside_the_graph_and_nowhere_else(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # optimum's own switch stands in for weights past 2 GB.
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    converted = convert(str(tiny_gpt2), tmp_path / "out")
    assert sorted(path.name for path in (converted.folder / "1").iterdir()) == ["model.onnx", "model.onnx_data", "tokenizer.json"]
    assert len(greedy(converted, "The market", 4)) == 4


def test_weights_that_lack_a_tensor_are_refused_and_not_drawn_at_random(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "bert", "Model")
    with pytest.raises(ModelRefused, match="missing"):
        convert(str(folder), tmp_path / "out", task="text-classification")


def test_a_type_the_exporter_does_not_know_is_refused(tmp_path: Path, tiny_gpt2: Path) -> None:
    folder = shutil.copytree(tiny_gpt2, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    with pytest.raises(ModelRefused, match="nobody_knows"):
        convert(str(folder), tmp_path / "out")


def test_weights_of_another_size_are_refused_and_leave_nothing(tmp_path: Path, tiny_gpt2: Path) -> None:
    folder = shutil.copytree(tiny_gpt2, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 64}))
    with pytest.raises((ModelRefused, ConversionFailed)):
        convert(str(folder), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tokenizer_that_truncates_does_not_in_the_entry(tiny_bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    converted = convert(str(folder), tmp_path / "out")
    written = Tokenizer.from_file(str(converted.folder / "1" / "tokenizer.json"))
    assert written.truncation is None and written.padding is None
    assert len(written.encode("one two three four five six seven eight").ids) > 4


def test_a_tokenizer_of_vocabulary_and_merges_becomes_one_file(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "gpt2", "LMHeadModel")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    described = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<end>", "bos_token": "<end>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    converted = convert(str(folder), tmp_path / "out")
    assert greedy(converted, "The market sells", 8) == transformers_greedy(folder, "The market sells", 8)


def test_a_trained_gpt2_writes_what_transformers_writes_token_for_token(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "gpt2-wikitext-mini"
    converted = convert(str(folder), tmp_path / "out")
    for text in ("The game was", " = History =", "In the summer of 1994 ,"):
        assert greedy(converted, text, 64) == transformers_greedy(folder, text, 64)


def test_the_checked_copy_is_kept_for_training_and_gives_the_same_entry_again(tiny_gpt2: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_gpt2, tmp_path / "model"))
    (model / "notes.txt").write_text("not a part of the model")
    first = convert(str(model), tmp_path / "out", name="tiny", keep_weights=tmp_path / "kept")
    assert first.weights is not None
    assert first.weights.folder == tmp_path / "kept" / weights_name(first.weights.digest)
    assert weights_digest(first.weights.folder) == first.weights.digest
    staged = {path.relative_to(first.weights.folder).as_posix() for path in first.weights.folder.rglob("*") if path.is_file()}
    assert staged == set(first.entry.source["files"])
    assert "notes.txt" not in staged
    (model / "model.safetensors").write_bytes(b"changed by its owner meanwhile")
    moved = Path(shutil.copytree(first.weights.folder, tmp_path / "again" / "model"))
    again = convert(str(moved), tmp_path / "out", name="tiny", keep_weights=tmp_path / "kept")
    assert (again.digest, again.weights) == (first.digest, first.weights)
    assert convert(str(moved), tmp_path / "out", name="tiny").weights is None


def test_what_a_model_was_trained_from_is_in_its_entry(tiny_gpt2: Path, tmp_path: Path, gpt2_entry: Converted) -> None:
    derived = convert(str(tiny_gpt2), tmp_path, parents=(gpt2_entry.digest,))
    assert read_entry(derived.folder).parents == (gpt2_entry.digest,)
    assert derived.digest != gpt2_entry.digest


def test_weights_that_lie_changed_under_their_name_are_not_taken_for_them(tiny_gpt2: Path, tmp_path: Path) -> None:
    first = convert(str(tiny_gpt2), tmp_path / "out", keep_weights=tmp_path / "kept")
    assert first.weights is not None
    (first.weights.folder / "config.json").write_text("{}")
    with pytest.raises(WeightsBroken, match="remove the folder"):
        convert(str(tiny_gpt2), tmp_path / "other", keep_weights=tmp_path / "kept")
    assert not list((tmp_path / "other").glob("m-*"))
