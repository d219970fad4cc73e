"""One asset's life on real parts, with the outside checker after every step: it is shown what any visitor is shown, and no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from control_plane.did import TransactionHash
from control_plane.flows.keep import request_anchor
from control_plane.receipts.anchors import read_anchors
from control_plane.receipts.public_log import PublicLog
from control_plane.receipts.receipt import Issued
from converters.entry import ModelDigest, triton_name
from deploy.local.chain import local_accounts
from tests.check_market import check_market
from tests.fixtures_outsider import Outsider, outsider
from tests.fixtures_stack import LiveStack, within

__all__ = ["outsider"]

pytestmark = [pytest.mark.live, pytest.mark.slow]

PROMPT = "The market stands at the end of"


def wait_for_anchor(stack: LiveStack, outsider: Outsider) -> int:
    """Ask the keeper for an anchor until one holds all that was handed out; its size."""
    reader = outsider.reader()

    def is_anchored() -> bool:
        log = PublicLog(outsider.log())
        places = [log.find(bytes.fromhex(issued.id[2:])) for issued in outsider.receipts]
        anchors = read_anchors(reader, outsider.log_nft())
        if anchors and all(place is not None and place < anchors[-1].size for place in places):
            return True
        request_anchor(stack.home / "run")
        return False

    within(is_anchored, "an anchor over every receipt")
    return read_anchors(reader, outsider.log_nft())[-1].size


def swap_weights(folder: Path) -> None:
    """Other weights of the same size, as somebody with the disk could put them there."""
    weights = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    middle = len(content) // 2
    for place in range(middle, middle + 64):
        content[place] ^= 0xFF
    weights.write_bytes(content)


def test_an_outsider_finds_every_promise_kept_after_every_step(stack: LiveStack, on_sale: str, outsider: Outsider) -> None:
    outsider.check()  # what earlier tests left behind is part of the market too
    model = min(path for path in (stack.home / "demo").iterdir() if (path / "config.json").is_file())

    def call(*options: str) -> Any:
        """Bob calls, and shows the outsider his receipt."""
        called = stack.run("call", did, PROMPT, "--as", "bob", "--max-tokens", "8", "--json", *options)
        assert called.code == 0, called.out + called.err
        kept = json.loads(Path(called.json["file"]).read_text())
        outsider.receipts.append(Issued.from_json(kept["receipt"]))
        return called.json

    published = stack.run(
        "publish", str(model), "--as", "carol", "--price", "0.75", "--name", "story", "--licence", "apache-2.0", "--json"
    )
    assert published.code == 0, published.out + published.err
    did = published.json["did"]
    assert {on_sale, did} <= {listing.did for listing in outsider.listings()}
    outsider.check()

    bought = stack.run("buy", did, "--as", "bob", "--json")
    assert bought.code == 0, bought.out + bought.err
    outsider.orders.append((TransactionHash(bought.json["order"]), did))
    outsider.check()

    whole = call()
    outsider.check()
    call("--stream")
    outsider.check()

    anchored = wait_for_anchor(stack, outsider)
    outsider.check()

    swap_weights(stack.settings.models / triton_name(ModelDigest(published.json["model_digest"])))
    try:
        refused = stack.run("call", did, PROMPT, "--as", "bob", "--json")
        assert refused.code != 0
        assert "model_tampered" in refused.out + refused.err
        assert did not in {listing.did for listing in outsider.listings()}, "what was swapped is not offered"
        assert stack.run("buy", did, "--as", "bob", "--json").code != 0
        outsider.check()
    finally:
        restored = stack.run("restore", did, "--json")
        other = stack.run("restore", on_sale, "--json")
    assert (restored.code, other.code) == (0, 0), restored.out + restored.err + other.out + other.err
    assert did in {listing.did for listing in outsider.listings()}
    outsider.check()

    again = call()
    assert again["text"] == whole["text"], "the weights are those that were sold"
    sequence = [issued.signed.receipt.sequence for issued in outsider.receipts]
    assert sequence == [0, 1, 2], "the refused call was not charged"
    assert wait_for_anchor(stack, outsider) > anchored
    outsider.check()

    as_operator = outsider.seen(models=stack.settings.models, decryptor=local_accounts()["operator"])
    check_market(outsider.reader(), as_operator)  # once as he who sees the disk and reads the documents
