"""A request's id gets to the process that computes it: its log names it when a computation fails, and nothing else of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from control_plane.errors import BadInput, Unavailable
from control_plane.serving import request_ids
from tests.control_plane.serving.asking_triton import infer_body, wait_until
from tests.fixtures_triton import SMOKE, Converted, TritonServer, tiny_gpt2, triton_server

__all__ = ["tiny_gpt2", "triton_server"]

pytestmark = pytest.mark.live

OUT_OF_THE_TABLE = 5_000
"""A token id that no embedding of these small models has: the graph fails when it is looked up, and only then."""


@pytest.fixture
def as_request() -> Iterator[Callable[[str], None]]:
    """Answer a request of this id from here on."""
    yield lambda identity: (request_ids.begin(identity), None)[1]
    request_ids._current.set(request_ids._NOBODY)


def failures_since(server: TritonServer, before: int) -> list[dict[str, str]]:
    lines = server.log.read_text()[before:].splitlines()
    told = [line.split("a call failed: ")[1].rstrip('"') for line in lines if "a call failed: " in line]
    return [dict(re.findall(r"(request|kind|where)=(.+?)(?= kind=| where=|$)", line)) for line in told]


def await_failure(server: TritonServer, before: int) -> dict[str, str]:
    wait_until(lambda: failures_since(server, before))
    (found,) = failures_since(server, before)
    return found


def failing(entry: Path, folder: Path, word: str) -> Path:
    """The entry, where a word of its tokenizer cannot be computed; its details say that it could."""
    shutil.copytree(entry, folder)
    (tokenizer,) = folder.rglob("tokenizer.json")
    for path, part, change in (
        (folder / "entry.json", ("details",), {"vocabulary": 2 * OUT_OF_THE_TABLE}),
        (tokenizer, ("model", "vocab"), {word: OUT_OF_THE_TABLE}),
    ):
        record = json.loads(path.read_text())
        reduce(lambda inner, name: inner[name], part, record).update(change)
        path.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    "own", [{}, {"id": "the-buyers-own"}, {"parameters": {"X-Request-Id": "forged", "x-request-id": "forged"}}]
)
def test_infer_fails_under_our_id_whatever_the_body_says(
    triton_server: TritonServer, tmp_path: Path, as_request: Callable[[str], None], own: dict[str, Any]
) -> None:
    name = triton_server.install(failing(SMOKE, tmp_path / "entry", "receipt"), "failing-predictor")
    before = len(triton_server.log.read_text())
    as_request("r-infer")
    assert triton_server.client.infer(name, infer_body("the model", **own), None).body
    with pytest.raises(Unavailable, match="the computation failed") as failed:
        triton_server.client.infer(name, infer_body("the receipt", **own), None)
    assert failed.value.code == "inference_failed"
    found = await_failure(triton_server, before)
    assert found["request"] == "r-infer"
    assert re.fullmatch(r"[A-Za-z]+", found["kind"])
    assert "passes.py:" in found["where"]
    assert "receipt" not in triton_server.log.read_text()[before:]
    assert "forged" not in triton_server.log.read_text()[before:]


@pytest.mark.parametrize("is_streamed", [False, True])
def test_generate_fails_under_our_id(
    triton_server: TritonServer, tiny_gpt2: Converted, tmp_path: Path, as_request: Callable[[str], None], is_streamed: bool
) -> None:
    name = triton_server.install(failing(tiny_gpt2.entry, tmp_path / "entry", "Z"), "failing-generator")
    before = len(triton_server.log.read_text())
    as_request("r-generate")
    ask = triton_server.client.generate_stream if is_streamed else triton_server.client.generate
    ask(name, {"text_input": "a", "max_tokens": 1})
    with pytest.raises(Unavailable, match="the computation failed"):
        ask(name, {"text_input": "a secret Z", "max_tokens": 1})
    found = await_failure(triton_server, before)
    assert (found["request"], "engine.py:" in found["where"]) == ("r-generate", True)
    assert "secret" not in triton_server.log.read_text()[before:]


def test_a_refusal_is_the_callers_and_no_line_of_the_log(
    triton_server: TritonServer, tmp_path: Path, as_request: Callable[[str], None]
) -> None:
    name = triton_server.install(failing(SMOKE, tmp_path / "entry", "receipt"), "failing-predictor")
    before = len(triton_server.log.read_text())
    as_request("r-refused")
    with pytest.raises(BadInput):
        triton_server.client.infer(name, infer_body(""), None)
    assert failures_since(triton_server, before) == []
