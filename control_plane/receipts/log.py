"""The log of one operator: gives receipts their place, writes tiles, signs checkpoints.

In: stored receipts. Out: a public folder of tiles and a checkpoint. This module must never speak to a node, and must never sign two
checkpoints that contradict each other.

Order of writes, each durable before the next, so that a crash anywhere leaves a log that goes on:

    1  database    waiting receipts get leaf indices       crash after it: indices without tiles, which are written next time
    2  tiles       what the larger tree adds               crash after it: tiles that no checkpoint names yet
    3  guard       the new checkpoint replaces the last    crash after it: the public file is behind, and is put right next time
    4  checkpoint  the public file

The guard is the last checkpoint ever signed, in a file away from database and tiles. It is compared and replaced under a lock. A
database restored from a backup, or a second keeper, meets a guard that it does not continue, and nothing is signed.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, bindparam, func, select, update

from control_plane.database import durably, reading, receipts, writing
from control_plane.did import Bytes32
from control_plane.errors import BadInput, IntegrityBroken, NotFound, Unavailable
from control_plane.receipts.anchors import Anchor
from control_plane.receipts.checkpoint import Checkpoint, NoteSigner, open_checkpoint
from control_plane.receipts.merkle import EMPTY_ROOT, Tree, inclusion_proof
from control_plane.receipts.proof import Proof
from control_plane.receipts.receipt import leaf_id
from control_plane.receipts.tiles import TileFolder, replace_durably

CHECKPOINT_FILE = "checkpoint"
ANCHORS_FILE = "anchors.json"
BATCH = 2_000
"""Receipts that get their index in one transaction: about 25 ms in which no call can be stored."""


@dataclass(frozen=True)
class Integrated:
    """What one round did. size, root: of the newest checkpoint. added: receipts that got their place in this round."""

    size: int
    root: bytes
    added: int
    is_new: bool


class Log:
    """One process holds this: the log keeper. Others read the folder with `PublicLog`."""

    def __init__(self, folder: Path, engine: Engine, signer: NoteSigner, guard: Path) -> None:
        """guard: the file that remembers the last checkpoint; best on another volume than database and folder."""
        self.origin = signer.name
        self._tiles = TileFolder(folder)
        self._engine, self._reader = durably(engine), reading(engine)
        self._signer, self._guard = signer, guard
        self._tree: Tree | None = None
        self._signed = Checkpoint(self.origin, 0, EMPTY_ROOT)
        self._note = ""

    def integrate(self) -> Integrated:
        """Give every waiting receipt a leaf index, write tiles, sign and publish a checkpoint if the log has grown.

        Raises IntegrityBroken when database, tiles, guard and anchors do not tell one story; then nothing was signed.
        Again: adds nothing twice; finishes what a crash left undone.
        """
        try:
            return self._integrate()
        except BaseException:
            self._tree = None  # what is in memory may be ahead of or behind the disk now: load again
            raise

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint this log has signed; None while the log is empty."""
        self._load()
        return self._signed if self._signed.size else None

    def root(self, size: int) -> bytes:
        """The log's root when it had `size` leaves. Raises IntegrityBroken when it never had so many."""
        tree = self._load()
        if size > tree.size:
            raise IntegrityBroken(f"{self.origin}: a checkpoint of {size} leaves is known, but this log has only {tree.size}")
        return tree.root(size)

    def prove(self, identity: Bytes32) -> Proof:
        """Proof that a receipt is in the newest checkpoint. Raises NotFound; Unavailable with code `not_logged`: too early."""
        tree = self._load()
        with self._reader.connect() as connection:
            row = connection.execute(select(receipts.c.leaf_index).where(receipts.c.receipt_id == identity)).first()
        if row is None:
            raise NotFound(f"no receipt has the id {identity}")
        if row[0] is None or row[0] >= self._signed.size:
            raise Unavailable(f"receipt {identity} waits for the next checkpoint", code="not_logged", retry_after_s=2)
        return Proof(row[0], tuple(inclusion_proof(tree.node, row[0], self._signed.size)), self._note)

    def anchors(self) -> tuple[Anchor, ...]:
        """The anchors seen on chain so far, oldest first, from the public list."""
        found = self._tiles.read(ANCHORS_FILE)
        try:
            record = json.loads(found) if found is not None else []
            return tuple(Anchor.from_json(item) for item in record)
        except (ValueError, TypeError, BadInput) as error:
            raise IntegrityBroken(f"{self._tiles.folder / ANCHORS_FILE}: not a list of anchors ({error})") from error

    def record_anchors(self, anchors: Sequence[Anchor]) -> None:
        """Replace the public list by what the chain says. Raises IntegrityBroken when the log does not contain one of them."""
        for anchor in anchors:
            self.require_contains(anchor)
        content = json.dumps([anchor.to_json() for anchor in anchors], indent=1).encode() + b"\n"
        self._tiles.write(ANCHORS_FILE, content)

    def require_contains(self, anchor: Anchor) -> None:
        """Raises IntegrityBroken when this log, cut at the anchor's size, has another root: one of the two is a fork."""
        if self.root(anchor.size) != anchor.root:
            raise IntegrityBroken(
                f"{self.origin}: the anchor of {anchor.size} leaves in {anchor.transaction} has root {anchor.root.hex()}, "
                f"this log has {self.root(anchor.size).hex()}"
            )

    def _integrate(self) -> Integrated:
        tree = self._load()
        added = 0
        while batch := self._give_places(tree.size):
            for hashed in batch:
                tree.append(hashed)
            added += len(batch)
        is_new = tree.size > self._signed.size
        if is_new:
            known = self.anchors()
            if known:
                self.require_contains(known[-1])
            self._tiles.write_tree(tree.node, self._entries, self._signed.size, tree.size)
            checkpoint = Checkpoint(self.origin, tree.size, tree.root())
            note = self._signer.sign(checkpoint.text())
            self._replace_guard(note)
            self._signed, self._note = checkpoint, note
        if self._signed.size:
            self._tiles.write(CHECKPOINT_FILE, self._note.encode())
        return Integrated(self._signed.size, self._signed.root, added, is_new)

    def _give_places(self, size: int) -> list[bytes]:
        """Number the next batch of waiting receipts from `size` on, durably; returns their leaf hashes."""
        with writing(self._engine) as connection:
            highest = connection.execute(select(func.max(receipts.c.leaf_index))).scalar_one()
            if (-1 if highest is None else highest) != size - 1:
                raise IntegrityBroken(f"{self.origin}: the highest leaf index is {highest}, but this log has {size} leaves")
            waiting = connection.execute(
                select(receipts.c.position, receipts.c.receipt_id)
                .where(receipts.c.leaf_index.is_(None))
                .order_by(receipts.c.position)
                .limit(BATCH)
            ).all()
            if waiting:
                connection.execute(
                    update(receipts).where(receipts.c.position == bindparam("at")).values(leaf_index=bindparam("index")),
                    [{"at": row.position, "index": size + offset} for offset, row in enumerate(waiting)],
                )
        return [bytes.fromhex(row.receipt_id[2:]) for row in waiting]

    def _entries(self, low: int, high: int) -> list[bytes]:
        """Leaf bytes [low, high) from the database, each checked against its id."""
        with self._reader.connect() as connection:
            rows = connection.execute(
                select(receipts.c.leaf_index, receipts.c.receipt_id, receipts.c.leaf)
                .where(receipts.c.leaf_index >= low, receipts.c.leaf_index < high)
                .order_by(receipts.c.leaf_index)
            ).all()
        if [row.leaf_index for row in rows] != list(range(low, high)):
            raise IntegrityBroken(f"{self.origin}: leaves {low} to {high} are not all in the database")
        for row in rows:
            if leaf_id(row.leaf) != row.receipt_id:
                raise IntegrityBroken(f"{self.origin}: leaf {row.leaf_index} is not the receipt {row.receipt_id} it is stored as")
        return [row.leaf for row in rows]

    def _load(self) -> Tree:
        """The tree as the database has it, once it is known to continue the guard."""
        if self._tree is not None:
            return self._tree
        tree = Tree()
        with self._reader.connect() as connection:
            for index, identity in connection.execute(
                select(receipts.c.leaf_index, receipts.c.receipt_id)
                .where(receipts.c.leaf_index.is_not(None))
                .order_by(receipts.c.leaf_index)
                .execution_options(yield_per=10_000)
            ):
                if index != tree.size:
                    raise IntegrityBroken(f"{self.origin}: leaf {tree.size} is missing from the database, the next is {index}")
                tree.append(bytes.fromhex(identity[2:]))
        with self._guard_lock():
            note = self._read_guard()
            if note is None:
                self._require_nothing_yet(tree)
                note = self._signer.sign(Checkpoint(self.origin, 0, EMPTY_ROOT).text())
                replace_durably(self._guard, note.encode(), mode=0o600)
        try:
            signed = open_checkpoint(note, self.origin, self._signer.public_key)
        except BadInput as error:
            raise IntegrityBroken(f"{self._guard}: not a checkpoint of {self.origin} by this key: {error.message}") from error
        if signed.size > tree.size:
            raise IntegrityBroken(
                f"{self.origin}: the last checkpoint has {signed.size} leaves, the database {tree.size}: "
                "was it restored from a backup?"
            )
        if tree.root(signed.size) != signed.root:
            raise IntegrityBroken(
                f"{self.origin}: the first {signed.size} leaves in the database are not those of the last checkpoint"
            )
        self._tree, self._signed, self._note = tree, signed, note
        return tree

    def _require_nothing_yet(self, tree: Tree) -> None:
        """A log may begin only where there is none. Anything left of one means that the guard was lost, and with it the past."""
        if tree.size or self._tiles.read(CHECKPOINT_FILE) is not None or (self._tiles.folder / "tile").exists():
            raise IntegrityBroken(
                f"{self._guard}: missing, but {self.origin} has {tree.size} leaves or public files: put the guard back; "
                "a new one could sign a second history"
            )

    def _read_guard(self) -> str | None:
        try:
            return self._guard.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def _replace_guard(self, note: str) -> None:
        """Compare-and-swap: the guard must still hold what we signed last."""
        with self._guard_lock():
            if self._read_guard() != self._note:
                raise IntegrityBroken(f"{self._guard}: another keeper has signed since; only one may run")
            replace_durably(self._guard, note.encode(), mode=0o600)

    @contextmanager
    def _guard_lock(self) -> Iterator[None]:
        self._guard.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._guard.with_name(self._guard.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)
