"""A buyer evaluates through the market's public API: the operator's figure, a receipt a call, or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from c2d_adapter.algorithms.evaluate import evaluate as evaluate_texts
from c2d_adapter.asking import Asking
from control_plane.did import TransactionHash
from control_plane.errors import BadInput, Unavailable
from control_plane.receipts.evaluation import texts_digest
from deploy import exits
from deploy.buyer import BuyerFiles, KeptSession
from deploy.cli import main
from deploy.evaluating import TRIES, CannotEvaluate, draw, evaluate, read_text
from deploy.local.chain import local_account
from deploy.market import Answered, MarketRefused
from deploy.market import Market as Remote
from tests.fixtures_market import CONTEXT_LENGTH, Market, market, receipt_of
from tests.fixtures_web import serving

__all__ = ["market"]

TEXTS = ["the market stands by the harbour", "a buyer pays and calls"]
LINES = "\n".join(
    f"{number} the market stands by the harbour and sells " + "what it has to whom it may " * 7 for number in range(30)
)
CHAIN = 8996


@pytest.fixture
def url(market: Market) -> Iterator[str]:
    with serving(market) as found:
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTHUMAN_HOME", str(tmp_path / "buyers"))
    return tmp_path / "buyers"


@pytest.fixture
def order(market: Market, url: str, home: Path) -> TransactionHash:
    """Bob's, with a session of it kept where the command looks."""
    made = market.order("bob", market.gpt)
    token = market.sign_in("bob", market.gpt, made)
    BuyerFiles(home, local_account("bob").address).keep_session(url, market.gpt.did, KeptSession(token, made, 4e9))
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments])


def told(market: Market, url: str, *arguments: str) -> Any:
    ran = run(market.gpt.did, "--as", "bob", "--url", url, "--json", *arguments)
    assert ran.exit_code == exits.DONE, ran.output
    return json.loads(ran.stdout)


def test_a_buyer_finds_what_the_operator_finds(market: Market, url: str, order: TransactionHash) -> None:
    found = told(market, url, "--text", TEXTS[0], "--text", TEXTS[1])
    theirs = evaluate_texts(TEXTS, Asking(market.server, market.gpt.entry_name).score, 0)
    assert (found["loss"], found["tokens"]) == (theirs.loss, theirs.tokens)
    assert found["perplexity"] == theirs.perplexity
    assert found["texts_digest"] == texts_digest([text.encode() for text in TEXTS])
    assert found["model_digests"] == [market.gpt.model_digest]


def test_each_text_is_one_call_with_its_receipt(market: Market, url: str, order: TransactionHash, home: Path) -> None:
    found = told(market, url, "--text", TEXTS[0], "--text", TEXTS[1])
    assert market.calls_used(order) == 2
    stored = {issued.id for issued in market.services.store.receipts_of(order=order)}
    assert {sample["receipt"] for sample in found["samples"]} == stored
    kept = BuyerFiles(home, local_account("bob").address).calls()
    assert [str(path) for path in kept] == sorted(sample["file"] for sample in found["samples"])


def test_people_read_the_loss_and_each_receipt(market: Market, url: str, order: TransactionHash) -> None:
    ran = run(market.gpt.did, "--as", "bob", "--url", url, "--text", TEXTS[0])
    assert ran.exit_code == exits.DONE, ran.output
    (issued,) = market.services.store.receipts_of(order=order)
    assert issued.id in ran.output and "nats a token, perplexity" in ran.output and market.gpt.model_digest in ran.output


def test_passages_are_drawn_by_the_seed_and_cut_to_what_the_model_reads(
    market: Market, url: str, order: TransactionHash, tmp_path: Path
) -> None:
    (tmp_path / "set.txt").write_text(LINES)
    named = ("--dataset", str(tmp_path / "set.txt"), "--samples", "4")
    first, again, other = (told(market, url, *named, "--seed", seed) for seed in ("3", "3", "4"))
    assert first["loss"] == again["loss"] != other["loss"]
    theirs = evaluate_texts(draw([LINES], 4, 3), Asking(market.server, market.gpt.entry_name).score, 256)
    assert (first["loss"], first["tokens"]) == (theirs.loss, theirs.tokens)
    assert all(sample["tokens"] < CONTEXT_LENGTH for sample in first["samples"])
    assert first["texts_digest"] == texts_digest([LINES.encode()])


