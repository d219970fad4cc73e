"""The real Triton, started from its wheel, with our backends in it."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from control_plane.errors import BadInput, NotFound, Unavailable
from control_plane.serving.inference import InferenceServer
from control_plane.serving.triton import Triton
from tests.control_plane.serving.asking_triton import generator, infer_body, slow, smoke, wait_until
from tests.fixtures_triton import SMOKE, Converted, TritonServer, slow_gpt2, tiny_gpt2, triton_server
from tests.make_smoke_entry import DIMENSIONS

__all__ = ["generator", "slow", "slow_gpt2", "smoke", "tiny_gpt2", "triton_server"]

pytestmark = pytest.mark.live


def test_the_client_is_an_inference_server(triton_server: TritonServer) -> None:
    server: InferenceServer = triton_server.client
    assert server.is_ready()


def test_an_entry_is_loaded_unloaded_and_loaded_again(triton_server: TritonServer, smoke: str) -> None:
    client = triton_server.client
    assert smoke in client.loaded()
    client.load(smoke)
    assert client.infer(smoke, infer_body("the model"), None).header_length is None
    client.unload(smoke)
    client.unload(smoke)
    wait_until(lambda: smoke not in client.loaded())
    with pytest.raises(Unavailable, match="not loaded"):
        client.infer(smoke, infer_body("the model"), None)
    client.load(smoke)
    assert client.infer(smoke, infer_body("the model"), None).body


def test_of_calls_that_come_together_each_gets_its_own_answer_and_only_a_bad_one_is_refused(
    triton_server: TritonServer, smoke: str
) -> None:
    client, texts = triton_server.client, ["the model", "a receipt of the market", "order", "the log is the log"]
    expected = {text: vectors(client, smoke, text) for text in texts}
    failures: list[str] = []

    def ask(number: int) -> None:
        for turn in range(20):
            asked = [texts[(number + turn + place) % len(texts)] for place in range(1 + number % 3)]
            if number == 0:
                try:
                    client.infer(smoke, infer_body(*asked, ""), None)
                except BadInput as refused:
                    if f"0 bytes in item {len(asked)}" in str(refused):
                        continue
                failures.append("an empty text was not refused")
            elif vectors(client, smoke, *asked) != [vector for text in asked for vector in expected[text]]:
                failures.append(f"another answer for {asked}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and not any(thread.is_alive() for thread in threads)


def vectors(client: Triton, name: str, *texts: str) -> list[float]:
    answer = json.loads(client.infer(name, infer_body(*texts, outputs=[{"name": "embedding"}]), None).body)
    return [float(value) for value in answer["outputs"][0]["data"]]


def test_an_unknown_entry_is_not_found(triton_server: TritonServer) -> None:
    client = triton_server.client
    for ask in (
        lambda: client.load("m-0"),
        lambda: client.infer("m-0", infer_body("a"), None),
        lambda: client.generate("m-0", {"text_input": "a"}),
        lambda: client.generate_stream("m-0", {"text_input": "a"}),
    ):
        with pytest.raises(NotFound, match="m-0"):
            ask()
    client.unload("m-0")


def test_a_name_cannot_leave_its_place_in_the_url(triton_server: TritonServer) -> None:
    with pytest.raises((NotFound, BadInput)):
        triton_server.client.infer("../../repository/index?", infer_body("a"), None)


def test_tensors_go_through_as_json_and_as_bytes(triton_server: TritonServer, smoke: str) -> None:
    client = triton_server.client
    answer = json.loads(client.infer(smoke, infer_body("the model", "a receipt"), None).body)
    rows = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
    assert rows.shape == (2, DIMENSIONS)

    texts = b"".join(len(text).to_bytes(4, "little") + text for text in (b"the model", b"a receipt"))
    head = json.dumps(
        {
            "inputs": [
                {"name": "text_input", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    binary = client.infer(smoke, head + texts, len(head))
    assert binary.header_length is not None
    told = json.loads(binary.body[: binary.header_length])
    assert [output["name"] for output in told["outputs"]] == ["embedding", "prompt_tokens", "result"]
    sizes = [output["parameters"]["binary_data_size"] for output in told["outputs"]]
    assert binary.header_length + sum(sizes) == len(binary.body)
    embedding = np.frombuffer(binary.body[binary.header_length : binary.header_length + sizes[0]], "<f4")
    np.testing.assert_array_equal(embedding.reshape(rows.shape), rows)


def test_the_stock_triton_client_reads_the_same_tensors(triton_server: TritonServer, smoke: str) -> None:
    import tritonclient.http

    stock = tritonclient.http.InferenceServerClient(triton_server.url.removeprefix("http://"))
    texts = tritonclient.http.InferInput("text_input", [2], "BYTES")
    texts.set_data_from_numpy(np.array([b"the model", b"a receipt"], object))
    answer = stock.infer(smoke, [texts], headers={"triton-key": triton_server.key})
    embedding = answer.as_numpy("embedding")
    assert embedding.shape == (2, DIMENSIONS)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-6)
    assert answer.as_numpy("prompt_tokens").tolist() == [2, 2]
    stock.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[{"name":"text_input","shape":[-1],"datatype":"BYTES","data":["a"]}]}',
        b'{"inputs":[{"name":"text_input","shape":[99999999999],"datatype":"BYTES","data":["a"]}]}',
        b'{"inputs":[{"name":"text_input","shape":[1],"datatype":"BYTES","data":["a"]}],"outputs":[{"name":"nope"}]}',
        b'{"inputs":7}',
    ],
)
def test_a_request_that_only_the_server_can_judge_is_the_callers_fault(
    triton_server: TritonServer, smoke: str, body: bytes
) -> None:
    with pytest.raises(BadInput):
        triton_server.client.infer(smoke, body, None)
    assert triton_server.client.infer(smoke, infer_body("a"), None).body, "the server lives on"


@pytest.mark.parametrize("length", [0, 5, 10_000, 2**40, -1])
def test_a_wrong_header_length_is_the_callers_fault(triton_server: TritonServer, smoke: str, length: int) -> None:
    with pytest.raises(BadInput):
        triton_server.client.infer(smoke, infer_body("a") + b"\xff\xff\xff\xff", length)
    assert triton_server.client.infer(smoke, infer_body("a"), None).body, "the server lives on"


@pytest.mark.parametrize("key", ["", "wrong"])
def test_without_the_key_nothing_is_managed_and_nothing_computed(triton_server: TritonServer, smoke: str, key: str) -> None:
    with closing(Triton(triton_server.url, key)) as stranger:
        assert stranger.is_ready()
        for ask in (
            lambda: stranger.loaded(),
            lambda: stranger.load(smoke),
            lambda: stranger.unload(smoke),
            lambda: stranger.infer(smoke, infer_body("a"), None),
            lambda: stranger.generate(smoke, {"text_input": "a"}),
            lambda: stranger.generate_stream(smoke, {"text_input": "a"}),
        ):
            with pytest.raises(Unavailable) as refused:
                ask()
            assert refused.value.code == "management_key_refused"
    assert smoke in triton_server.client.loaded()


RESTRICTED_PATHS = [
    ("POST", "/v2/repository/index"),
    ("GET", "/v2/models/{}/config"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/models/{}/infer"),
]


@pytest.mark.parametrize(("method", "path"), RESTRICTED_PATHS)
def test_a_stranger_gets_403_from_triton_itself(triton_server: TritonServer, smoke: str, method: str, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", triton_server.ports.http, timeout=5)
    with closing(connection):
        connection.request(method, path.format(smoke), b"{}" if method == "POST" else None)
        assert connection.getresponse().status == 403


def test_over_grpc_a_stranger_gets_nothing_either(triton_server: TritonServer, smoke: str) -> None:
    import tritonclient.grpc

    stock = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{triton_server.ports.grpc}")
    texts = tritonclient.grpc.InferInput("text_input", [1], "BYTES")
    texts.set_data_from_numpy(np.array([b"a"], object))
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="restricted"):
        stock.infer(smoke, [texts])
    with pytest.raises(tritonclient.grpc.InferenceServerException, match="restricted"):
        stock.unload_model(smoke)
    answer = stock.infer(smoke, [texts], headers={"triton-grpc-protocol-triton-key": triton_server.key})
    assert answer.as_numpy("embedding").shape == (1, DIMENSIONS)
    stock.close()


def test_code_that_an_entry_brings_never_runs(triton_server: TritonServer, tmp_path: Path) -> None:
    """The converter refuses it anyway; this is what stands behind it (Triton 2.51)."""
    shutil.copytree(SMOKE, tmp_path / "entry")
    for place in ("1", "."):
        (tmp_path / "entry" / place / "model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
        (tmp_path / "entry" / place / "numpy.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    name = triton_server.install(tmp_path / "entry")
    assert triton_server.client.infer(name, infer_body("a"), None).body
    assert not (tmp_path / "ran").exists()
    triton_server.client.unload(name)


def test_an_entry_that_cannot_be_opened_says_why_and_hurts_no_other(
    triton_server: TritonServer, smoke: str, tmp_path: Path
) -> None:
    shutil.copytree(SMOKE, tmp_path / "entry")
    (tmp_path / "entry" / "1" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(Unavailable, match="cannot be opened"):
        triton_server.install(tmp_path / "entry", "broken")
    assert triton_server.client.infer(smoke, infer_body("a"), None).body


def test_an_entry_is_replaced_without_a_call_lost(triton_server: TritonServer, smoke: str) -> None:
    stop, failures, done = threading.Event(), [], []

    def call() -> None:
        while not stop.is_set():
            try:
                done.append(triton_server.client.infer(smoke, infer_body("a"), None))
            except Exception as error:
                failures.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    for _ in range(3):
        triton_server.client.load(smoke)
    stop.set()
    caller.join()
    assert not failures
    assert done


@pytest.fixture
def killable(tmp_path: Path, triton_server: TritonServer) -> Iterator[TritonServer]:
    """A server of its own, so that the shared one lives."""
    server = TritonServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_killed_server_is_unavailable_and_comes_back(killable: TritonServer, tiny_gpt2: Converted) -> None:
    client = killable.client
    smoke, generator = killable.install(SMOKE), killable.install(tiny_gpt2.entry)
    pieces = client.generate_stream(generator, {"text_input": "The market", "max_tokens": 60, "temperature": 2.0, "seed": 1})
    killable.kill()
    with pytest.raises(Unavailable):
        list(pieces)
    assert not client.is_ready()
    for ask in (
        lambda: client.infer(smoke, infer_body("a"), None),
        lambda: client.generate(generator, {"text_input": "a"}),
        lambda: client.generate_stream(generator, {"text_input": "a"}),
        client.loaded,
    ):
        with pytest.raises(Unavailable):
            ask()
    killable.start()
    assert client.loaded() == frozenset()
    client.load(smoke)
    assert client.infer(smoke, infer_body("a"), None).body
    assert not list(Path("/dev/shm").glob(f"posthuman-{killable.ports.http}-*"))[1:], "one region a stub, none left from before"


def test_a_crashed_backend_says_so_until_its_entry_is_loaded_anew(killable: TritonServer, tiny_gpt2: Converted) -> None:
    client = killable.client
    smoke, generator = killable.install(SMOKE), killable.install(tiny_gpt2.entry)
    for name, ask in (
        (smoke, lambda: client.infer(smoke, infer_body("a"), None)),
        (generator, lambda: client.generate(generator, {"text_input": "a"})),
        (generator, lambda: list(client.generate_stream(generator, {"text_input": "a"}))),
    ):
        killable.stub_of(name).kill()
        with pytest.raises(Unavailable) as crashed:
            ask()
        assert crashed.value.code == "backend_crashed"
        client.load(name)
        with pytest.raises(Unavailable):
            ask()
        client.unload(name)
        wait_until(lambda name=name: name not in client.loaded())
        client.load(name)
        assert ask()
