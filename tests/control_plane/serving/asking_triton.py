"""Entries on the real Triton, and what they are asked."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.fixtures_triton import SMOKE, Converted, TritonServer


@pytest.fixture
def smoke(triton_server: TritonServer) -> str:
    return triton_server.install(SMOKE)


@pytest.fixture
def generator(triton_server: TritonServer, tiny_gpt2: Converted) -> str:
    return triton_server.install(tiny_gpt2.entry)


@pytest.fixture
def slow(triton_server: TritonServer, slow_gpt2: Converted) -> str:
    return triton_server.install(slow_gpt2.entry)


def infer_body(*texts: str, **more: Any) -> bytes:
    tensor = {"name": "text_input", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return json.dumps({"inputs": [tensor], **more}).encode()


def long_call(**fields: Any) -> dict[str, Any]:
    return {"text_input": "The market", "max_tokens": 1000, "temperature": 1.0, "seed": 11, **fields}


def wait_until(is_true: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