def test_a_file_is_one_text(market: Market, url: str, order: TransactionHash, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(TEXTS[0])
    found = told(market, url, "--file", str(tmp_path / "one.txt"))
    assert found["loss"] == told(market, url, "--text", TEXTS[0])["loss"]
    assert told(market, url, "--file", str(tmp_path / "one.txt"), "--max-tokens", "3")["tokens"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((), exits.USAGE, "--text"),
        (("--text", " "), exits.USAGE, "not empty"),
        (("--text", "a b", "--dataset", "{long}"), exits.USAGE, "--dataset"),
        (("--text", "a b", "--seed", "1"), exits.USAGE, "--seed"),
        (("--dataset", "{long}", "--samples", "0"), exits.USAGE, "--samples"),
        (("--file", "{none}"), exits.USAGE, "none"),
        (("--file", "{empty}"), exits.REFUSED, "not empty"),
        (("--file", "{binary}"), exits.REFUSED, "UTF-8"),
        (("--file", "{long}"), exits.REFUSED, "Text 1 of 1 has more tokens"),
        (("--file", "{huge}"), exits.REFUSED, "body"),
        (("--dataset", "{short}"), exits.REFUSED, "1 lines"),
        (("--text", "word"), exits.REFUSED, "no token with another before it"),
    ],
)
def test_what_cannot_be_evaluated_says_why_and_shows_no_text(
    market: Market, url: str, order: TransactionHash, tmp_path: Path, arguments: tuple[str, ...], code: int, word: str
) -> None:
    contents: dict[str, bytes] = {
        "empty": b" \n",
        "binary": b"\xff\xfe\x00",
        "long": b"secretword " * 300,
        "huge": b"secretword " * 1_000_000,
        "short": b"secretword " * 30,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    files = {name: str(tmp_path / name) for name in (*contents, "none")}
    ran = run(market.gpt.did, "--as", "bob", "--url", url, "--json", *(argument.format(**files) for argument in arguments))
    assert ran.exit_code == code, ran.output
    assert word in json.loads(ran.stdout)["error"]["message"]
    assert "secretword" not in ran.output
    assert market.calls_used(order) <= 1


def test_who_has_no_order_is_told_to_buy_one(market: Market, url: str, home: Path) -> None:
    ran = run(market.gpt.did, "--as", "carol", "--url", url, "--json", "--text", "a b")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]["code"]) == (exits.REFUSED, "no_order")


class Told(Remote):
    """A market that answers as it is told: an error, or a body behind a real receipt."""

    def __init__(self, answers: list[Any], receipt: Any) -> None:
        super().__init__("http://127.0.0.1:9")
        self.answers, self.receipt, self.asked = answers, receipt, 0

    def complete(self, token: str, body: Any, path: str = "") -> Answered:
        self.asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Answered(b"{}", answer, self.receipt, 0.1)


GOOD = json.dumps({"choices": [{"logprobs": {"token_logprobs": [None, -1.5]}}]}).encode()


@pytest.fixture
def ask(market: Market, tmp_path: Path) -> Callable[..., Any]:
    """Evaluates one text with a market that gives these answers; the waits in between."""
    receipt = receipt_of(market.complete(market.sign_in("bob", market.gpt))).to_json()
    files = BuyerFiles(tmp_path / "files", local_account("bob").address)
    files.keep_session("http://127.0.0.1:9", market.gpt.did, KeptSession("ph_x", TransactionHash("0x" + "0" * 64), 4e9))

    def asking(*answers: Any) -> Any:
        waits: list[float] = []
        remote = Told(list(answers), receipt)
        found = evaluate(remote, local_account("bob"), files, market.gpt.did, CHAIN, ["a b"], 0, sleep=waits.append)
        return found, waits

    return asking


def refused(code: str, status: int = 503, retry_after_s: int | None = 7) -> MarketRefused:
    return MarketRefused(status, code, "not now", {}, retry_after_s)


def test_a_market_that_is_busy_is_asked_again_when_it_says(ask: Callable[..., Any]) -> None:
    found, waits = ask(refused("queue_full"), refused("too_fast", 429, None), GOOD)
    assert (found.found.loss, waits) == (1.5, [7, 1])


def test_a_market_that_stays_busy_or_refuses_is_not_asked_for_ever(ask: Callable[..., Any]) -> None:
    for answers in ([refused("queue_full")] * TRIES, [refused("order_expired", 403)]):
        with pytest.raises(MarketRefused):
            ask(*answers)


@pytest.mark.parametrize(
    "answer",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":[{"logprobs":null}]}',
        b'{"choices":[{"logprobs":{"token_logprobs":[]}}]}',
        b'{"choices":[{"logprobs":{"token_logprobs":[null,"x"]}}]}',
        b'{"choices":[{"logprobs":{"token_logprobs":[null,true]}}]}',
        b'{"choices":[{"logprobs":{"token_logprobs":[-1.0,-1.0]}}]}',
    ],
)
def test_an_answer_of_another_form_is_not_taken_for_a_loss(ask: Callable[..., Any], answer: bytes) -> None:
    with pytest.raises(Unavailable, match="probabilities"):
        ask(answer)


def test_a_loss_that_is_no_number_is_the_models_fault(ask: Callable[..., Any]) -> None:
    with pytest.raises(CannotEvaluate) as failed:
        ask(b'{"choices":[{"logprobs":{"token_logprobs":[null,-Infinity]}}]}')
    assert exits.exit_code_of(failed.value) == exits.FAILED


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        read_text(tmp_path / "nowhere")
