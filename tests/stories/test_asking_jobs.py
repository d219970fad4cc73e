"""Answers and evaluations as paid jobs on the real stack: what calls of one's own say, paid for once, signed, and nothing leaks."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from control_plane.did import TransactionHash, parse_did
from control_plane.flows.keep import request_anchor
from control_plane.jobs.environments import FREE, PAID
from deploy.local.chain import local_accounts
from deploy.market import Market
from tests.canaries import Canaries
from tests.fixtures_stack import LiveStack, within

pytestmark = [pytest.mark.live, pytest.mark.slow]

MARKER = "Qk8JobCanary3Wx"
PROMPTS = [f"The market stands {MARKER}", "A buyer pays and calls", "The harbour of the town"]
TEXTS = [f"The market stands by the harbour, says {MARKER}.", "A buyer pays, calls, and goes."]
LONG = pytest.mark.long


class Calling:
    """Derek's own calls, and what they said."""

    def __init__(self, stack: LiveStack, did: str) -> None:
        bought = stack.run("buy", did, "--as", "derek", "--json")
        assert bought.code == 0, bought.out + bought.err
        self.did, self.order = did, TransactionHash(bought.json["order"])
        self.market, derek = Market(stack.settings.public_url), local_accounts()["derek"]
        self.token = self.market.sign_in(derek, parse_did(did), self.order, stack.settings.chain_id).token
        self.made = 0

    def text(self, prompt: str, **drawing: Any) -> str:
        answered = self.market.complete(self.token, {"model": self.did, "prompt": prompt, **drawing})
        self.made += 1
        return str(json.loads(answered.response)["choices"][0]["text"])

    def receipts(self) -> int:
        return len(self.market.get_json("/v1/receipts", self.token)["receipts"])


@pytest.fixture(scope="module")
def calling(stack: LiveStack, on_sale: str) -> Calling:
    return Calling(stack, on_sale)


@pytest.mark.parametrize(
    ("environment", "drawing"),
    [
        (PAID, {"max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "seed": 7}),
        pytest.param(FREE, {"max_tokens": 20, "temperature": 0.0}, marks=LONG),
    ],
    ids=["drawn-paid", "greedy-free"],
)
def test_a_batch_says_what_calls_say(
    stack: LiveStack, on_sale: str, calling: Calling, environment: str, drawing: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "prompts.json").write_text(json.dumps(PROMPTS))
    options = [part for name, value in drawing.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    terms = ("--environment", environment, "--as", "derek", "--json")
    ran = stack.run("infer", on_sale, "--prompts", str(tmp_path / "prompts.json"), *options, *terms)
    assert ran.code == 0, ran.out + ran.err
    seeds = [{"seed": drawing["seed"] + number} if "seed" in drawing else {} for number in range(len(PROMPTS))]
    direct = [calling.text(prompt, **{**drawing, **seed}) for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert [answer["text"] for answer in ran.json["answers"]] == direct
    assert ran.json["job"]["progress"]["step"] == len(PROMPTS)
    assert calling.receipts() == calling.made, "a job is no call of the order"
    kept = Path(ran.json["file"])
    assert_verified(stack, kept, tmp_path)
    shown = stack.run("job", ran.json["job_id"], "--as", "derek")
    assert shown.code == 0 and f"receipt {ran.json['receipt']}, kept in {kept}" in shown.out, shown.out + shown.err
    assert_hidden(stack)


def assert_verified(stack: LiveStack, kept: Path, tmp_path: Path) -> None:
    """By a process that has the file, a node and the public log, once an anchor holds its receipt."""
    nothing: dict[str, Any] = {"HOME": str(tmp_path), "POSTHUMAN_HOME": str(tmp_path / "none")}
    places = (f"--rpc={stack.settings.rpc_url}", f"--log={stack.settings.public_url}/log", "--json")

    def is_verified() -> bool:
        request_anchor(stack.home / "run")
        ran = stack.run("verify", str(kept), *places, **nothing)
        verdicts = {check["name"]: check["verdict"] for check in ran.json["checks"]}
        assert "failed" not in verdicts.values(), ran.out
        assert (verdicts["request"], verdicts["response"], verdicts["order"]) == ("ok", "ok", "ok")
        return ran.code == 0

    within(is_verified, "a batch's receipt in an anchored log")


def test_a_signed_evaluation_says_what_a_buyer_finds(stack: LiveStack, on_sale: str, calling: Calling, tmp_path: Path) -> None:
    texts = [part for text in TEXTS for part in ("--text", text)]
    terms = (*texts, "--max-tokens", "32", "--as", "derek", "--json")
    signed = stack.run("evaluate", on_sale, *terms, "--as-job", "--max-price", "4", "--publish")
    assert signed.code == 0, signed.out + signed.err
    assert signed.json["verification"]["is_verified"]
    direct = stack.run("evaluate", on_sale, *terms, "--order", calling.order)
    assert direct.code == 0, direct.out + direct.err
    calling.made += len(TEXTS)
    assert signed.json["loss"] == pytest.approx(direct.json["loss"], abs=1e-6)
    for name in ("tokens", "texts_digest", "model_digests"):
        assert signed.json[name] == direct.json[name]
    nothing: dict[str, Any] = {"HOME": str(tmp_path), "POSTHUMAN_HOME": str(tmp_path / "none")}
    alone = stack.run("verify", signed.json["file"], f"--rpc={stack.settings.rpc_url}", **nothing)
    assert alone.code == 0, alone.out + alone.err
    listed = stack.run("evaluations", on_sale, "--json")
    assert listed.code == 0, listed.out + listed.err
    assert signed.json["statement"] in [each["statement"] for each in listed.json["evaluations"]]
    assert_hidden(stack)


def assert_hidden(stack: LiveStack) -> None:
    """What was asked and answered stands in the job's row, which its owner alone reads, and nowhere else."""
    canaries = Canaries(MARKER, {})

    def is_left_out(path: Path) -> bool:
        return str(path).startswith(
            ("keys", "buyer", "demo", "cache/sources", "posthuman.db", "chain", "objects", "models", "weights")
        )

    found, read = canaries.found_below(stack.home, is_left_out)
    assert found == [] and {"logs/web.log", "logs/worker.log", "logs/triton.log"} <= set(read)
    with closing(sqlite3.connect(f"file:{stack.home / 'posthuman.db'}?mode=ro", uri=True)) as database:
        tables = [str(name) for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608  # a name out of the database's own list
            columns = [str(column[0]) for column in rows.description]
            held = {(table, column) for row in rows for column, value in zip(columns, row, strict=True) if MARKER in str(value)}
            assert held <= {("jobs", "parameters"), ("jobs", "result")}
    for path in ("/metrics", "/v1/models", "/log/checkpoint"):
        assert MARKER not in requests.get(stack.settings.public_url + path, timeout=10).text
