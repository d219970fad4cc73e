"""A model that predicts, on the real Triton, whose threads are all busy: who waits too long is refused, and not charged."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from control_plane.serving.triton import Triton
from control_plane.web import create_app
from converters.entry import Entry, write_entry
from converters.graph import graph_tensors
from converters.tasks import TASKS, inputs_of, outputs_of
from tests.fixtures_market import Market
from tests.fixtures_triton import TritonServer, triton_server

__all__ = ["triton_server"]

pytestmark = pytest.mark.live

AT_ONCE = 2
"""Calls of a model of tensors that are computed at once (`predict/tasks.py`)."""
LONG = 400_000
"""Rounds: seconds of computation."""
WAIT_S = 0.3
FORGED = {"X-Posthuman-Wait-Ms": "3600000", "x-posthuman-wait-ms": "3600000"}


def rounds(number: int, **more: Any) -> bytes:
    return json.dumps({"inputs": [{"name": "rounds", "shape": [1], "datatype": "INT64", "data": [number]}], **more}).encode()


def make_entry(folder: Path) -> Path:
    """A graph that takes as long as its input says: so many products of two small matrices, one after the other."""
    kinds = {"round": (TensorProto.INT64, []), "goes_on": (TensorProto.BOOL, []), "before": (TensorProto.FLOAT, [64, 64])}
    given = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    made = [helper.make_tensor_value_info("still", TensorProto.BOOL, []), helper.make_tensor_value_info("after", *kinds["before"])]
    nodes = [helper.make_node("Identity", ["goes_on"], ["still"]), helper.make_node("MatMul", ["before", "same"], ["after"])]
    body = helper.make_graph(nodes, "round", given, made)
    same = np.eye(64, dtype=np.float32)
    constants = {"same": same, "first": same, "yes": np.array(True)}
    whole = helper.make_graph(
        [
            helper.make_node("Loop", ["rounds", "yes", "first"], ["last"], body=body),
            helper.make_node("ReduceSum", ["last"], ["sum"], keepdims=0),
        ],
        "rounds",
        [helper.make_tensor_value_info("rounds", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    inputs, outputs = graph_tensors(folder / "1" / "model.onnx")
    task, details = TASKS["tensors"], {"model": "1/model.onnx", "graph_inputs": inputs, "graph_outputs": outputs}
    entry: dict[str, Any] = {"name": "rounds", "task": task.name, "backend": task.backend, "architecture": "Raw"}
    tensors = {"inputs": inputs_of(task, details), "outputs": outputs_of(task, details)}
    write_entry(folder, Entry(**entry, precision="fp32", **tensors, details=details))
    return folder


@pytest.fixture
def triton(triton_server: TritonServer) -> Iterator[Triton]:
    with closing(Triton(triton_server.url, triton_server.key, timeout_s=60.0, queue_s=WAIT_S)) as client:
        yield client


def test_a_call_that_waits_too_long_for_a_model_that_predicts_is_a_503_and_no_charge(
    market: Market, triton_server: TritonServer, triton: Triton, tmp_path: Path
) -> None:
    name = market.embedder.entry_name
    triton_server.install(make_entry(tmp_path / "entry"), name)
    client = create_app(replace(market.services, server=triton), market.journal).test_client()
    order = market.order("bob", market.embedder)
    headers = market.bearer(market.sign_in("bob", market.embedder, order))

    def ask(body: bytes) -> Any:
        path = f"/v2/models/{market.embedder.did}/infer"
        return client.post(path, data=body, content_type="application/json", headers=headers)

    def refusals() -> float:
        lines = client.get("/metrics").text.splitlines()
        named = 'posthuman_refusals_total{code="queue_timeout",status="503"} '
        return sum(float(line.removeprefix(named)) for line in lines if line.startswith(named))

    before, answered = refusals(), 0
    with ThreadPoolExecutor(AT_ONCE + 2) as pool:
        long = [pool.submit(triton_server.client.infer, name, rounds(LONG), None) for _ in range(AT_ONCE)]
        while True:
            asked, pending = pool.submit(timed, ask, rounds(1, parameters=FORGED)), list[float]()
            while not asked.done():
                pending.append(waiting_before(triton_server, name))
            took_s, answer = asked.result()
            if answer.status_code != 200:
                break
            answered += 1  # they have not begun
        assert not any(each.done() for each in long), "refused while all threads compute, and not when one was free"
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2"), answer.text
        assert answer.get_json()["code"] == "queue_timeout"
        assert "has waited for this model" in answer.text
        assert took_s >= WAIT_S
        assert median(pending) == 0, "it waited with us, where the limit is known, and not in Triton's own queue"
        assert (refusals() - before, market.calls_used(order)) == (1, answered)
        patient = pool.submit(triton_server.client.infer, name, rounds(1), None)
        told = told_by(triton_server, name)
        while told != {"waiting": 1, "running": AT_ONCE, "refused queue_full": 0, "refused queue_timeout": 1}:
            assert not any(each.done() for each in long), told
            time.sleep(0.1)
            told = told_by(triton_server, name)
        assert not patient.done()
        assert all(json.loads(each.result(60).body)["outputs"][0]["data"] == [64.0] for each in long)
    assert ask(rounds(1)).status_code == 200
    assert market.calls_used(order) == answered + 1


def timed(ask: Any, body: bytes) -> tuple[float, Any]:
    began = time.monotonic()
    return (lambda answer: (time.monotonic() - began, answer))(ask(body))


def waiting_before(server: TritonServer, name: str) -> float:
    """Calls in Triton's own queue."""
    (found,) = metrics_of(server, name, "nv_inference_pending_request_count{")
    return float(found.rsplit(" ", 1)[1])


def told_by(server: TritonServer, name: str) -> dict[str, float]:
    """What the model says of its calls, once a second."""
    told: dict[str, float] = {}
    for line in metrics_of(server, name, "posthuman_predict_calls_"):
        what, reason = line.removeprefix("posthuman_predict_calls_").split("{")[0], re.search(r'reason="(\w+)"', line)
        told[f"refused {reason[1]}" if reason else what] = float(line.rsplit(" ", 1)[1])
    return told


def metrics_of(server: TritonServer, name: str, family: str) -> list[str]:
    """The lines of a model."""
    with urlopen(f"http://127.0.0.1:{server.ports.metrics}/metrics", timeout=10) as answer:  # our own server
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith(family) and f'"{name}"' in line]
