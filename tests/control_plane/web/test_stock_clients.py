"""The stock clients, unchanged but for the bearer token, over HTTP: `openai`, `tritonclient.http`, and the production server."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import requests
import tritonclient.http as triton

from control_plane.receipts.keys import create_checkpoint_key, create_receipt_key
from control_plane.receipts.receipt import response_hash
from control_plane.receipts.store import Issued
from control_plane.settings import REPOSITORY
from deploy.local.ports import HOST, free_port
from tests.fixtures_market import CONTEXT_LENGTH, DIMENSIONS, LOG_NFT, Market
from tests.fixtures_web import url

__all__ = ["url"]


def openai_client(url: str, token: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0)


def test_openai_lists_models_and_completes(market: Market, url: str) -> None:
    with openai_client(url, market.sign_in("bob", market.gpt)) as client:
        assert market.gpt.did in [model.id for model in client.models.list()]
        assert client.models.retrieve(market.gpt.did).owned_by == market.gpt.publisher
        raw = client.completions.with_raw_response.create(model=market.gpt.did, prompt="hello", max_tokens=3, seed=1, stop=["zz"])
        completion = raw.parse()
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3
        assert raw.headers["X-Posthuman-Receipt"]


def test_openai_streams_and_the_receipt_is_readable_in_the_last_chunk(market: Market, url: str) -> None:
    with openai_client(url, market.sign_in("bob", market.gpt)) as client:
        whole = client.completions.create(model=market.gpt.did, prompt="hello", max_tokens=5, temperature=0).choices[0].text
        options = {"include_usage": True}
        chunks = list(
            client.completions.create(
                model=market.gpt.did, prompt="hello", max_tokens=5, temperature=0, stream=True, stream_options=options
            )
        )
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole
    issued = Issued.from_json(chunks[-1].receipt)
    assert issued.signed.receipt.units_out == 5
    assert chunks[-2].usage is not None


def test_openais_stop_and_seed_mean_what_they_say(market: Market, url: str) -> None:
    asked = {"model": market.gpt.did, "prompt": "hello", "max_tokens": 6}
    with openai_client(url, market.sign_in("bob", market.gpt)) as client:
        first, again, other = (client.completions.create(seed=seed, **asked).choices[0].text for seed in (7, 7, 8))
        assert first == again != other
        word = first.split()[2]
        stopped = client.completions.create(seed=7, stop=[word], **asked).choices[0]
        assert (stopped.finish_reason, stopped.text) == ("stop", first[: first.index(word)])
        streamed = client.completions.create(seed=7, stop=word, stream=True, **asked)
        assert "".join(choice.text for chunk in streamed for choice in chunk.choices) == stopped.text


def test_openai_embeds_as_it_asks_by_default(market: Market, url: str) -> None:
    with openai_client(url, market.sign_in("bob", market.embedder)) as client:
        vectors = client.embeddings.create(model=market.embedder.did, input=["a", "b"]).data
        plain = client.embeddings.create(model=market.embedder.did, input=["a", "b"], encoding_format="float").data
    assert [len(line.embedding) for line in vectors] == [DIMENSIONS] * 2
    assert [line.embedding for line in vectors] == [line.embedding for line in plain]


def test_openai_raises_its_own_kinds_of_errors(market: Market, url: str) -> None:
    with openai_client(url, market.sign_in("bob", market.gpt)) as client:
        with pytest.raises(openai.BadRequestError) as bad:
            client.completions.create(model=market.gpt.did, prompt="")
        assert (bad.value.param, bad.value.code, bad.value.type) == ("prompt", "bad_input", "invalid_request_error")
        with pytest.raises(openai.PermissionDeniedError):
            client.completions.create(model=market.other_gpt.did, prompt="x")
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="did:op:" + "0" * 64, prompt="x")
        with pytest.raises(openai.BadRequestError, match=r"unknown_parameter|no such parameter"):
            client.completions.create(model=market.gpt.did, prompt="x", extra_body={"beams": 3})
        market.server.is_down = True
        with pytest.raises(openai.InternalServerError):
            client.completions.create(model=market.gpt.did, prompt="x")
    with openai_client(url, "ph_" + "x" * 43) as stranger, pytest.raises(openai.AuthenticationError):
        stranger.completions.create(model=market.gpt.did, prompt="x")


def triton_client(url: str) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(url.removeprefix("http://"))


def text_input(name: str, *texts: str) -> triton.InferInput:
    tensor = triton.InferInput(name, [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
    return tensor


def test_tritonclient_reads_the_server_and_its_models(market: Market, url: str) -> None:
    client = triton_client(url)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(market.gpt.did)
    assert client.is_model_ready(market.gpt.did, "1")
    assert client.get_server_metadata()["name"] == "posthuman"
    assert client.get_model_metadata(market.embedder.did)["name"] == market.embedder.did
    client.close()


@pytest.mark.parametrize("is_binary", [False, True])
def test_tritonclient_infers_tensors(market: Market, url: str, is_binary: bool) -> None:
    client, headers = triton_client(url), market.bearer(market.sign_in("bob", market.embedder))
    tensor = triton.InferInput("text_input", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([b"a", b"b"], dtype=np.object_), binary_data=is_binary)
    outputs = [triton.InferRequestedOutput("embedding", binary_data=is_binary)]
    result = client.infer(market.embedder.did, [tensor], outputs=outputs, headers=headers)
    assert result.as_numpy("embedding").shape == (2, DIMENSIONS)
    everything = client.infer(market.embedder.did, [tensor], headers=headers)
    assert everything.as_numpy("prompt_tokens").tolist() == [1, 1]
    assert np.array_equal(everything.as_numpy("embedding"), result.as_numpy("embedding"))
    client.close()


def test_tritonclient_infers_text_from_a_generating_model(market: Market, url: str) -> None:
    client, headers = triton_client(url), market.bearer(market.sign_in("bob", market.gpt))
    most = triton.InferInput("max_tokens", [1], "INT32")
    most.set_data_from_numpy(np.array([3], dtype=np.int32))
    greedy = triton.InferInput("temperature", [1], "FP32")
    greedy.set_data_from_numpy(np.array([0], dtype=np.float32))
    result = client.infer(market.gpt.did, [text_input("text_input", "hello"), most, greedy], headers=headers)
    made = market.server.generate(market.gpt.entry_name, {"text_input": "hello", "max_tokens": 3, "temperature": 0})
    assert result.as_numpy("text_output")[0].decode() == made.text
    assert result.as_numpy("token_ids").tolist() == list(made.token_ids)
    assert result.as_numpy("finish_reason")[0] == b"length"
    client.close()


def test_tritonclient_shows_the_reason_of_a_refusal(market: Market, url: str) -> None:
    client, headers = triton_client(url), market.bearer(market.sign_in("bob", market.gpt))
    with pytest.raises(triton.InferenceServerException, match="text_input: expected") as caught:
        client.infer(market.gpt.did, [text_input("text_input", "")], headers=headers)
    assert caught.value.status() == "400"
    with pytest.raises(triton.InferenceServerException, match="Authorization: expected"):
        client.infer(market.gpt.did, [text_input("text_input", "x")])
    with pytest.raises(triton.InferenceServerException, match="token is for"):
        client.infer(market.other_gpt.did, [text_input("text_input", "x")], headers=headers)
    client.close()


def test_a_stream_arrives_piece_by_piece(market: Market, url: str) -> None:
    """Nothing on the way collects pieces: the second is not made before the first was read."""
    go_on = threading.Event()
    market.server.before_piece = lambda number: number != 1 or go_on.wait(10)
    token = market.sign_in("bob", market.gpt)
    record = {"model": market.gpt.did, "prompt": "x", "max_tokens": 3, "stream": True}
    with requests.post(f"{url}/v1/completions", json=record, headers=market.bearer(token), stream=True, timeout=20) as answer:
        pieces = answer.iter_content(chunk_size=None)
        sent = [next(pieces)]
        assert not go_on.is_set()
        go_on.set()
        sent += list(pieces)
    issued = market.services.store.receipt_of_call(answer.headers["X-Posthuman-Call"])
    assert issued is not None
    body = b"".join(sent)
    end = body.index(b'data: {"id"', body.rindex(b"\n\n", 0, body.index(b'"receipt"')))
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, body[:end])


def test_a_reader_that_hangs_up_stops_the_computation_and_gets_its_receipt(market: Market, url: str) -> None:
    market.server.before_piece = lambda _number: time.sleep(0.05)
    token = market.sign_in("bob", market.gpt)
    record = {"model": market.gpt.did, "prompt": "x", "max_tokens": CONTEXT_LENGTH - 1, "stream": True}
    with requests.post(f"{url}/v1/completions", json=record, headers=market.bearer(token), stream=True, timeout=20) as answer:
        next(answer.iter_content(chunk_size=None))
    until = time.monotonic() + 10
    while market.server.closed_streams == 0 and time.monotonic() < until:
        time.sleep(0.02)
    while (issued := market.services.store.receipt_of_call(answer.headers["X-Posthuman-Call"])) is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert 0 < issued.signed.receipt.units_out < CONTEXT_LENGTH - 1
    assert issued.signed.receipt.status == 1


@pytest.fixture
def production(tmp_path: Path) -> Iterator[str]:
    """The real web server on real wiring, with neither a chain node nor Triton behind it."""
    home, port = tmp_path / "home", free_port()
    create_receipt_key(home / "keys" / "receipt.key")
    create_checkpoint_key(home / "keys" / "checkpoint.pem")
    operator = home / "keys" / "operator.json"
    operator.write_text(secrets.token_hex(32))
    operator.chmod(0o600)
    environ = {
        "PATH": os.environ["PATH"],
        "POSTHUMAN_HOME": str(home),
        "POSTHUMAN_WEB_PORT": str(port),
        "POSTHUMAN_LOG_NFT": LOG_NFT,
        "POSTHUMAN_RPC_URL": f"http://{HOST}:{free_port()}",
        "POSTHUMAN_TRITON_URL": f"http://{HOST}:{free_port()}",
    }
    command = [sys.executable, "-m", "control_plane.web.serve"]
    with (tmp_path / "web.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environ, stdout=log, stderr=log)
    url = f"http://{HOST}:{port}"
    try:
        until = time.monotonic() + 60
        while True:
            try:
                requests.get(f"{url}/healthz", timeout=2)
                break
            except requests.RequestException:
                assert process.poll() is None, (tmp_path / "web.log").read_text()[-2000:]
                assert time.monotonic() < until, "the server did not answer within 60 s"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.live
def test_the_web_starts_and_answers_without_chain_and_triton(production: str) -> None:
    ready = requests.get(f"{production}/readyz", timeout=20)
    assert ready.status_code == 503
    assert ready.json()["components"] == {"database": "ready", "triton": "not ready", "chain": "unavailable"}
    assert requests.get(f"{production}/v1/models", timeout=5).json()["data"] == []
    assert requests.post(f"{production}/v1/auth/nonce", timeout=5).json()["nonce"]
    for _ in range(20):
        assert requests.post(f"{production}/v1/completions", json={}, timeout=5).status_code == 401
    counted = [line for line in requests.get(f"{production}/metrics", timeout=5).text.splitlines() if 'code="no_token"' in line]
    assert float(counted[0].rsplit(" ", 1)[1]) == 20, "the workers' counters are not summed"


@pytest.mark.live
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "in chunks"])
def test_a_hundred_megabytes_get_a_413_that_the_client_sees(production: str, is_chunked: bool) -> None:
    body = b" " * 100_000_000
    data = (body[start : start + 1_000_000] for start in range(0, len(body), 1_000_000)) if is_chunked else body
    answer = requests.post(f"{production}/v1/auth/token", data=data, headers={"Content-Type": "application/json"}, timeout=60)
    assert answer.status_code == 413
    assert json.loads(answer.content)["error"]["param"] == "body"
    assert requests.get(f"{production}/healthz", timeout=5).status_code == 200


@pytest.mark.live
@pytest.mark.parametrize(("path", "status"), [("/v1/completions", 401), ("/v1/auth/nonce", 200)])
def test_an_answer_that_comes_before_the_body_leaves_the_connection_usable(production: str, path: str, status: int) -> None:
    """A server that has not read all of a request must close its connection, and a client that keeps one finds out too late."""
    body = b'{"model": "x"}'
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = http.client.HTTPConnection(production.removeprefix("http://"), timeout=10)
    connection.connect()
    for _ in range(10):
        connection.sock.sendall(head.encode())
        time.sleep(0.02)
        connection.sock.sendall(body)
        answer = http.client.HTTPResponse(connection.sock)
        answer.begin()
        assert (answer.status, bool(answer.read()), answer.will_close) == (status, True, False)
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    connection.close()
