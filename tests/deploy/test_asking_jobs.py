"""`infer` and `evaluate --as-job`: paid for once, answered by the served model, and a statement is checked before it is shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from c2d_adapter.algorithms.evaluate import evaluate as evaluate_texts
from c2d_adapter.asking import Asking
from control_plane.errors import BadInput, Conflict, IntegrityBroken
from control_plane.jobs.environments import PAID
from control_plane.receipts.checks import check_bytes
from control_plane.receipts.evaluation import SignedEvaluation
from control_plane.receipts.receipt import Issued
from control_plane.receipts.signing import ReceiptSigner, recover_signer
from deploy import exits
from deploy.cli import main
from deploy.commands import evaluate as evaluate_module
from deploy.commands import evaluations as evaluations_module
from deploy.commands import infer as infer_module
from deploy.commands import jobs as jobs_module
from deploy.commands.infer import read_prompts
from deploy.commands.job_buyer import Buyer
from deploy.commands.verify import read_given
from deploy.job_results import answers_of, statement_of
from deploy.job_trading import Wanted, follow
from tests.control_plane.receipts.test_evaluation import STATEMENT
from tests.fixtures_stand import Stand, stand

__all__ = ["stand"]

TEXTS = ["the market stands by the harbour", "a buyer pays and calls"]


class Standing(Buyer):
    """Bob at the stand."""

    at: Stand

    def __init__(self, *_options: object) -> None:
        self.settings, self.wallet = self.at.market.services.settings, self.at.bob
        self.files, self.market = self.at.files, self.at.buyers

    @property
    def ledger(self) -> Any:
        return self.at.market.ledger

    def _look(self, job_id: str) -> Iterator[dict[str, Any]]:
        return follow(lambda: self.ask(lambda token: self.market.job(token, job_id)), every_s=0.05)


@pytest.fixture
def bob(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    stand.sign_statements()
    monkeypatch.setattr(Standing, "at", stand, raising=False)
    for module in (infer_module, evaluate_module):
        monkeypatch.setattr(module, "Buyer", Standing)
    with stand.working():
        yield stand


def run(stand: Stand, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [command, stand.market.gpt.did, *arguments])


def test_a_batch_is_paid_for_once_and_answered_as_calls_would_be(bob: Stand, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(TEXTS) + "\n\n")
    drawing = ("--max-tokens", "5", "--temperature", "0.5", "--top-p", "0.9", "--top-k", "7", "--seed", "3")
    ran = run(bob, "infer", "--prompts", str(tmp_path / "prompts.txt"), *drawing, "--json")
    assert ran.exit_code == exits.DONE, ran.output
    record = json.loads(ran.stdout)
    fields = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 7}
    asked = Asking(bob.market.server, bob.market.gpt.entry_name)
    direct = [asked.answer({"text_input": text, "seed": 3 + number, **fields}) for number, text in enumerate(TEXTS)]
    assert [each["text"] for each in record["answers"]] == [each.text for each in direct]
    assert (record["job"]["state"], bob.orders()) == ("finished", 1)


def test_a_batch_is_kept_with_its_receipt_as_a_call_is(bob: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "Buyer", Standing)
    ran = run(bob, "infer", "--prompt", TEXTS[0], "--prompt", TEXTS[1], "--temperature", "0.7", "--json")
    assert ran.exit_code == exits.DONE, ran.output
    record = json.loads(ran.stdout)
    given = read_given(Path(record["file"]))
    issued, said = Issued.from_json(given.envelope), Issued.from_json(given.envelope).signed.receipt
    assert (issued.id, said.consumer, said.order) == (record["receipt"], bob.bob.address, record["job"]["payment"])
    assert given.request is not None and json.loads(given.request)["prompts"] == TEXTS
    assert given.response is not None and json.loads(given.response) == record["job"]["result"]
    assert recover_signer(issued.signed) == bob.signer.address
    checks = check_bytes(issued.signed, issued.salt, given.request, given.response)
    assert [check.verdict.value for check in checks] == ["ok", "ok"]
    for terms in ((), ("--once",)):
        again = CliRunner().invoke(main, ["job", record["job_id"], *terms])
        assert again.exit_code == exits.DONE and f"receipt {issued.id}, kept in {record['file']}" in again.stdout, again.output
    assert bob.files.calls() == [Path(record["file"])]


@pytest.mark.parametrize("lie", ["result", "parameters", "receipt", "id", "left out"])
def test_a_receipt_of_something_else_is_not_kept(bob: Stand, lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, other = bob.buyers.job, json.loads(run(bob, "infer", "--prompt", TEXTS[1], "--json").stdout)
    kept = bob.files.calls()

    def lying(token: str, job_id: str) -> dict[str, Any]:
        job = honest(token, job_id)
        if job["receipt"] is None:
            return job
        lies: dict[str, Any] = {
            "result": {"result": {**job["result"], "prompt_tokens": 99}},
            "parameters": {"parameters": {**job["parameters"], "prompts": ["what was never asked"]}},
            "receipt": {"receipt": other["job"]["receipt"]},
            "id": {"receipt": {**job["receipt"], "id": "0x" + "1" * 64}},
            "left out": {"receipt": None},
        }
        return {**job, **lies[lie]}

    monkeypatch.setattr(bob.buyers, "job", lying)
    ran = run(bob, "infer", "--prompt", TEXTS[0], "--json")
    assert ran.exit_code == exits.FAILED, ran.output
    assert json.loads(ran.stdout)["error"]["code"] == "result_differs" and bob.files.calls() == kept


def test_people_read_the_answers_in_their_order(bob: Stand) -> None:
    ran = run(bob, "infer", "--prompt", TEXTS[0], "--prompt", TEXTS[1], "--temperature", "0")
    assert ran.exit_code == exits.DONE, ran.output
    assert ran.stdout.index("[1] ") < ran.stdout.index("[2] ") and "s of computing in posthuman" in ran.stderr


def test_nothing_is_paid_for_prompts_that_the_model_does_not_take(bob: Stand) -> None:
    ran = run(bob, "infer", "--prompt", TEXTS[0], "--max-tokens", "0", "--json")
    assert (ran.exit_code, json.loads(ran.stdout)["error"]["field"]) == (exits.REFUSED, "max_tokens")
    assert run(bob, "infer").exit_code == exits.USAGE
    assert bob.paid() == 0


def test_an_evaluation_as_a_job_is_signed_checked_and_kept(bob: Stand) -> None:
    texts = [part for text in TEXTS for part in ("--text", text)]
    ran = run(bob, "evaluate", *texts, "--max-tokens", "32", "--as-job", "--json")
    assert ran.exit_code == exits.DONE, ran.output
    record = json.loads(ran.stdout)
    theirs = evaluate_texts(TEXTS, Asking(bob.market.server, bob.market.gpt.entry_name).score, 32)
    assert record["loss"] == pytest.approx(theirs.loss, abs=1e-6) and record["tokens"] == theirs.tokens
    assert {check["verdict"] for check in record["verification"]["checks"]} == {"ok"}
    assert json.loads(Path(record["file"]).read_text()) == record["statement"]
    assert bob.orders() == 1


def test_the_market_s_own_passages_are_drawn_by_a_job(bob: Stand) -> None:
    ran = run(bob, "evaluate", "--dataset", "wikitext-2", "--samples", "2", "--seed", "4", "--as-job")
    assert ran.exit_code == exits.DONE, ran.output
    assert "verified:" in ran.stdout and "nats a token, perplexity" in ran.stdout
    direct = run(bob, "evaluate", "--dataset", "wikitext-2", "--as", "bob")
    assert direct.exit_code == exits.USAGE and "--as-job" in direct.output
    other = run(bob, "evaluate", "--dataset", "words.txt", "--as-job")
    assert other.exit_code == exits.USAGE and "wikitext-2" in other.output


def test_what_is_found_is_shown_to_others_when_its_evaluator_wants_it(bob: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    did, terms = bob.market.gpt.did, ("--text", TEXTS[0], "--as-job", "--json")
    quiet = json.loads(run(bob, "evaluate", *terms).stdout)
    assert bob.buyers.evaluations(did) == []
    ran = run(bob, "evaluate", *terms, "--publish")
    assert ran.exit_code == exits.DONE, ran.output
    (shown,) = bob.buyers.evaluations(did)
    assert shown["statement"] == json.loads(ran.stdout)["statement"]
    assert shown["statement"]["evaluation"]["evaluator"] == bob.bob.address

    monkeypatch.setattr(evaluations_module, "Market", lambda _url: bob.buyers)
    monkeypatch.setattr(evaluations_module, "open_reader", lambda *_settings: bob.market.ledger)
    monkeypatch.setattr(jobs_module, "Buyer", Standing)
    published = CliRunner().invoke(main, ["job", quiet["job_id"], "--publish", "--json"])
    assert published.exit_code == exits.DONE, published.output
    assert json.loads(published.stdout)["id"] == shown["id"], "the same finding at another time is the same record"
    with monkeypatch.context() as full:

        def no_room(*_: Any) -> None:
            raise Conflict("as many as there may be", code="too_many_evaluations")

        full.setattr(bob.market.services.evaluations, "check_room", no_room)
        again = CliRunner().invoke(main, ["job", quiet["job_id"], "--publish", "--json"])
        assert again.exit_code == exits.DONE and json.loads(again.stdout) == json.loads(published.stdout)
    assert json.loads(run(bob, "evaluations", "--before", shown["id"], "--json").stdout) == {"evaluations": []}
    assert json.loads(run(bob, "evaluations", "--evaluator", bob.market.gpt.nft, "--json").stdout) == {"evaluations": []}
    listed = run(bob, "evaluations")
    assert listed.exit_code == exits.DONE and listed.stdout.count("verified") == 1 and bob.bob.address in listed.stdout
    forged = json.loads(json.dumps(shown))
    forged["statement"]["evaluation"]["loss_micronats"] -= 1
    monkeypatch.setattr(bob.buyers, "evaluations", lambda *_: [forged])
    lied = run(bob, "evaluations")
    assert lied.exit_code == exits.FAILED and "NOT verified (signature)" in lied.stdout


class Showing:
    """A market that shows these as published."""

    def __init__(self, *records: object) -> None:
        self.records = list(records)

    def evaluations(self, *_: object) -> list[object]:
        return self.records


@pytest.mark.parametrize(
    "record", [None, {}, {"id": 1}, {"id": "0x1", "statement": {}}, {"id": "0x1", "statement": {"evaluation": 5}}]
)
def test_a_published_record_that_is_none_is_told_without_a_traceback(record: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for shown in (record, {"id": "0x1", "statement": STATEMENT}):
        monkeypatch.setattr(evaluations_module, "Market", lambda _url, found=shown: Showing(found))
        ran = CliRunner().invoke(main, ["evaluations", "did:op:" + "9" * 64, "--json"])
        assert json.loads(ran.stdout)["error"]["code"] == "result_differs", ran.output
        assert ran.exit_code not in (exits.DONE, exits.USAGE)


def test_a_statement_by_another_key_is_shown_and_ends_with_one(bob: Stand) -> None:
    stranger = ReceiptSigner(b"\x08" * 32, bob.signer.chain_id, bob.signer.log)
    bob.signer._key, bob.signer.address = stranger._key, stranger.address
    ran = run(bob, "evaluate", "--text", TEXTS[0], "--as-job")
    assert ran.exit_code == exits.FAILED
    assert "signature  FAILED" in ran.stdout and "NOT verified" in ran.stdout


def test_a_job_that_fails_ends_with_one_and_names_the_command_for_its_payment(bob: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = bob.market.server.generate

    def broken(name: str, fields: Any, *others: Any) -> Any:
        if "score" in fields:
            raise BadInput("text_input", "another", "this")
        return generate(name, fields, *others)

    monkeypatch.setattr(bob.market.server, "generate", broken)
    ran = run(bob, "evaluate", "--text", TEXTS[0], "--as-job")
    assert ran.exit_code == exits.FAILED, ran.output
    assert f"posthuman evaluate {bob.market.gpt.did} --as-job --order 0x" in ran.stdout


def test_a_statement_about_something_else_is_refused(bob: Stand) -> None:
    ran = run(bob, "evaluate", "--text", TEXTS[0], "--as-job", "--json")
    job, owner = json.loads(ran.stdout)["job"], bob.bob.address
    wanted = Wanted("evaluate", bob.market.gpt.did, {"texts": [TEXTS[0]]}, PAID, 600)
    assert statement_of(job, wanted, owner).evaluation.did == bob.market.gpt.did
    for others in ({"texts": ["other"]}, {"texts": TEXTS}, {"dataset": "wikitext-2"}, {"texts": [TEXTS[0]], "max_tokens": 9}):
        with pytest.raises(IntegrityBroken):
            statement_of(job, replace(wanted, parameters=others), owner)
    for field in ("model_digest", "tokens", "loss", "statement"):
        changed = copy.deepcopy(job)
        place = next(each for each in (changed["result"], changed) if field in each)
        place[field] = place[field] + 1 if isinstance(place[field], int | float) else "0x" + "1" * 64
        with pytest.raises(IntegrityBroken):
            statement_of(changed, wanted, owner)


@pytest.mark.parametrize(
    "lie",
    [
        {"did": "did:op:" + "1" * 64},
        {"evaluator": "0x" + "12" * 20},
        {"sample_seed": 5},
        {"samples": 1},
        {"max_tokens": 20},
        {"max_tokens": 300},
        {"is_sampled": False, "sample_seed": 0},
    ],
    ids=str,
)
def test_a_market_that_brings_a_true_statement_of_something_else_is_found_out(
    bob: Stand, lie: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed by the receipt key, and the job beside it tells the same."""
    market_s, bounded = bob.buyers.job, ("--max-tokens", "30") if lie.get("max_tokens") == 20 else ()

    def lying(token: str, job_id: str) -> dict[str, Any]:
        job = market_s(token, job_id)
        if job["result"]:
            said = SignedEvaluation.from_json(json.loads(job["result"]["statement"])).evaluation
            told = bob.signer.sign_evaluation(replace(said, **lie))
            job["result"] |= {"statement": json.dumps(told.to_json()), "samples": told.evaluation.samples}
            job |= {"did": told.evaluation.did, "owner": told.evaluation.evaluator}
            job["parameters"] |= {
                "seed": told.evaluation.sample_seed,
                "samples": told.evaluation.samples,
                "max_tokens": told.evaluation.max_tokens,
            }
        return job

    monkeypatch.setattr(bob.buyers, "job", lying)
    ran = run(bob, "evaluate", "--dataset", "wikitext-2", "--samples", "2", "--seed", "4", *bounded, "--as-job", "--json")
    assert ran.exit_code not in (exits.DONE, exits.USAGE)
    assert json.loads(ran.stdout)["error"]["code"] == "result_differs", ran.output


@pytest.mark.parametrize("answers", ["[]", "no JSON", '[{"text": 1, "finish_reason": "stop", "tokens": 1}]', '{"text": "a"}', None])
def test_answers_that_are_none_are_refused(answers: object) -> None:
    with pytest.raises(IntegrityBroken):
        answers_of({"result": {"answers": answers}}, 1)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("p.txt", "one\n\n two \n", ["one", " two "]),
        ("p.json", '["a\\nb", "c"]', ["a\nb", "c"]),
        ("p.json", '["a", ""]', None),
        ("p.json", "[]", None),
        ("p.json", '{"a": 1}', None),
        ("p.json", "one", None),
        ("p.txt", "  ", None),
    ],
)
def test_prompts_are_lines_or_a_list_of_texts(tmp_path: Path, name: str, content: str, found: list[str] | None) -> None:
    (tmp_path / name).write_text(content)
    if found is None:
        with pytest.raises(BadInput):
            read_prompts(tmp_path / name)
    else:
        assert read_prompts(tmp_path / name) == found
