"""Files that a command is handed, damaged in every way: an error that names the file, and never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from control_plane.did import Did
from control_plane.receipts.receipt import CallStatus, Issued, Receipt, SignedReceipt, receipt_id
from deploy import exits
from deploy.buyer import BuyerFiles, KeptCall
from deploy.cli import main
from deploy.local.chain import local_account

NODE = "http://127.0.0.1:9"
"""Nobody answers there: a command that gets so far ends with 4."""


def issued() -> Issued:
    zero = "0x" + "0" * 64
    receipt = Receipt.from_json(
        {
            **dict.fromkeys(("model_digest", "request_hash", "response_hash", "order", "previous"), zero),
            **dict.fromkeys(("sequence", "started_at", "finished_at", "units_in", "units_out", "merge_by"), 1),
            "did": "did:op:" + "0" * 64,
            "consumer": local_account("bob").address,
            "status": int(CallStatus.DONE),
        }
    )
    signed = SignedReceipt(receipt, 8996, local_account("operator").address, bytes(65))
    return Issued(signed, bytes(32), receipt_id(signed))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--json"])


def assert_refused(ran: Result, word: str) -> None:
    assert isinstance(ran.exception, SystemExit), ran.exception
    assert ran.exit_code in (exits.USAGE, exits.REFUSED), ran.output
    assert word in json.loads(ran.stdout)["error"]["message"]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHUMAN_HOME", str(tmp_path / "home"))  # `--home` would outlive the test otherwise


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    files = BuyerFiles(tmp_path / "home", local_account("bob").address)
    return files.keep_call(KeptCall(Did("did:op:" + "0" * 64), "/v1/completions", b"{}", b"{}", issued().to_json(), 0.1))


DAMAGED: dict[str, Any] = {
    "no json": b"{",
    "no utf-8": b"\xff\xfe{}",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "a receipt that is text": {"receipt": "none"},
    "a receipt that is a list": {"receipt": []},
    "no receipt": {"receipt": None},
    "a receipt without parts": {"receipt": {"signed": {}}},
    "signed is text": {"receipt": {"signed": "x", "salt": "0x", "id": "0x"}},
    "no bytes": {"request": 5},
    "not base64": {"request": "%"},
}


def damage(path: Path, how: str) -> None:
    change = DAMAGED[how]
    path.write_bytes(change if isinstance(change, bytes) else json.dumps({**json.loads(path.read_text()), **change}).encode())


@pytest.mark.parametrize("how", DAMAGED)
def test_verify_says_what_is_wrong_with_its_file(kept: Path, how: str) -> None:
    damage(kept, how)
    assert_refused(run("verify", str(kept), "--rpc", NODE, "--log", NODE), "expected")


@pytest.mark.parametrize("how", DAMAGED)
def test_verify_says_what_is_wrong_with_another_receipt(kept: Path, tmp_path: Path, how: str) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(kept.read_bytes())
    damage(other, how)
    assert_refused(run("verify", str(kept), "--rpc", NODE, "--log", NODE, "--with", str(other)), str(other))


@pytest.mark.parametrize("proof", [b"\xff\xfe", b"", b"c2sp.org/tlog-proof@v1\nindex x\n\n", b"{}"])
def test_verify_says_what_is_wrong_with_a_proof(kept: Path, tmp_path: Path, proof: bytes) -> None:
    (tmp_path / "proof").write_bytes(proof)
    assert_refused(run("verify", str(kept), "--rpc", NODE, "--proof", str(tmp_path / "proof")), "proof")


def test_verify_names_the_one_of_several_files_that_is_damaged(kept: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_bytes(b"{")
    assert_refused(run("verify", str(damaged), str(kept), "--rpc", NODE, "--log", NODE), str(damaged))


@pytest.mark.parametrize("option", ["--proof", "--with", "--text"])
def test_what_belongs_to_one_file_is_not_taken_with_several(kept: Path, option: str) -> None:
    assert_refused(run("verify", str(kept), str(kept), "--rpc", NODE, option, str(kept)), "one FILE")


def test_verify_of_a_good_file_gets_as_far_as_the_node(kept: Path) -> None:
    ran = run("verify", str(kept), "--rpc", NODE, "--log", NODE)
    assert ran.exit_code == exits.TRY_AGAIN, ran.output


@pytest.mark.parametrize("how", [how for how in DAMAGED if how not in ("no bytes", "not base64")])
def test_receipts_names_a_damaged_call(kept: Path, tmp_path: Path, how: str) -> None:
    listed = run("receipts", "--as", "bob")
    assert [row["id"] for row in json.loads(listed.stdout)["receipts"]] == [issued().id]
    damage(kept, how)
    assert_refused(run("receipts", "--as", "bob"), str(kept))


def test_receipts_wants_a_did(kept: Path, tmp_path: Path) -> None:
    assert_refused(run("receipts", "--as", "bob", "--did", "nonsense"), "--did")


def test_a_price_of_nothing_is_said_by_free(tmp_path: Path) -> None:
    for price in ("0", "0.00"):
        assert_refused(run("publish", "model", "--as", "alice", "--price", price), "--free")


STATEMENT: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "evaluation.json").read_text(encoding="utf-8"))[
    "cases"
][0]["statement"]


@pytest.mark.parametrize("record", [STATEMENT, {"loss": 4.9, "statement": json.dumps(STATEMENT)}, {"statement": STATEMENT}])
def test_verify_of_an_evaluation_gets_as_far_as_the_node_without_a_log(tmp_path: Path, record: Any) -> None:
    (tmp_path / "statement.json").write_text(json.dumps(record))
    ran = run("verify", str(tmp_path / "statement.json"), "--rpc", NODE)
    assert ran.exit_code == exits.TRY_AGAIN, ran.output


@pytest.mark.parametrize("change", [{"chain_id": None}, {"chain_id": "8996"}, {"chain_id": True}])
def test_verify_of_an_evaluation_of_no_chain_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "statement.json").write_text(json.dumps({**STATEMENT, **change}))
    assert_refused(run("verify", str(tmp_path / "statement.json"), "--rpc", NODE), "chain_id")


def test_texts_are_given_with_an_evaluation_and_with_nothing_else(kept: Path) -> None:
    assert_refused(run("verify", str(kept), "--rpc", NODE, "--log", NODE, "--text", str(kept)), "--text")
