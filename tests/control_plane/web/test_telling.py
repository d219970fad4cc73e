"""Each call has one line that says how it went, and is counted once; nothing of what was asked or answered is in either."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
from werkzeug.test import EnvironBuilder

from control_plane.errors import Unavailable
from tests.fixtures_market import PROMPT_CANARY, Market


def calls_told(market: Market) -> list[dict[str, Any]]:
    return [record for line in market.journal.getvalue().splitlines() if (record := json.loads(line))["event"] == "call"]


def counted(market: Market) -> dict[str, float]:
    """Every sample of ours, by its name and labels."""
    lines = [line for line in market.client.get("/metrics").text.splitlines() if line.startswith("posthuman_")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def grown(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}


def test_a_whole_call_is_told_and_counted_once(market: Market) -> None:
    token, order = market.sign_in("bob", market.gpt), market.order("carol", market.gpt)
    before = counted(market)
    answer = market.complete(token)
    (line,) = calls_told(market)
    assert {name: line[name] for name in ("surface", "task", "outcome", "did", "sequence", "units_out", "status", "why")} == {
        "surface": "completions", "task": "text-generation", "outcome": "done", "did": market.gpt.did, "sequence": 0,
        "units_out": 4, "status": None, "why": None,
    }  # fmt: skip
    assert line["order"].startswith("0x")
    assert line["order"] != order
    assert line["call"] == answer.headers["X-Posthuman-Call"]
    assert 0 < line["access_ms"] + line["server_ms"] + line["receipt_ms"] <= line["ms"]
    found = grown(before, counted(market))
    kind = 'surface="completions",task="text-generation"'
    assert found['posthuman_calls_total{outcome="done",' + kind + "}"] == 1
    assert found['posthuman_units_total{direction="out",' + kind + "}"] == 4
    assert found['posthuman_units_total{direction="in",' + kind + "}"] == line["units_in"]
    assert found["posthuman_call_seconds_count{" + kind + "}"] == 1
    for stage in ("access", "server", "receipt"):
        assert found[f'posthuman_call_stage_seconds_count{{stage="{stage}"}}'] == 1
    assert 'posthuman_calls_in_flight{surface="completions"}' not in found


@pytest.mark.parametrize(
    ("fault", "outcome", "status"), [("temperature", None, 400), ("too long", "refused", 422), ("down", "failed", 503)]
)
def test_a_call_that_is_not_answered_is_told_once_with_its_reason(
    market: Market, fault: str, outcome: str | None, status: int
) -> None:
    token, before = market.sign_in("bob", market.gpt), counted(market)
    market.server.is_down = fault == "down"
    prompt = " ".join([PROMPT_CANARY] * 100) if fault == "too long" else PROMPT_CANARY
    answer = market.complete(token, prompt=prompt, temperature=9 if fault == "temperature" else 1)
    assert answer.status_code == status
    lines = [json.loads(line) for line in market.journal.getvalue().splitlines()]
    assert len(lines) == 1, lines
    assert (lines[0]["status"], lines[0]["code"]) == (status, answer.get_json()["error"]["code"])
    assert lines[0]["event"] == ("call" if outcome else "refused")
    assert lines[0].get("outcome") == outcome
    found = grown(before, counted(market))
    refusal = f'posthuman_refusals_total{{code="{lines[0]["code"]}",status="{status}"}}'
    assert found[refusal] == 1
    calls = {name: value for name, value in found.items() if name.startswith("posthuman_calls_total")}
    named = 'posthuman_calls_total{outcome="%s",surface="completions",task="text-generation"}'
    assert calls == ({named % outcome: 1} if outcome else {})
    assert PROMPT_CANARY not in market.journal.getvalue()


def test_a_stream_is_timed_piece_by_piece(market: Market) -> None:
    token, before = market.sign_in("bob", market.gpt), counted(market)
    assert b"[DONE]" in market.complete(token, stream=True).data
    (line,) = calls_told(market)
    assert (line["outcome"], line["units_out"]) == ("done", 4)
    assert 0 < line["first_ms"] <= line["ms"]
    found = grown(before, counted(market))
    assert found["posthuman_stream_first_piece_seconds_count"] == 1
    assert found["posthuman_stream_between_pieces_seconds_count"] == 4, "three more pieces and the end"
    assert not any("in_flight" in name for name in found)


@pytest.mark.parametrize("read", [0, 2])
def test_a_stream_whose_reader_leaves_is_cut_and_no_longer_in_flight(market: Market, read: int) -> None:
    token, before = market.sign_in("bob", market.gpt), counted(market)
    sent = {"model": market.gpt.did, "prompt": PROMPT_CANARY, "max_tokens": 4, "stream": True}
    request = EnvironBuilder("/v1/completions", method="POST", json=sent, headers=market.bearer(token))
    pieces: Any = market.client.application.wsgi_app(request.get_environ(), lambda *_: None)
    during = grown(before, counted(market))
    assert during['posthuman_calls_in_flight{surface="completions"}'] == 1
    for _ in range(read):
        next(iter(pieces))
    pieces.close()
    (line,) = calls_told(market)
    assert line["outcome"] == "cut"
    assert (line["receipt"] is None) == (read == 0), "who has nothing has no receipt and no charge"
    after = grown(before, counted(market))
    assert not any("in_flight" in name for name in after)


def test_a_stream_that_the_server_breaks_is_told_as_failed(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    market.server.break_after = 2
    assert b'"error"' in market.complete(token, stream=True).data
    (line,) = calls_told(market)
    assert (line["outcome"], line["code"], line["receipt"]) == ("failed", "unavailable", None)


def test_a_fault_of_ours_in_a_stream_leaves_nothing_of_the_prompt(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The web server logs what a stream raises, with its text."""

    def broken(number: int) -> None:
        if number == 1:
            raise KeyError(PROMPT_CANARY)

    token = market.sign_in("bob", market.gpt)
    market.server.before_piece = broken
    answer = market.complete(token, stream=True)
    with pytest.raises(Exception, match=r"^a stream broke here$") as raised:
        _ = answer.data
    assert raised.value.__suppress_context__
    answer.close()
    told = [json.loads(line) for line in market.journal.getvalue().splitlines()]
    assert [(line["event"], line.get("outcome")) for line in told] == [("error", None), ("call", "failed")]
    assert told[0]["request"] == told[1]["request"]
    assert (told[0]["kind"], "broken" in told[0]["where"]) == ("KeyError", True)
    assert PROMPT_CANARY not in market.journal.getvalue()


