"""Encoder-decoder models on their way to an entry: their settings, their weights, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converters.errors import ModelRefused, ParityFailed
from converters.export.graphs import Exported, Graph
from converters.export.shared_weights import WEIGHTS, share
from converters.graph import graph_tensors, refuse_external_data
from converters.offline import go_offline
from converters.pipeline import Converted, convert
from converters.tasks import task_of
from tests.converters.seq2seq_models import MODELS, tiny_seq2seq

EMBEDDING = np.arange(64 * 80, dtype=np.float32).reshape(80, 64)


def graph_with(path: Path, weights: dict[str, Any], nodes: list[Any]) -> Path:
    tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["length"])
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = helper.make_model(helper.make_graph(nodes, path.stem, [tokens], [found], initializers))
    model.ir_version = 9
    model.opset_import[0].version = 18
    onnx.save(model, str(path))
    return path


def two_graphs(folder: Path) -> list[Path]:
    """One looks up an embedding; the other does, twice under two names, and multiplies with it turned over."""
    folder.mkdir()
    first = graph_with(folder / "first.onnx", {"words": EMBEDDING}, [helper.make_node("Gather", ["words", "tokens"], ["found"])])
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["looked"]),
        helper.make_node("Gather", ["again", "tokens"], ["twice"]),
        helper.make_node("Add", ["looked", "twice"], ["sum"]),
        helper.make_node("MatMul", ["sum", "head"], ["found"]),
    ]
    weights = {"table": EMBEDDING, "again": EMBEDDING, "head": np.ascontiguousarray(EMBEDDING.T)}
    return [first, graph_with(folder / "second.onnx", weights, nodes)]


def answers(folder: Path) -> list[Any]:
    fed = {"tokens": np.array([3, 79, 0], np.int64)}
    return [onnxruntime.InferenceSession(str(folder / f"{name}.onnx")).run(None, fed)[0] for name in ("first", "second")]


def test_equal_weights_of_two_graphs_lie_once_and_give_the_same_numbers(tmp_path: Path) -> None:
    paths = two_graphs(tmp_path / "before")
    (tmp_path / "after").mkdir()
    share(paths, tmp_path / "after")
    for before, after in zip(answers(tmp_path / "before"), answers(tmp_path / "after"), strict=True):
        np.testing.assert_array_equal(before, after)
    total = sum(path.stat().st_size for path in (tmp_path / "after").iterdir())
    assert EMBEDDING.nbytes <= total < 1.2 * EMBEDDING.nbytes
    assert all(refuse_external_data(tmp_path / "after" / path.name, tmp_path / "after") == {WEIGHTS} for path in paths)


def test_sharing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = two_graphs(tmp_path / "before")
    (tmp_path / "after").mkdir()
    share(paths, tmp_path / "after")
    first = {path.name: path.read_bytes() for path in (tmp_path / "after").iterdir()}
    share(paths, tmp_path / "after")
    assert {path.name: path.read_bytes() for path in (tmp_path / "after").iterdir()} == first


def test_what_an_exporter_put_beside_a_graph_moves_into_the_one_file(tmp_path: Path) -> None:
    paths = two_graphs(tmp_path / "before")
    for path in paths:
        onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    (tmp_path / "after").mkdir()
    share(paths, tmp_path / "after")
    assert {path.name for path in (tmp_path / "after").iterdir()} == {"first.onnx", "second.onnx", WEIGHTS}
    for before, after in zip(answers(tmp_path / "before"), answers(tmp_path / "after"), strict=True):
        np.testing.assert_array_equal(before, after)


def test_graphs_without_a_common_weight_stay_whole(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["words", "tokens"], ["found"])]
    paths = [graph_with(tmp_path / f"{name}.onnx", {"words": EMBEDDING + shift}, nodes) for name, shift in (("a", 0), ("b", 1))]
    (tmp_path / "after").mkdir()
    share(paths, tmp_path / "after")
    assert {path.name for path in (tmp_path / "after").iterdir()} == {"a.onnx", "b.onnx"}


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        *((name, "text2text-generation") for name in ("T5ForConditionalGeneration", "MarianMTModel", "EncoderDecoderModel")),
        *((name, "text2text-generation") for name in ("UMT5ForConditionalGeneration", "BigBirdPegasusForConditionalGeneration")),
        *((name, "speech-to-text") for name in ("WhisperForConditionalGeneration", "SpeechEncoderDecoderModel")),
        *((name, "image-to-text") for name in ("VisionEncoderDecoderModel", "BlipForConditionalGeneration")),
        ("LlavaForConditionalGeneration", "tensors"),
    ],
)
def test_a_class_name_means_a_task(architecture: str, task: str) -> None:
    assert task_of((architecture,)).name == task


def test_whisper_begins_with_a_detected_language_a_task_and_no_timestamps() -> None:
    from converters.parity.generation_settings import token_plan

    model = MODELS["whisper"](suppress_tokens=[5, 400], begin_suppress_tokens=[6, 0])
    settings = model.generation_config
    settings.lang_to_id = {"<|en|>": 90, "<|de|>": 91}
    settings.task_to_id = {"transcribe": 100, "translate": 101}
    settings.no_timestamps_token_id = 103
    settings.forced_decoder_ids = [[1, None], [2, 100]]
    settings.suppress_tokens, settings.begin_suppress_tokens = [5, 400], [6, 0]
    assert token_plan(model, 320) == {
        "start_tokens": [2, [90, 91], 100, 103],
        "forced_first_token": None,
        "suppress_tokens": [5],
        "begin_suppress_tokens": [0, 6],
        "does_prompt_replace_start": False,
    }
    settings.forced_decoder_ids, settings.language, settings.task = None, "de", "translate"
    assert token_plan(model, 320)["start_tokens"] == [2, 91, 101, 103]


def test_bad_words_of_one_token_are_suppressed_and_longer_ones_refused() -> None:
    from converters.parity.generation_settings import token_plan

    model = MODELS["bart"]()
    model.generation_config.bad_words_ids = [[1], [0]]
    model.generation_config.forced_bos_token_id = 7
    plan = token_plan(model, 320)
    assert (plan["suppress_tokens"], plan["forced_first_token"]) == ([1], 7), "the end token stays, as transformers has it"
    model.generation_config.bad_words_ids = [[1, 2]]
    with pytest.raises(ModelRefused, match="bad_words_ids must be single tokens"):
        token_plan(model, 320)
    model.generation_config.bad_words_ids = None
    model.generation_config.forced_bos_token_id = 320
    with pytest.raises(ModelRefused, match="forced_bos_token_id must be below 320"):
        token_plan(model, 320)


def test_types_whose_generate_is_wrong_in_transformers_are_refused() -> None:
    import transformers

    from converters.export.seq2seq_modules import parts_of

    small = {"max_position_embeddings": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    fsmt = transformers.FSMTConfig(langs=["en", "de"], src_vocab_size=20, tgt_vocab_size=20, d_model=16, **small)
    with pytest.raises(ModelRefused, match="places every token of FSMT"):
        parts_of(transformers.FSMTForConditionalGeneration(fsmt))
    prophetnet = transformers.ProphetNetConfig(vocab_size=20, hidden_size=16, num_encoder_layers=1, num_decoder_layers=1, **small)
    with pytest.raises(ModelRefused, match="for a text of ProphetNet"):
        parts_of(transformers.ProphetNetForConditionalGeneration(prophetnet))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Converted]:
    made: dict[str, Converted] = {}

    def make(name: str, **more: Any) -> Converted:
        if name not in made:
            go_offline()
            folder = tmp_path_factory.mktemp(name)
            made[name] = convert(str(tiny_seq2seq(folder / f"tiny-{name}", name, **more)), folder / "out")
        return made[name]

    return make


@pytest.mark.slow
def test_no_weight_is_kept_twice(converted: Callable[..., Converted]) -> None:
    entry = converted("t5", tie_word_embeddings=True)
    seen: dict[bytes, str] = {}
    for role in ("encoder", "decoder"):
        model = onnx.load(str(entry.folder / "1" / f"{role}.onnx"), load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL or np.prod(tensor.dims) < 256:
                continue
            array = numpy_helper.to_array(tensor)
            for form in {array.tobytes(), array.T.tobytes()}:
                assert form not in seen, f"{tensor.name} of the {role} is {seen[form]}"
            seen[array.tobytes()] = f"{tensor.name} of the {role}"
    embedding = (entry.folder / "1" / WEIGHTS).stat().st_size
    assert embedding == 320 * 32 * 4, "one embedding for what is read, what is written, and what is scored"


@pytest.mark.slow
def test_an_entry_says_what_was_compared_and_holds_certain_tokens(converted: Callable[..., Converted]) -> None:
    made = converted("speech")
    assert [line["output"] for line in made.entry.parity] == ["encoder_hidden_states", "logits", "greedy"]
    assert all(line["worst_relative"] <= line["bound"] for line in made.entry.parity)
    assert {size[0] for size in made.entry.parity[1]["sizes"]} == {1, 2, 3}
    details = made.entry.details
    assert (details["encoder_input"], details["sampling_rate"], details["start_tokens"]) == ("input_features", 16_000, [2])
    assert "encoder_attention_mask" in details["carried"]
    probes = json.loads((made.folder / "probes.json").read_text())["probes"]
    assert all("token_ids" in {tensor["name"] for tensor in probe["outputs"]} for probe in probes)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "output"), [("encoder", "encoder_hidden_states"), ("decoder", "logits")])
def test_a_graph_with_one_wrong_weight_is_refused(
    converted: Callable[..., Converted], tmp_path: Path, role: str, output: str
) -> None:
    from transformers import AutoModelForSpeechSeq2Seq

    from converters.parity.seq2seq import check_seq2seq

    made = converted("speech")
    shutil.copytree(made.folder / "1", tmp_path / "1")
    path = tmp_path / "1" / f"{role}.onnx"
    model = onnx.load(str(path))
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [32, 64])
    array = numpy_helper.to_array(weight).copy()
    array[:] = array[::-1]
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, str(path))
    names = ("encoder", "decoder")
    graphs = {name: Graph(tmp_path / "1" / f"{name}.onnx", *graph_tensors(tmp_path / "1" / f"{name}.onnx")) for name in names}
    source = AutoModelForSpeechSeq2Seq.from_pretrained(made.folder.parent.parent / "tiny-speech").eval()
    with pytest.raises(ParityFailed, match=output):
        check_seq2seq(source, Exported("", "", graphs), made.entry.details, 1e-4)


@pytest.mark.slow
def test_a_model_for_images_without_their_processor_is_refused(tmp_path: Path) -> None:
    go_offline()
    folder = tiny_seq2seq(tmp_path / "model", "sight")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelRefused, match="preprocessor_config"):
        convert(str(folder), tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Moving the following attributes")  # transformers says where it saves the setting
def test_a_last_token_that_the_settings_force_stops_no_conversion(tmp_path: Path) -> None:
    """Published BARTs state one; what `generate` is compared with leaves it out, and so must `generate`."""
    from converters.coverage.shapes import build

    folder = build("bart", tmp_path / "bart", "text2text-generation").folder
    assert json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["forced_eos_token_id"] == 0
    assert convert(str(folder), tmp_path / "out").entry.task == "text2text-generation"
