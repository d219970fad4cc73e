"""What a running stack tells Prometheus is what the documentation says, and moves when something happens."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest
import requests

from control_plane.did import TransactionHash, parse_did
from control_plane.flows.keep import request_anchor
from deploy.local.chain import local_accounts
from deploy.market import Market
from tests.dashboards import documented, exposed
from tests.fixtures_stack import LiveStack

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def token(stack: LiveStack, on_sale: str) -> str:
    """Of a session of Bob's."""
    bought = stack.run("buy", on_sale, "--as", "bob", "--json")
    assert bought.code == 0, bought.out + bought.err
    market, bob = Market(stack.settings.public_url), local_accounts()["bob"]
    return market.sign_in(bob, parse_did(on_sale), TransactionHash(bought.json["order"]), stack.settings.chain_id).token


def scraped(stack: LiveStack) -> tuple[str, str]:
    """The web's metrics and Triton's."""
    port = json.loads((stack.home / "environment.json").read_text())["POSTHUMAN_TRITON_METRICS_PORT"]
    addresses = (f"{stack.settings.public_url}/metrics", f"http://127.0.0.1:{port}/metrics")
    answers = [requests.get(address, timeout=10) for address in addresses]
    assert [answer.status_code for answer in answers] == [200, 200]
    return answers[0].text, answers[1].text


def settled(stack: LiveStack) -> tuple[str, str]:
    """As `scraped`, when the calls of earlier tests are over: whoever left a stream may be counted for a moment."""
    until = time.monotonic() + 15
    while value((found := scraped(stack))[0], "posthuman_calls_in_flight") > 0:
        assert time.monotonic() < until, "somebody who has left is still counted"
        time.sleep(0.2)
    return found


def value(text: str, name: str) -> float:
    """The sum of a family's samples."""
    found = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    assert found, f"{name} is not there"
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def test_the_stack_exposes_what_is_documented_and_no_more(stack: LiveStack, on_sale: str, token: str) -> None:
    market = Market(stack.settings.public_url)
    before, engines = settled(stack)
    call = {"model": on_sale, "prompt": "The market", "max_tokens": 8, "temperature": 0}
    market.complete(token, call)
    market.stream(token, call, lambda _text: None)
    assert requests.get(f"{market.url}/v1/nothing", timeout=5).status_code == 404

    web, triton = scraped(stack)
    assert value(web, "posthuman_calls_total") == value(before, "posthuman_calls_total") + 2
    assert value(web, "posthuman_receipts_total") == value(before, "posthuman_receipts_total") + 2
    assert value(web, "posthuman_calls_in_flight") == 0
    until = time.monotonic() + 10
    while value(triton, "posthuman_engine_tokens_total") < value(engines, "posthuman_engine_tokens_total") + 16:
        assert time.monotonic() < until, "the engine's tokens are not told"
        time.sleep(0.3)
        _, triton = scraped(stack)
    found = exposed(web) | exposed(triton)
    ours, known = ({name for name in names if name.startswith("posthuman_")} for names in (found, documented()))
    assert ours <= known, f"not documented: {ours - known}"
    later = {"posthuman_keeper_step_failures_total", "posthuman_job_step_seconds"}
    later |= {name for name in known if name.startswith("posthuman_predict_")}
    assert known - ours <= later, f"documented only: {known - ours}; a failure, a job and a model that predicts make those"
    assert {name for name in documented() if name.startswith("nv_")} <= found


def test_an_id_comes_back_from_the_real_server_and_stands_in_a_streams_line_too(stack: LiveStack, on_sale: str, token: str) -> None:
    market = Market(stack.settings.public_url)
    with openai.OpenAI(base_url=f"{market.url}/v1", api_key=token, max_retries=0) as client:
        asked: dict[str, Any] = {"model": on_sale, "prompt": "The market", "max_tokens": 4}
        assert client.completions.create(**asked, extra_headers={"X-Request-Id": "story-1"})._request_id == "story-1"
        stream = client.completions.create(**asked, stream=True, extra_headers={"X-Request-Id": "story-2"})
        assert stream.response.headers["X-Request-Id"] == "story-2"
        assert list(stream)
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(**{**asked, "temperature": 9})
    ids = ["story-1", "story-2", str(refused.value.request_id)]
    until = time.monotonic() + 5
    while len(lines := lines_of(stack, ids)) < 3 and time.monotonic() < until:
        time.sleep(0.1)
    assert [(line["request"], line["event"], line.get("outcome")) for line in lines] == [
        ("story-1", "call", "done"),
        ("story-2", "call", "done"),
        (ids[2], "refused", None),
    ]


def lines_of(stack: LiveStack, ids: list[str]) -> list[dict[str, Any]]:
    written = (stack.home / "logs" / "web.log").read_text().splitlines()
    records = [json.loads(line) for line in written if line.startswith('{"at"')]
    return [record for record in records if record["request"] in ids]


def test_readers_who_leave_are_no_longer_in_flight(stack: LiveStack, on_sale: str, token: str) -> None:
    before, _ = settled(stack)
    body = {"model": on_sale, "prompt": "The market", "max_tokens": 100, "stream": True}
    for _ in range(5):
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{stack.settings.public_url}/v1/completions"
        with requests.post(url, json=body, headers=headers, stream=True, timeout=30) as answer:
            assert answer.status_code == 200, answer.text
            next(answer.iter_content(chunk_size=None))
    web, _ = settled(stack)
    assert value(web, "posthuman_calls_total") == value(before, "posthuman_calls_total") + 5


def test_an_anchor_ends_the_lag_and_the_keeper_says_when_it_was_there(stack: LiveStack, on_sale: str) -> None:
    request_anchor(stack.home / "run")
    until = time.monotonic() + 30
    while value(web := scraped(stack)[0], "posthuman_anchor_lag_seconds") > 0:
        assert time.monotonic() < until, "not anchored"
        time.sleep(0.3)
    assert value(web, "posthuman_log_anchored_leaves") == value(web, "posthuman_log_leaves") > 0
    assert value(web, "posthuman_receipts_waiting") == 0
    assert time.time() - value(web, "posthuman_keeper_last_sign_timestamp_seconds") < 30
    assert time.time() - value(web, "posthuman_log_anchor_timestamp_seconds") < 3600
