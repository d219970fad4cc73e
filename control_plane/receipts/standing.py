"""How far receipts are on their way into the anchored log, seen from outside the log keeper.

In: the database, the log's public folder. Out: a `Standing`. This module must never write, and never ask a chain node.

It looks at what the keeper has left for everybody, so that it tells the truth also of a keeper that is gone. Each question is a
look into an index, since it is asked every few seconds beside the calls.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select

from control_plane.database import receipts
from control_plane.did import UnixMillis
from control_plane.errors import BadInput
from control_plane.receipts.anchors import Anchor
from control_plane.receipts.log import ANCHORS_FILE, CHECKPOINT_FILE
from control_plane.receipts.receipt import SignedReceipt

_TAIL_BYTES = 2048
"""More than one anchor takes in the list; the list grows for ever and is not read whole."""


@dataclass(frozen=True)
class Standing:
    """leaves: receipts that have their place. waiting: that have none yet. published, published_at: leaves of the public
    checkpoint, and when it was written; anchored, anchored_at: leaves of the newest anchor, and its block's time. Seconds since
    1970, 0: never.
    oldest_unanchored: when the oldest call ended that no anchor covers; None: all are covered.
    """

    leaves: int
    waiting: int
    published: int
    published_at: float
    anchored: int
    anchored_at: float
    oldest_unanchored: UnixMillis | None


def look(reader: Engine, log_folder: Path) -> Standing:
    """Raises SQLAlchemyError when the database does not answer. Again: looks again."""
    published, published_at = _published(log_folder / CHECKPOINT_FILE)
    anchor = _last_anchor(log_folder / ANCHORS_FILE)
    anchored = anchor.size if anchor is not None else 0
    with reader.connect() as connection:
        highest = connection.execute(select(func.max(receipts.c.leaf_index))).scalar_one()
        waiting = connection.execute(select(func.count()).where(receipts.c.leaf_index.is_(None))).scalar_one()
        oldest = connection.execute(select(receipts.c.leaf).where(receipts.c.leaf_index == anchored)).scalar_one_or_none()
        if oldest is None and waiting:
            first = select(receipts.c.leaf).where(receipts.c.leaf_index.is_(None)).order_by(receipts.c.position).limit(1)
            oldest = connection.execute(first).scalar_one_or_none()
    return Standing(
        leaves=0 if highest is None else highest + 1,
        waiting=waiting,
        published=published,
        published_at=published_at,
        anchored=anchored,
        anchored_at=float(anchor.written_at) if anchor is not None else 0.0,
        oldest_unanchored=None if oldest is None else SignedReceipt.from_json(json.loads(oldest)).receipt.finished_at,
    )


def _published(checkpoint: Path) -> tuple[int, float]:
    """Leaves and time of the public checkpoint; its second line is the size. It is replaced only by another one."""
    with suppress(FileNotFoundError):
        lines = checkpoint.read_bytes().split(b"\n")
        if len(lines) > 1 and lines[1].isdigit():
            return int(lines[1]), checkpoint.stat().st_mtime
    return 0, 0.0


def _last_anchor(anchors: Path) -> Anchor | None:
    """The newest of the public list; None for an empty one. A damaged list is the keeper's to complain of, and counts as empty."""
    with suppress(FileNotFoundError, ValueError, BadInput):
        with anchors.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read()
        begin, end = tail.rfind(b"{"), tail.rfind(b"}")
        if 0 <= begin < end:
            return Anchor.from_json(json.loads(tail[begin : end + 1]))
    return None
