"""Chapter 6: the log is anchored, and a process that shares nothing with the market verifies a receipt.

In: a kept call. Out: each check of the verifier, as it printed them. This module must never hand the verifier more than the receipt
file, a node's URL and the public log's URL.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from control_plane.chain.ledger import LedgerReader
from control_plane.errors import PosthumanError, Unavailable
from control_plane.flows.keep import request_anchor
from control_plane.receipts.anchors import Anchor, read_anchors
from control_plane.receipts.public_log import HttpLogFiles, PublicLog
from control_plane.receipts.receipt import SignedReceipt, receipt_id
from control_plane.settings import Settings
from deploy.demo.narration import Narrator

_WITHIN_S, _EACH_S = 60.0, 2.0


def audit(home: Path, settings: Settings, reader: LedgerReader, narrator: Narrator, kept: Path, signed: SignedReceipt) -> None:
    with narrator.steps.step("asking the log keeper for an anchor, and waiting for it"):
        anchored = anchor_now(home, settings, reader, signed)
    narrator.fact(
        "anchor", f"{anchored.transaction} in block {anchored.block}: {anchored.size} receipts, root {anchored.root.hex()}"
    )
    with tempfile.TemporaryDirectory(dir=home / "cache" / "tmp") as folder:
        stranger = Path(folder)
        receipt = stranger / "receipt.json"
        shutil.copyfile(kept, receipt)
        with narrator.steps.step(f"posthuman verify receipt.json --rpc {settings.rpc_url} --log {settings.public_url}/log"):
            code, result = verify_apart(stranger, [receipt], settings)
        for check in result.get("checks", []):
            needed = check["is_required"] or check["verdict"] != "not checked"
            if needed:
                narrator.check(f"stranger: {check['name']}", check["verdict"] == "ok", check["evidence"])
        narrator.check(
            "the stranger's verdict: verified, exit code 0",
            code == 0 and result.get("is_verified") is True,
            result.get("error", ""),
        )
        receipt.write_text(json.dumps(_changed(json.loads(kept.read_text(encoding="utf-8")))), encoding="utf-8")
        with narrator.steps.step("the same, with one letter of the answer changed"):
            code, result = verify_apart(stranger, [receipt], settings)
        named = [check["name"] for check in result.get("checks", []) if check["verdict"] == "failed"]
        narrator.check(
            "with one letter of the answer changed, it does not verify", code == 1 and bool(named), f"failed: {', '.join(named)}"
        )


def anchor_now(home: Path, settings: Settings, reader: LedgerReader, signed: SignedReceipt) -> Anchor:
    """Ask the log keeper for an anchor that covers this receipt, and wait for it."""
    assert settings.log_nft is not None  # noqa: S101  # the stack made it
    leaf = bytes.fromhex(receipt_id(signed)[2:])
    deadline = time.monotonic() + _WITHIN_S
    while time.monotonic() < deadline:
        try:
            index = PublicLog(HttpLogFiles(f"{settings.public_url}/log")).prove(leaf).index
        except PosthumanError:  # in no checkpoint yet
            time.sleep(0.2)
            continue
        anchors = read_anchors(reader, settings.log_nft)
        if anchors and anchors[-1].size > index:
            return anchors[-1]
        request_anchor(home / "run")
        time.sleep(0.3)
    raise Unavailable(f"no anchor holds receipt {receipt_id(signed)} after {_WITHIN_S:.0f} s")


def verify_apart(folder: Path, receipts: Sequence[Path], settings: Settings) -> tuple[int, dict[str, Any]]:
    """`posthuman verify` in a process of its own: another home, another state folder, no setting of ours."""
    done = subprocess.run(
        [
            str(Path(sys.executable).parent / "posthuman"),
            "verify",
            *map(str, receipts),
            f"--rpc={settings.rpc_url}",
            f"--log={settings.public_url}/log",
            "--json",
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(folder),
            "POSTHUMAN_HOME": str(folder / "empty"),
            "TMPDIR": str(folder),
        },
        timeout=_WITHIN_S + len(receipts) * _EACH_S,
    )
    try:
        record: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        record = {"error": (done.stderr.strip().splitlines() or ["it said nothing"])[-1]}
    return done.returncode, record


def _changed(call: dict[str, Any]) -> dict[str, Any]:
    body = bytearray(base64.b64decode(call["response"]))
    place = body.index(b'"text":"') + len(b'"text":"')
    body[place + 1] ^= 1
    return {**call, "response": base64.b64encode(bytes(body)).decode("ascii")}
