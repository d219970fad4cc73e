"""The `posthuman` command on a running stack: what it prints, and what it ends with."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.local.processes import supervised
from tests.fixtures_stack import LiveStack, running_stack

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture(scope="module")
def bought(stack: LiveStack, on_sale: str) -> Any:
    ran = stack.run("buy", on_sale, "--as", "derek", "--json")
    assert ran.code == 0, ran.out + ran.err
    return ran.json


@pytest.fixture(scope="module")
def called(stack: LiveStack, on_sale: str, bought: Any) -> Any:
    ran = stack.run("call", on_sale, "The market", "--as", "derek", "--json")
    assert ran.code == 0, ran.out + ran.err
    return ran.json


def anchor_and_wait(stack: LiveStack) -> None:
    request = stack.home / "run" / "anchor-now"
    request.touch()
    deadline = time.monotonic() + 30
    while request.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def where(stack: LiveStack) -> tuple[str, str]:
    return f"--rpc={stack.settings.rpc_url}", f"--log={stack.settings.public_url}/log"


def test_status_lists_every_component_as_ready(stack: LiveStack) -> None:
    ran = stack.run("status", "--json")
    assert ran.code == 0
    assert {part["name"]: part["state"] for part in ran.json["components"]} == dict.fromkeys(
        ("chain", "objects", "triton", "web", "keeper", "worker"), "ready"
    )


def test_a_second_up_says_that_it_is_running(stack: LiveStack) -> None:
    pids = [part["pid"] for part in stack.run("status", "--json").json["components"]]
    ran = stack.run("up")
    assert ran.code == 0
    assert "running already" in ran.err
    assert [part["pid"] for part in stack.run("status", "--json").json["components"]] == pids


def test_a_purchase_shows_the_fees_as_the_chain_has_them(stack: LiveStack, bought: Any) -> None:
    fees = {fee["kind"]: int(fee["amount"]) for fee in bought["fees"]}
    assert fees["publish"] == stack.settings.publish_fee
    assert fees["provider"] == stack.settings.provider_fee


def test_a_call_is_kept_with_its_bytes_for_its_owner_alone(called: Any) -> None:
    path = Path(called["file"])
    assert path.stat().st_mode & 0o777 == 0o600
    kept = json.loads(path.read_text())
    answer = json.loads(base64.b64decode(kept["response"]))
    assert answer["choices"][0]["text"] == called["text"]
    assert kept["receipt"]["id"] == called["receipt"]


def test_a_streamed_call_verifies_like_a_whole_one(stack: LiveStack, on_sale: str, called: Any) -> None:
    streamed = stack.run("call", on_sale, "The market", "--as", "derek", "--stream", "--json")
    assert streamed.code == 0, streamed.err
    assert streamed.json["text"] == called["text"]
    anchor_and_wait(stack)
    ran = stack.run("verify", streamed.json["file"], *where(stack), "--json", f"--with={called['file']}")
    assert ran.code == 0, ran.out
    assert {check["name"]: check["verdict"] for check in ran.json["checks"]}["sequence"] == "ok"


def test_a_conversation_is_a_call_like_any_other(stack: LiveStack, on_sale: str, bought: Any) -> None:
    asked = (
        "call",
        on_sale,
        "What is sold here?",
        "--chat",
        "--system",
        "Be brief.",
        "--max-tokens",
        "4",
        "--as",
        "derek",
        "--json",
    )
    whole, streamed = stack.run(*asked), stack.run(*asked, "--stream")
    assert (whole.code, streamed.code) == (0, 0), whole.err + streamed.err
    assert whole.json["text"] == streamed.json["text"] != ""
    kept = json.loads(Path(whole.json["file"]).read_text())
    assert json.loads(base64.b64decode(kept["response"]))["chat_template"] == "plain"
    anchor_and_wait(stack)
    ran = stack.run("verify", streamed.json["file"], *where(stack), "--json", f"--with={whole.json['file']}")
    assert ran.code == 0, ran.out


def test_a_stranger_with_an_empty_home_verifies_a_receipt(stack: LiveStack, called: Any, tmp_path: Path) -> None:
    anchor_and_wait(stack)
    nothing = {"HOME": str(tmp_path), "POSTHUMAN_HOME": str(tmp_path / "none")}
    ran = stack.run("verify", called["file"], *where(stack), **nothing)
    assert ran.code == 0, ran.out
    assert "verified" in ran.out
    assert "checking against the chain and the log: " in ran.err
    assert not (tmp_path / "none").exists()


def test_a_changed_answer_does_not_verify(stack: LiveStack, called: Any, tmp_path: Path) -> None:
    kept = json.loads(Path(called["file"]).read_text())
    kept["response"] = base64.b64encode(base64.b64decode(kept["response"]) + b" ").decode()
    changed = tmp_path / "receipt.changed-answer.json"
    changed.write_text(json.dumps(kept))
    ran = stack.run("verify", str(changed), *where(stack))
    assert ran.code == 1
    assert "NOT verified" in ran.out
    ran = stack.run("verify", called["file"], str(changed), *where(stack), "--json")
    assert (ran.code, ran.json["is_verified"]) == (1, False)
    assert [(file["file"], file["is_verified"]) for file in ran.json["files"]] == [(called["file"], True), (str(changed), False)]
    both = stack.run("verify", called["file"], called["file"], *where(stack), "--json")
    assert (both.code, both.json["is_verified"], len(both.json["files"])) == (0, True, 2), both.out


def test_receipts_are_listed_without_gaps(stack: LiveStack, called: Any) -> None:
    ran = stack.run("receipts", "--as", "derek", "--json")
    assert ran.code == 0
    assert called["receipt"] in [row["id"] for row in ran.json["receipts"]]
    assert ran.json["missing"] == {}


def test_what_is_refused_ends_with_3_and_names_the_field(stack: LiveStack, on_sale: str, called: Any) -> None:
    for arguments, field in (
        (("call", on_sale, "", "--as", "derek"), "prompt"),
        (("call", on_sale, "x", "--as", "derek", "--max-tokens", "-1"), "max_tokens"),
        (("call", on_sale, "x", "--as", "derek", "--min-p", "2"), "min_p"),
        (("call", on_sale, "market " * 400, "--as", "derek"), "prompt"),
        (("call", "did:op:nonsense", "x", "--as", "derek"), "did"),
        (("buy", "did:op:nonsense", "--as", "derek"), "did"),
        (("publish", "/nowhere", "--as", "alice", "--price", "-1"), "--price"),
        (("call", on_sale, "x", "--as", "nobody"), "--as"),
    ):
        ran = stack.run(*arguments, "--json")
        assert ran.code == 3, (arguments, ran.out, ran.err)
        assert ran.json["error"]["field"] == field, ran.out


def test_who_never_ordered_is_told_to_buy(stack: LiveStack, on_sale: str) -> None:
    ran = stack.run("call", on_sale, "x", "--as", "mallory")
    assert ran.code == 3
    assert "posthuman buy" in ran.err


def test_a_wrong_command_line_ends_with_2(stack: LiveStack, on_sale: str) -> None:
    assert stack.run("call", on_sale).code == 2
    assert stack.run("call", on_sale, "x").code == 2, "no wallet"
    assert stack.run("call", on_sale, "x", "--as", "derek", "--system", "Be brief.").code == 2, "no conversation"
    assert stack.run("publish", "model", "--as", "alice").code == 2, "neither price nor free"
    assert stack.run("nonsense").code == 2


def test_a_market_that_does_not_answer_ends_with_4(stack: LiveStack, on_sale: str) -> None:
    ran = stack.run("models", "--url", "http://127.0.0.1:9", "--json")
    assert ran.code == 4
    assert ran.json["error"]["code"] == "unavailable"


def test_a_wallet_from_a_keystore_buys_and_calls(stack: LiveStack, on_sale: str, tmp_path: Path) -> None:
    made = stack.run("wallet", "new", str(tmp_path / "wallet.json"), "--json", POSTHUMAN_PASSPHRASE="correct horse")
    assert made.code == 0, made.err
    assert (tmp_path / "wallet.json").stat().st_mode & 0o777 == 0o600
    wrong = stack.run("buy", on_sale, "--keystore", str(tmp_path / "wallet.json"), POSTHUMAN_PASSPHRASE="wrong")
    assert wrong.code == 3
    poor = stack.run("buy", on_sale, "--keystore", str(tmp_path / "wallet.json"), POSTHUMAN_PASSPHRASE="correct horse")
    assert poor.code == 3, poor.err
    again = stack.run("wallet", "new", str(tmp_path / "wallet.json"), POSTHUMAN_PASSPHRASE="another")
    assert again.code == 3, "a key is never overwritten"


def test_a_wallet_comes_from_the_environment(stack: LiveStack, on_sale: str) -> None:
    ran = stack.run("receipts", "--json", POSTHUMAN_PRIVATE_KEY="0x" + "11" * 32)
    assert ran.code == 0
    assert ran.json["receipts"] == []


def test_logs_are_shown_by_component(stack: LiveStack) -> None:
    ran = stack.run("logs", "web", "-n", "5", "--json")
    assert ran.code == 0
    assert set(ran.json) == {"web"}
    assert stack.run("logs", "nonsense").code == 3


def test_swapped_weights_are_restored_by_command(stack: LiveStack, on_sale: str, called: Any) -> None:
    entry = next(path for path in stack.settings.models.glob("m-*/1/model.onnx"))
    entry.write_bytes(b"swapped")
    refused = stack.run("call", on_sale, "The market", "--as", "derek", "--json")
    assert refused.code == 1
    assert refused.json["error"]["code"] == "model_tampered"
    assert stack.run("restore", on_sale, "--json").json["state"] == "on_sale"
    deadline = time.monotonic() + 20
    while (again := stack.run("call", on_sale, "The market", "--as", "derek", "--json")).code != 0:
        assert time.monotonic() < deadline, again.out
    assert again.json["text"] == called["text"]


def test_a_killed_component_comes_back_and_status_says_so(stack: LiveStack, on_sale: str, called: Any) -> None:
    before = {part["name"]: part for part in stack.run("status", "--json").json["components"]}
    os.kill(before["triton"]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        ran = stack.run("status", "--json")
        after = {part["name"]: part for part in ran.json["components"]}
        if after["triton"]["restarts"] > before["triton"]["restarts"] and ran.code == 0:
            break
        assert time.monotonic() < deadline, ran.out
        time.sleep(0.2)
    assert after["triton"]["pid"] != before["triton"]["pid"]
    assert "SIGKILL" in after["triton"]["reason"]
    while (again := stack.run("call", on_sale, "The market", "--as", "derek", "--json")).code != 0:
        assert again.code == 4, again.out
        assert time.monotonic() < deadline, again.out
    assert again.json["text"] == called["text"]


def test_a_killed_supervisor_is_cleared_up_and_nothing_is_left_after_down(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    with running_stack(home) as one:
        first = one.run("status", "--json").json
        log = one.settings.log_nft
        os.kill(first["pid"], signal.SIGKILL)
        time.sleep(0.5)
        lost = one.run("status", "--json")
        assert lost.json["state"] == "lost"
        assert lost.code == 1
        up = one.run("up", "--json")
        assert up.code == 0, up.out
        assert up.json["pid"] != first["pid"]
        assert one.settings.log_nft == log, "the chain and the log are the same ones"
        assert one.run("down", "--json").code == 0
        assert supervised(home) == []
        assert one.run("down", "--json").json["ended"] == 0
        assert one.run("status", "--json").json["state"] == "down"
