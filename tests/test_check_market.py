"""The outside checker itself: content with a sound market, and loud about each thing that is broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from control_plane.chain.ledger import OrderFacts
from control_plane.did import Bytes32, TransactionHash
from control_plane.receipts.anchors import LOG_KEY, anchor_value
from control_plane.receipts.checkpoint import Checkpoint, NoteSigner
from control_plane.receipts.merkle import Tree, leaf_hash
from control_plane.receipts.receipt import SignedReceipt, leaf_bytes
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.tiles import TileFolder, tile_path
from tests.check_market import Seen, broken_promises, check_market
from tests.fixtures_log import LogMarket, market

__all__ = ["market"]


@dataclass
class Copy:
    """A market with an anchored log of five receipts, and a copy of its public files that a test may damage."""

    market: LogMarket
    folder: Path
    seen: Seen

    def broken(self) -> list[str]:
        return broken_promises(self.market.ledger, self.seen)

    def leaves(self) -> list[SignedReceipt]:
        return [SignedReceipt.from_json(json.loads(leaf)) for leaf in self.market.public().entries(0)]

    def write(self, leaves: list[SignedReceipt]) -> None:
        """A whole log of other leaves, with tiles and a signature that fit them: only what they say can be wrong."""
        shutil.rmtree(self.folder)
        entries, tree = [leaf_bytes(leaf) for leaf in leaves], Tree()
        for entry in entries:
            tree.append(leaf_hash(entry))
        TileFolder(self.folder).write_tree(tree.node, lambda low, high: entries[low:high], 0, len(entries))
        note = self.market.notes.sign(Checkpoint(self.market.notes.name, len(entries), tree.root()).text())
        (self.folder / "checkpoint").write_text(note)


@pytest.fixture
def copy(market: LogMarket, tmp_path: Path) -> Copy:
    given = market.issue(5)
    market.log.integrate()
    market.anchor()
    folder = tmp_path / "copy"
    shutil.copytree(market.folder / "log", folder)
    orders = [(market.order, market.did)]
    return Copy(market, folder, Seen((), market.log_nft, orders=orders, log=TileFolder(folder), receipts=given))


def test_a_sound_log_is_not_complained_about(copy: Copy) -> None:
    check_market(copy.market.ledger, copy.seen)


def test_a_log_that_has_grown_since_its_anchor_is_sound(copy: Copy) -> None:
    market = copy.market
    market.issue(300)
    market.log.integrate()
    check_market(market.ledger, replace(copy.seen, log=TileFolder(market.folder / "log")))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("level", ["entries", 0])
def test_one_bit_of_a_tile_is_seen(copy: Copy, level: str | int) -> None:
    flip(copy.folder / tile_path(level, 0, 5))
    assert copy.broken()
    with pytest.raises(AssertionError, match="the market broke its promises"):
        check_market(copy.market.ledger, copy.seen)


def test_a_missing_tile_is_seen(copy: Copy) -> None:
    (copy.folder / tile_path(0, 0, 5)).unlink()
    assert any("missing" in line for line in copy.broken())


def test_a_checkpoint_that_another_key_signed_is_seen(copy: Copy) -> None:
    text = (copy.folder / "checkpoint").read_text().split("\n\n")[0] + "\n"
    other = NoteSigner(copy.market.notes.name, Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32))
    (copy.folder / "checkpoint").write_text(other.sign(text))
    assert any("not signed by a key that the chain names" in line for line in copy.broken())


def test_a_log_that_vanished_after_it_was_anchored_is_seen(copy: Copy) -> None:
    (copy.folder / "checkpoint").unlink()
    assert any("no checkpoint to be read" in line for line in copy.broken())


def test_an_anchor_of_another_tree_is_seen(copy: Copy) -> None:
    market = copy.market
    market.ledger.record_data(market.operator, "another", market.log_nft, LOG_KEY, anchor_value(6, b"\1" * 32))
    assert any("is not a state of this log" in line for line in copy.broken())


def test_a_rewritten_log_contradicts_its_anchor(copy: Copy) -> None:
    leaves = copy.leaves()
    last = copy.market.signer.sign(replace(leaves[-1].receipt, units_out=9))
    copy.write([*leaves[:-1], last])
    broken = copy.broken()
    assert any("is not a state of this log" in line for line in broken)
    assert any("the log holds" in line for line in broken), "and the caller's own receipt is another"


def without(leaves: list[SignedReceipt], _copy: Copy) -> list[SignedReceipt]:
    return [*leaves[:2], *leaves[3:]]


def unchained(leaves: list[SignedReceipt], copy: Copy) -> list[SignedReceipt]:
    return [*leaves[:4], copy.market.signer.sign(replace(leaves[4].receipt, previous=Bytes32("0x" + "77" * 32)))]


def signed_by_a_stranger(leaves: list[SignedReceipt], copy: Copy) -> list[SignedReceipt]:
    stranger = ReceiptSigner(bytes([5]) * 32, copy.market.ledger.network.chain_id, copy.market.log_nft)
    return [*leaves[:4], stranger.sign(leaves[4].receipt)]


def of_another_model(leaves: list[SignedReceipt], copy: Copy) -> list[SignedReceipt]:
    return [*leaves[:4], copy.market.signer.sign(replace(leaves[4].receipt, model_digest=Bytes32("0x" + "aa" * 32)))]


def of_an_order_that_nobody_made(leaves: list[SignedReceipt], copy: Copy) -> list[SignedReceipt]:
    unpaid = replace(leaves[0].receipt, order=TransactionHash("0x" + "99" * 32))
    return [*leaves, copy.market.signer.sign(unpaid)]


def of_another_consumer(leaves: list[SignedReceipt], copy: Copy) -> list[SignedReceipt]:
    return [*leaves[:4], copy.market.signer.sign(replace(leaves[4].receipt, consumer=copy.market.alice.address))]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without, "receipt 3 stands where number 2 should"),
        (unchained, "receipt 4 follows 0x7777"),
        (signed_by_a_stranger, "leaf 4: signed by"),
        (of_another_model, "the chain says 0xd1d1"),
        (of_an_order_that_nobody_made, "the chain says OrderFacts"),
        (of_another_consumer, "the order is by"),
    ],
)
def test_a_log_that_says_what_is_not_so_is_seen(
    copy: Copy, change: Callable[[list[SignedReceipt], Copy], list[SignedReceipt]], complaint: str
) -> None:
    copy.write(change(copy.leaves(), copy))
    assert [line for line in copy.broken() if complaint in line], copy.broken()


def test_a_receipt_that_never_reached_the_log_is_seen_once_its_promise_has_run_out(copy: Copy) -> None:
    market = copy.market
    (late,) = market.issue(1)
    seen = replace(copy.seen, receipts=[late])
    assert broken_promises(market.ledger, seen) == []
    market.ledger.advance_time(5000)
    assert [line for line in broken_promises(market.ledger, seen) if "though promised" in line]


def test_an_order_that_was_accepted_for_another_model_is_seen(copy: Copy) -> None:
    seen = replace(copy.seen, orders=[(copy.market.order, "did:op:" + "0" * 64)])
    (line,) = broken_promises(copy.market.ledger, seen)
    assert "the chain says OrderFacts" in line
    assert OrderFacts.__name__ in line
