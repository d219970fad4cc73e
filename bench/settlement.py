"""Compares what a crowd of buyers was answered with the receipts that the market has of them.

In: attempts, the receipts of each order. Out: what does not fit, in words, and counts. This module must never talk to a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.crowd import REFUSALS, Attempt
from control_plane.did import Address, TransactionHash
from control_plane.receipts.receipt import FIRST_PREVIOUS, CallStatus, Issued, request_hash
from control_plane.receipts.signing import recover_signer

_SHOWN = 20
"""Problems of one kind in a report; the number of all is beside them."""


@dataclass(frozen=True)
class Settlement:
    """problems: by the criterion that each one breaks. counts: receipts, and what became of cut streams."""

    problems: Mapping[str, Sequence[str]]
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "broken": {name: {"number": len(found), "first": list(found[:_SHOWN])} for name, found in self.problems.items()},
            "counts": dict(self.counts),
        }


def settle(attempts: Sequence[Attempt], receipts: Mapping[TransactionHash, Sequence[Issued]], signer: Address) -> Settlement:
    """receipts: all of each order, by sequence, as its buyer is shown them. signer: whom the chain names for this log."""
    problems: dict[str, list[str]] = {
        "only the stated answers": _answers(attempts),
        "every answer has its receipt": [],
        "receipts verify": [],
        "sequences have no gap": [],
        "no charge without an answer": [],
    }
    counts = Counter[str]()
    for order, listed in receipts.items():
        mine = [attempt for attempt in attempts if attempt.seat.order == order]
        problems["sequences have no gap"] += _gaps(order, listed)
        problems["receipts verify"] += [
            f"receipt {one.id}: not signed by {signer}" for one in listed if recover_signer(one.signed) != signer
        ]
        missing, left = _answered(mine, {one.id: one for one in listed})
        problems["every answer has its receipt"] += missing
        unasked, cut = _left(left, [attempt for attempt in mine if attempt.is_cut])
        problems["no charge without an answer"] += unasked
        counts.update(cut)
        counts["receipts"] += len(listed)
    return Settlement(problems, counts)


def _answers(attempts: Sequence[Attempt]) -> list[str]:
    found = []
    for attempt in attempts:
        if attempt.trouble:
            found.append(f"{attempt.kind}: {attempt.trouble}")
        elif attempt.status in REFUSALS:
            if not attempt.has_retry_after:
                found.append(f"{attempt.kind}: {attempt.status} without Retry-After")
        elif attempt.status != attempt.expected and not attempt.is_cut:
            found.append(f"{attempt.kind}: expected status {attempt.expected}, found {attempt.status}")
    return found


def _gaps(order: TransactionHash, listed: Sequence[Issued]) -> list[str]:
    """Sequences count from 0, and each receipt names the one before."""
    found, previous = [], FIRST_PREVIOUS
    for number, one in enumerate(listed):
        receipt = one.signed.receipt
        if (receipt.sequence, receipt.previous) != (number, previous):
            found.append(
                f"order {order}: expected receipt {number} after {previous}, found {receipt.sequence} after {receipt.previous}"
            )
        previous = one.id
    return found


def _answered(mine: Sequence[Attempt], listed: Mapping[str, Issued]) -> tuple[list[str], list[Issued]]:
    """What is wrong with the receipts of whole answers, and the receipts that are of none."""
    missing, left = [], dict(listed)
    for attempt in mine:
        if attempt.issued is None:
            continue
        kept = left.pop(attempt.issued.id, None)
        if kept is None:
            missing.append(f"{attempt.kind}: receipt {attempt.issued.id} came with an answer, and is not listed once")
        elif kept.signed != attempt.issued.signed or kept.signed.receipt.status is not CallStatus.DONE:
            missing.append(f"{attempt.kind}: receipt {attempt.issued.id} is listed with another content, or not as done")
        elif not attempt.fits:
            missing.append(f"{attempt.kind}: receipt {attempt.issued.id} is not of the bytes that were sent and received")
    return missing, list(left.values())


def _left(left: Sequence[Issued], cuts: Sequence[Attempt]) -> tuple[list[str], Counter[str]]:
    """Receipts that came with no answer must each be of one cut stream. A cut stream without one was not charged."""
    waiting, unasked, counts = list(cuts), [], Counter[str]()
    for one in left:
        receipt = one.signed.receipt
        of = next((cut for cut in waiting if request_hash(one.salt, cut.request) == receipt.request_hash), None)
        if of is None:
            unasked.append(f"receipt {one.id} ({receipt.status.name}) is of nothing that was answered or cut")
            continue
        waiting.remove(of)
        counts["cut streams charged, " + ("receipt says cut" if receipt.status is CallStatus.CUT else "all was sent")] += 1
    counts["cut streams not charged"] = len(waiting)
    return unasked, counts
