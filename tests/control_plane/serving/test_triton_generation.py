"""Generation through the real Triton: whole, streamed, stopped, side by side."""

from __future__ import annotations

import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import pytest

from control_plane.errors import BadInput, Unavailable
from control_plane.serving.triton import Triton
from tests.control_plane.serving.asking_triton import generator, infer_body, long_call, slow, smoke, wait_until
from tests.fixtures_triton import TritonServer, slow_gpt2, tiny_gpt2, triton_server

__all__ = ["generator", "slow", "slow_gpt2", "smoke", "tiny_gpt2", "triton_server"]

pytestmark = pytest.mark.live

AT_ONCE = 16
"""Calls that share a step (`generate/model_rows.py`)."""


def test_a_generation_is_one_answer(triton_server: TritonServer, generator: str) -> None:
    call = {"text_input": "The market", "max_tokens": 20, "temperature": 0.0}
    first = triton_server.client.generate(generator, call)
    assert first == triton_server.client.generate(generator, call)
    assert first.completion_tokens == len(first.token_ids)
    assert first.finish_reason == "length"
    assert first.prompt_tokens > 0


def test_one_token_is_also_an_answer(triton_server: TritonServer, generator: str) -> None:
    answer = triton_server.client.generate(generator, {"text_input": "The market", "max_tokens": 1, "temperature": 0.0})
    assert len(answer.token_ids) == answer.completion_tokens == 1


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 1.5, "top_p": 0.9, "top_k": 40, "seed": 4}])
def test_the_pieces_of_a_stream_are_the_whole_answer(triton_server: TritonServer, generator: str, settings: dict[str, Any]) -> None:
    call = {"text_input": "The market", "max_tokens": 40, **settings}
    whole = triton_server.client.generate(generator, call)
    pieces = list(triton_server.client.generate_stream(generator, call))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert tuple(token for piece in pieces for token in piece.token_ids) == whole.token_ids
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (pieces[-1].finish_reason, pieces[-1].completion_tokens) == (whole.finish_reason, whole.completion_tokens)
    assert {piece.prompt_tokens for piece in pieces} == {whole.prompt_tokens}


def test_a_stop_text_ends_the_answer_before_it(triton_server: TritonServer, generator: str) -> None:
    call = {"text_input": "The market", "max_tokens": 40, "temperature": 0.0}
    text = triton_server.client.generate(generator, call).text
    stop = text[12:16]
    assert text.index(stop) <= 12
    stopped = triton_server.client.generate(generator, {**call, "stop": [stop, "never in it"]})
    assert (stopped.text, stopped.finish_reason) == (text[: text.index(stop)], "stop")
    streamed = list(triton_server.client.generate_stream(generator, {**call, "stop": [stop]}))
    assert "".join(piece.text for piece in streamed) == stopped.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_input", ""),
        ("text_input", "word " * 64),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 10**15),
        ("max_tokens", 65),
        ("temperature", -1.0),
        ("temperature", 1e39),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("stop", [""]),
        ("stop", ["a"] * 17),
        ("unknown", 1),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(triton_server: TritonServer, generator: str, field: str, value: Any) -> None:
    call = {"text_input": "The market", field: value}
    with pytest.raises(BadInput) as refused:
        triton_server.client.generate(generator, call)
    assert refused.value.field == field
    with pytest.raises(BadInput) as refused:
        triton_server.client.generate_stream(generator, call)
    assert refused.value.field == field


def test_tensors_are_refused_where_text_is_generated(triton_server: TritonServer, generator: str) -> None:
    with pytest.raises(BadInput):
        triton_server.client.infer(generator, infer_body("a"), None)


def test_the_first_piece_is_there_long_before_the_last_is_computed(triton_server: TritonServer, slow: str) -> None:
    began = time.monotonic()
    with closing(triton_server.client.generate_stream(slow, long_call(max_tokens=300))) as pieces:
        times = [time.monotonic() - began for _ in pieces]
    assert times[0] < times[-1] / 4
    gaps = np.diff(times)
    assert (gaps > times[-1] / len(times) / 10).mean() > 0.5, "pieces came in bursts: something holds them back"


