"""Reads a whole log back and compares every copy of it: entries, tiles, checkpoint, guard, anchors, database.

In: the log's folder and what should agree with it. Out: a list of what does not. This module must never repair anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from control_plane.database import reading, receipts
from control_plane.errors import BadInput, NotFound
from control_plane.receipts.anchors import Anchor
from control_plane.receipts.checkpoint import open_checkpoint
from control_plane.receipts.merkle import Tree, leaf_hash
from control_plane.receipts.public_log import LogFiles, PublicLog
from control_plane.receipts.tiles import TILE_HEIGHT, TILE_WIDTH, tile_path, tile_width


@dataclass(frozen=True)
class Fsck:
    """size: leaves that were read. problems: empty for a sound log."""

    size: int
    root: bytes
    problems: tuple[str, ...]


def fsck(
    files: LogFiles,
    origin: str,
    public_key: bytes,
    *,
    guard: Path | None = None,
    engine: Engine | None = None,
    anchors: tuple[Anchor, ...] = (),
) -> Fsck:
    """Rebuild the tree from its entries and compare. Anyone can, over HTTP; the operator adds guard and database.

    Raises NotFound when there is no checkpoint, Unavailable when the log does not answer.
    """
    log = PublicLog(files)
    problems: list[str] = []
    tree, entries = Tree(), _read_entries(log, problems)
    for entry in entries:
        tree.append(leaf_hash(entry))
    try:
        checkpoint = open_checkpoint(log.note, origin, public_key)
    except BadInput as error:
        return Fsck(tree.size, tree.root(), (*problems, f"checkpoint: {error.message}"))
    if tree.size != checkpoint.size:
        problems.append(f"entries: {tree.size}, the checkpoint has {checkpoint.size} leaves")
    elif tree.root() != checkpoint.root:
        problems.append(f"entries hash to root {tree.root().hex()}, the checkpoint has {checkpoint.root.hex()}")
    problems += _compare_tiles(log, tree)
    for anchor in anchors:
        if anchor.size > tree.size or tree.root(anchor.size) != anchor.root:
            problems.append(f"anchor {anchor.transaction} of {anchor.size} leaves is not a state of this log")
    if guard is not None:
        found = guard.read_text(encoding="utf-8") if guard.exists() else None
        if found != log.note:
            problems.append(f"guard {guard}: {'missing' if found is None else 'another checkpoint than the public one'}")
    if engine is not None:
        problems += _compare_database(engine, entries)
    return Fsck(tree.size, tree.root(), tuple(problems))


def _read_entries(log: PublicLog, problems: list[str]) -> list[bytes]:
    entries: list[bytes] = []
    for number in range((log.size + TILE_WIDTH - 1) // TILE_WIDTH):
        try:
            entries += log.entries(number)
        except (BadInput, NotFound) as error:
            problems.append(f"entries: {error.message}")
            break
    return entries


def _compare_tiles(log: PublicLog, tree: Tree) -> list[str]:
    problems, level = [], 0
    while tree.size >> (TILE_HEIGHT * level):
        for number in range(((tree.size >> (TILE_HEIGHT * level)) + TILE_WIDTH - 1) // TILE_WIDTH):
            width = tile_width(level, number, tree.size)
            expected = b"".join(tree.node(TILE_HEIGHT * level, number * TILE_WIDTH + inside) for inside in range(width))
            try:
                is_right = log.tile(level, number, width) == expected
            except (BadInput, NotFound):
                is_right = False
            if not is_right:
                problems.append(f"{tile_path(level, number, width)}: missing, or other hashes than the entries give")
        level += 1
    return problems


def _compare_database(engine: Engine, entries: list[bytes]) -> list[str]:
    with reading(engine).connect() as connection:
        rows = connection.execute(
            select(receipts.c.leaf_index, receipts.c.leaf)
            .where(receipts.c.leaf_index.is_not(None), receipts.c.leaf_index < len(entries))
            .order_by(receipts.c.leaf_index)
        ).all()
    if [row.leaf_index for row in rows] != list(range(len(entries))):
        return [f"database: holds {len(rows)} of {len(entries)} leaves, or not in order"]
    return [
        f"database: leaf {row.leaf_index} has other bytes" for row, entry in zip(rows, entries, strict=True) if row.leaf != entry
    ]