def test_a_path_that_nothing_answers_is_not_written_down(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    assert market.client.get(f"/v1/{token}").status_code == 404
    assert market.client.get(f"/v2/models/{token}").status_code == 400
    assert market.client.get(f"/v2/models/{market.gpt.did}x").status_code == 400
    lines = [json.loads(line) for line in market.journal.getvalue().splitlines()]
    assert [(line["route"], line["did"]) for line in lines] == [
        (None, None),
        ("/v2/models/<did>", None),
        ("/v2/models/<did>", None),
    ]
    assert token not in market.journal.getvalue()


def test_a_refusal_before_admission_names_the_model_that_its_path_names(market: Market) -> None:
    assert market.client.post(f"/v2/models/{market.gpt.did}/infer", json={}).status_code == 401
    line = json.loads(market.journal.getvalue())
    assert (line["route"], line["did"], line["code"]) == ("/v2/models/<did>/infer", market.gpt.did, "no_token")


def test_no_label_of_a_metric_comes_from_outside(market: Market) -> None:
    """Whoever may choose a label may make a million of them."""
    token = market.sign_in("bob", market.gpt)
    market.complete(token, **{PROMPT_CANARY: 1})
    market.client.get(f"/v1/{PROMPT_CANARY}", headers={"X-Request-Id": PROMPT_CANARY})
    market.complete(token, did=PROMPT_CANARY)
    market.client.open("/v1/models", method="CANARY7F3A")
    text = market.client.get("/metrics").text
    assert PROMPT_CANARY not in text
    assert "CANARY7F3A" not in text
    assert not re.search(r"did:op:|0x[0-9a-f]{40}", text)


def test_a_line_that_cannot_be_written_costs_no_buyer_his_answer(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_line: str) -> int:
        raise OSError(28, "No space left on device")

    token = market.sign_in("bob", market.gpt)
    monkeypatch.setattr(market.journal, "write", full)
    assert market.complete(token).status_code == 200
    assert b"[DONE]" in market.complete(token, stream=True).data
    assert market.complete(token, temperature=9).status_code == 400


def test_an_outcome_that_is_unknown_is_an_error_of_ours() -> None:
    from control_plane.web.metrics import meter

    with pytest.raises(KeyError):
        meter("completions", "text-generation").end("vanished", 0, 0, 0.0)
    assert Unavailable("x").status == 503