def engine_of(server: TritonServer, name: str) -> dict[str, float]:
    """What the engine says of itself, once a second."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports.metrics}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    ours = [line.rsplit(" ", 1) for line in lines if line.startswith("posthuman_engine_") and f'model="{name}"' in line]
    return {named.split("{")[0].removeprefix("posthuman_engine_"): float(value) for named, value in ours}


def settled(server: TritonServer, name: str) -> dict[str, float]:
    """What is told when all that ended before has been told."""
    time.sleep(1.2)
    return engine_of(server, name)


def assert_cancelled(server: TritonServer, name: str, before: dict[str, float]) -> None:
    """One call was ended for want of a caller, and nothing is computed any more."""
    wait_until(lambda: engine_of(server, name)["calls_cancelled_total"] == before["calls_cancelled_total"] + 1)
    left = settled(server, name)
    assert left["calls_running"] == 0
    assert settled(server, name)["tokens_total"] == left["tokens_total"]


def test_a_caller_who_leaves_stops_the_computation(triton_server: TritonServer, slow: str) -> None:
    before = settled(triton_server, slow)
    pieces = triton_server.client.generate_stream(slow, long_call())
    next(pieces)
    wait_until(lambda: engine_of(triton_server, slow)["calls_running"] == 1)
    pieces.close()
    pieces.close()
    assert_cancelled(triton_server, slow, before)
    with pytest.raises(StopIteration):
        next(pieces)


def test_a_whole_answer_that_nobody_waits_for_any_more_is_computed_no_further(triton_server: TritonServer, slow: str) -> None:
    """Nothing is written to such a call before its end, but for the signs of life that let Triton find out."""
    before, over, asked = settled(triton_server, slow), threading.Event(), threading.Event()

    def is_over() -> bool:
        asked.set()
        return over.is_set()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(triton_server.client.generate, slow, long_call(), "bob", is_over)
        assert asked.wait(30), "nobody asked whether the caller is still there"
        over.set()
        with pytest.raises(Unavailable, match="nobody waits"):
            waiting.result(30)
    assert_cancelled(triton_server, slow, before)


def test_a_whole_answer_that_takes_too_long_is_given_up_and_its_computation_stopped(triton_server: TritonServer, slow: str) -> None:
    before = settled(triton_server, slow)
    impatient = Triton(triton_server.url, triton_server.key, timeout_s=0.3)
    with pytest.raises(Unavailable, match=r"gave nothing for 0\.3 s"):
        impatient.generate(slow, long_call())
    impatient.close()
    assert_cancelled(triton_server, slow, before)


def test_who_asks_often_does_not_keep_the_others_waiting(triton_server: TritonServer, slow: str) -> None:
    """More calls than are computed at once; the last one comes from somebody else."""
    finished: list[str] = []
    asking = threading.Barrier(49)

    def ask(caller: str) -> None:
        if caller == "greedy":
            asking.wait(30)
        triton_server.client.generate(slow, long_call(max_tokens=80), caller)
        finished.append(caller)

    with ThreadPoolExecutor(49) as pool:
        greedy = [pool.submit(ask, "greedy") for _ in range(48)]
        asking.wait(30)  # a moment that does not depend on how long the machine takes for 48 threads
        time.sleep(0.1)
        modest = pool.submit(ask, "modest")
        for call in (*greedy, modest):
            call.result(120)
    assert finished.index("modest") < 40


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
def test_a_call_that_waits_too_long_is_refused_before_it_is_computed(triton_server: TritonServer, slow: str, verb: str) -> None:
    """More calls than are computed at once, so that one more can only wait."""
    impatient = Triton(triton_server.url, triton_server.key, timeout_s=60.0, queue_s=0.2)
    with ExitStack() as left:
        for _ in range(AT_ONCE):
            pieces = left.enter_context(closing(triton_server.client.generate_stream(slow, long_call())))
            next(pieces)
        with pytest.raises(Unavailable, match="has waited for this model") as refused:
            getattr(impatient, verb)(slow, long_call(max_tokens=1))
        assert (refused.value.status, refused.value.code) == (503, "queue_timeout")
        assert refused.value.retry_after_s
    assert impatient.generate(slow, long_call(max_tokens=1)).completion_tokens == 1
    impatient.close()


def test_a_short_call_does_not_wait_for_a_long_one(triton_server: TritonServer, slow: str) -> None:
    with closing(triton_server.client.generate_stream(slow, long_call())) as pieces:
        next(pieces)
        answer = triton_server.client.generate(slow, long_call(max_tokens=3))
        assert answer.completion_tokens == 3
        after = next(pieces)
    assert after.finish_reason is None, "the long one was not finished first"


def test_many_callers_at_once_each_get_their_own_answer(triton_server: TritonServer, generator: str) -> None:
    def ask(seed: int) -> str:
        return triton_server.client.generate(generator, {"text_input": "The market", "max_tokens": 24, "seed": seed}).text

    alone = [ask(seed) for seed in range(8)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, list(range(8)) * 6))
    assert together == alone * 6


def test_the_engine_tells_who_waits_and_what_it_makes(triton_server: TritonServer, slow: str) -> None:
    started = settled(triton_server, slow)
    assert (started["calls_waiting"], started["calls_running"]) == (0, 0)
    streams = [triton_server.client.generate_stream(slow, long_call()) for _ in range(2)]
    wait_until(lambda: engine_of(triton_server, slow)["calls_running"] == 2)
    wait_until(lambda: engine_of(triton_server, slow)["tokens_total"] >= started["tokens_total"] + 2)
    for stream in streams:
        stream.close()
    wait_until(lambda: engine_of(triton_server, slow)["calls_running"] == 0)
    wait_until(lambda: engine_of(triton_server, slow)["calls_cancelled_total"] == started["calls_cancelled_total"] + 2)
    left = engine_of(triton_server, slow)
    assert left["prompt_tokens_total"] > started["prompt_tokens_total"]
    assert (left["calls_failed_total"], left["calls_refused_total"]) == (
        started["calls_failed_total"],
        started["calls_refused_total"],
    )


def test_a_model_that_is_gone_and_back_counts_on_and_runs_nothing(triton_server: TritonServer, slow: str) -> None:
    stream = triton_server.client.generate_stream(slow, long_call())
    wait_until(lambda: engine_of(triton_server, slow)["calls_running"] == 1)
    made = engine_of(triton_server, slow)["tokens_total"]
    triton_server.stub_of(slow).kill()  # its gauge stays as it was, for nobody is left to set it
    stream.close()
    triton_server.client.unload(slow)
    wait_until(lambda: slow not in triton_server.client.loaded())
    triton_server.client.load(slow)
    wait_until(lambda: engine_of(triton_server, slow)["calls_running"] == 0)
    assert engine_of(triton_server, slow)["tokens_total"] >= made
