"""The operator's evaluation on the real parts: scored through Triton, signed by the market's own key, verified by a stranger."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest
import requests

from c2d_adapter.asking import Asking, Evaluated, evaluate
from c2d_adapter.job_io import Folder
from control_plane.did import parse_did
from control_plane.receipts.keys import read_receipt_key
from control_plane.receipts.signing import ReceiptSigner
from control_plane.wiring import open_triton, receipt_key_file
from converters.entry import triton_name
from deploy.local.chain import local_accounts
from tests.fixtures_stack import LiveStack

pytestmark = [pytest.mark.live, pytest.mark.slow]

TEXTS = ["The market stands by the harbour.", "A buyer pays, calls, and goes."]


@pytest.fixture(scope="module")
def result(stack: LiveStack, on_sale: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of an evaluation job of the demo's model."""
    settings, folder = stack.settings, Folder(tmp_path_factory.mktemp("job"))
    (folder.path / "job.json").write_text(json.dumps({"kind": "evaluate", "parameters": {"texts": TEXTS, "max_tokens": 32}}))
    listed = requests.get(f"{settings.public_url}/v1/models/{on_sale}", timeout=10).json()
    assert settings.log_nft is not None
    signer = ReceiptSigner(read_receipt_key(receipt_key_file(settings)), settings.chain_id, settings.log_nft)
    asset = Evaluated(parse_did(on_sale), listed["nft"], local_accounts()["elena"].address, listed["model_digest"])
    with closing(open_triton(settings)) as server:
        evaluate(folder, Asking(server, triton_name(listed["model_digest"])).score, asset, signer, time.time)
    return folder.path / "result.json"


def test_a_stranger_verifies_what_the_operator_states(stack: LiveStack, result: Path, tmp_path: Path) -> None:
    texts = []
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text)
        texts.append(f"--text={tmp_path / str(number)}.txt")
    nothing = {"HOME": str(tmp_path), "POSTHUMAN_HOME": str(tmp_path / "none")}
    ran = stack.run("verify", str(result), f"--rpc={stack.settings.rpc_url}", *texts, "--json", **nothing)
    assert ran.code == 0, ran.out + ran.err
    assert {check["verdict"] for check in ran.json["checks"]} == {"ok"}
    assert not (tmp_path / "none").exists()


def test_a_better_loss_than_was_signed_does_not_verify(stack: LiveStack, result: Path, tmp_path: Path) -> None:
    statement = json.loads(json.loads(result.read_text())["statement"])
    statement["evaluation"]["loss_micronats"] -= 1
    (tmp_path / "statement.better.json").write_text(json.dumps(statement))
    ran = stack.run("verify", str(tmp_path / "statement.better.json"), f"--rpc={stack.settings.rpc_url}")
    assert ran.code == 1
    assert "NOT verified" in ran.out and "signature" in ran.out


def test_a_buyer_finds_the_loss_that_the_operator_stated(stack: LiveStack, on_sale: str, result: Path) -> None:
    bought = stack.run("buy", on_sale, "--as", "elena", "--json")
    assert bought.code == 0, bought.out + bought.err
    texts = [part for text in TEXTS for part in ("--text", text)]
    ran = stack.run("evaluate", on_sale, *texts, "--max-tokens", "32", "--as", "elena", "--json")
    assert ran.code == 0, ran.out + ran.err
    said = json.loads(json.loads(result.read_text())["statement"])["evaluation"]
    assert round(ran.json["loss"] * 10**6) == pytest.approx(said["loss_micronats"], abs=1)
    assert (ran.json["tokens"], ran.json["texts_digest"]) == (said["tokens"], said["dataset_digest"])
    assert ran.json["model_digests"] == [said["model_digest"]]
