"""An entry's probes, asked of the server that serves it: what must be equal, and what may differ and by how much."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from control_plane.database import metadata, open_database
from control_plane.did import Bytes32
from control_plane.errors import Refused, Unavailable
from control_plane.flows.publish import publish
from control_plane.serving import oip
from control_plane.serving.catalogue import Catalogue, write_config
from control_plane.serving.replay import replay
from converters.entry import model_digest, read_entry, triton_name
from converters.probes import Probe, ProbeTensor, texts, write_probes
from tests.fixtures_chain import simulated_chain
from tests.fixtures_market import make_entry
from tests.fixtures_publish import open_stand
from tests.fixtures_triton import Converted, TritonServer, convert_model, tiny_gpt2, triton_server
from tests.simulators.inference import SimulatedServer

__all__ = ["tiny_gpt2", "triton_server"]


def numbers(name: str, dtype: str, *values: float) -> ProbeTensor:
    return ProbeTensor(name, dtype, (len(values),), oip.pack(dtype, values))


ASKED = (texts("text_input", ["the model"], (1,)), numbers("max_tokens", "INT32", 3), numbers("temperature", "FP32", 0.0))


@pytest.fixture
def server(tmp_path: Path) -> SimulatedServer:
    (tmp_path / "models").mkdir()
    return SimulatedServer(tmp_path / "models")


def serve(server: SimulatedServer, folder: Path, task: str, *probes: Probe) -> tuple[str, Path]:
    """A simulated entry with these probes; its name and its folder."""
    name, _ = make_entry(folder / "models", task, f"for {task}")
    path = folder / "models" / name
    write_probes(path, probes)
    write_config(path, name, Bytes32(model_digest(path)))
    server.load(name)
    return name, path


def generated(server: SimulatedServer, name: str) -> Probe:
    """A probe with just what the simulator answers."""
    made = server.generate(name, {"text_input": "the model", "max_tokens": 3, "temperature": 0.0})
    counts = numbers("completion_tokens", "INT32", made.completion_tokens)
    outputs = (texts("text_output", [made.text]), numbers("token_ids", "INT32", *made.token_ids), counts)
    return Probe(ASKED, outputs, 1e-4)


def test_a_generation_is_asked_field_by_field_and_must_be_equal(server: SimulatedServer, tmp_path: Path) -> None:
    name, path = serve(server, tmp_path, "text-generation")
    good = generated(server, name)
    write_probes(path, (good, good))
    told = replay(server, name, path)
    assert {line.output: (line.worst_relative, line.probes) for line in told} == {
        "text_output": (0.0, 2),
        "token_ids": (0.0, 2),
        "completion_tokens": (0.0, 2),
    }
    for output in good.outputs:
        wrong = texts(output.name, ["something else"]) if output.dtype == "BYTES" else numbers(output.name, "INT32", 1, 2)
        changed = tuple(wrong if each.name == output.name else each for each in good.outputs)
        write_probes(path, (good, replace(good, outputs=changed)))
        with pytest.raises(Refused, match=f"at output '{output.name}'") as refused:
            replay(server, name, path)
        assert refused.value.code == "parity_failed"


def test_lists_and_files_reach_a_generation_as_what_they_are(server: SimulatedServer, tmp_path: Path) -> None:
    name, path = serve(server, tmp_path, "speech-to-text")
    asked: list[Mapping[str, Any]] = []
    generate = server.generate

    def listening(entry: str, fields: Mapping[str, Any]) -> Any:
        asked.append(fields)
        return generate(entry, fields)

    server.generate = listening  # type: ignore[method-assign]  # the simulator, listened to
    file = b"RIFF\x00\xff\xfe not text"
    write_probes(path, (Probe((texts("audio", [file], (1,)), texts("stop", ["a", "b"]), numbers("seed", "INT64", 5)), (), 1e-4),))
    assert replay(server, name, path) == ()
    assert asked == [{"audio": file, "stop": ["a", "b"], "seed": 5}]


@pytest.mark.parametrize("output", ["embedding", "nothing"])
def test_an_answer_of_another_shape_or_none_is_not_equal(server: SimulatedServer, tmp_path: Path, output: str) -> None:
    expected = numbers(output, "FP32", 1.0)
    name, path = serve(server, tmp_path, "feature-extraction", Probe((texts("text_input", ["a"]),), (expected,), 1e-4))
    with pytest.raises(Refused, match=output) as refused:
        replay(server, name, path)
    assert refused.value.code == "parity_failed"


def test_a_probe_that_the_entry_refuses_is_a_refusal_of_the_entry(server: SimulatedServer, tmp_path: Path) -> None:
    probe = Probe((texts("text_input", ["word " * 99]),), (numbers("embedding", "FP32", 1.0),), 1e-4)
    name, path = serve(server, tmp_path, "feature-extraction", probe)
    with pytest.raises(Refused, match="refuses its own probe"):
        replay(server, name, path)


def test_a_server_that_is_away_is_no_difference(server: SimulatedServer, tmp_path: Path) -> None:
    probe = Probe((texts("text_input", ["a"]),), (numbers("embedding", "FP32", 1.0),), 1e-4)
    name, path = serve(server, tmp_path, "feature-extraction", probe)
    server.is_down = True
    with pytest.raises(Unavailable):
        replay(server, name, path)


# The real server


def open_engine(folder: Path) -> Engine:
    engine = open_database(f"sqlite:///{folder / 'real.db'}")
    metadata.create_all(engine)
    return engine


@pytest.mark.live
@pytest.mark.slow
def test_a_graph_that_was_changed_after_conversion_is_not_put_on_sale(
    triton_server: TritonServer, tiny_gpt2: Converted, tmp_path: Path
) -> None:
    """Its digest is its own and stands on chain, so nothing else could notice."""
    import onnx
    from onnx import numpy_helper

    changed = tmp_path / "changed"
    shutil.copytree(tiny_gpt2.entry, changed)
    graph = onnx.load(changed / "1" / "model.onnx")
    weights = max((each for each in graph.graph.initializer if each.data_type == 1), key=lambda each: len(each.raw_data))
    shifted = numpy_helper.to_array(weights) + np.random.default_rng(0).normal(0, 0.5, tuple(weights.dims)).astype(np.float32)
    weights.CopyFrom(numpy_helper.from_array(shifted, weights.name))
    onnx.save(graph, changed / "1" / "model.onnx")

    stand = open_stand(simulated_chain()[1], tmp_path)
    catalogue = Catalogue(open_engine(tmp_path), triton_server.models)
    market = replace(stand.market, inference=triton_server.client, catalogue=catalogue, models=triton_server.models)
    alice, name = stand.chain.wallets["alice"], triton_name(model_digest(changed))
    for _ in range(2):
        with pytest.raises(Refused, match=r"the served answer .* at output") as refused:
            publish(market, alice, stand.request(model=str(changed)))
        assert refused.value.code == "parity_failed"
        assert catalogue.listings() == ()
        assert name not in triton_server.client.loaded()
    honest = publish(market, alice, stand.request(model=str(tiny_gpt2.entry), name="Honest"))
    assert [line.output for line in honest.parity]
    assert catalogue.listings() == (honest.listing,)
    triton_server.client.unload(honest.listing.entry_name)


@pytest.mark.live
@pytest.mark.slow
def test_a_recogniser_hears_through_triton_what_it_hears_in_pytorch(triton_server: TritonServer, tmp_path: Path) -> None:
    from tests.converters.tiny_sounds import tiny_listener

    for family, head, outputs in (
        ("wav2vec2", "ForCTC", {"text", "frame_scores"}),
        ("audio-spectrogram-transformer", "ForAudioClassification", {"scores", "label"}),
    ):
        entry = convert_model(tiny_listener(tmp_path / family, family, head), tmp_path / "out")
        name = triton_server.install(entry)
        told = replay(triton_server.client, name, entry)
        assert {line.output for line in told} == outputs
        assert all(line.worst_relative < 1e-5 for line in told), told
        assert read_entry(entry).details["sampling_rate"] == 16_000
        triton_server.client.unload(name)
