"""What a market says of its calls when they are over: the receipts that buyers are shown, and whether a stranger can verify them.

In: a market's URL, seats, a node. Out: receipts by order, and what does not verify. This module must never read the state of the
market itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import requests

from bench.crowd import Seat
from control_plane.chain.ledger import KEYS_LABEL, LedgerReader, data_key
from control_plane.did import Address, TransactionHash
from control_plane.receipts.keys import parse_keys_value
from control_plane.receipts.public_log import HttpLogFiles, PublicLog
from control_plane.receipts.receipt import Issued
from control_plane.receipts.verification import Verdict
from control_plane.receipts.verify import verify

_SETTLE_S = 60.0
"""For streams that were cut in the last moment, and for the log keeper to give every receipt its place."""
_PAGE = 1000


def settled(url: str, seats: Sequence[Seat]) -> dict[TransactionHash, list[Issued]]:
    """All receipts of each order, once no more come and each has its place in the log; as they are when that takes too long."""
    until, before = time.monotonic() + _SETTLE_S, -1
    while True:
        listed = {seat.order: _receipts(url, seat) for seat in seats}
        number = sum(map(len, listed.values()))
        is_logged = all(one.leaf_index is not None for found in listed.values() for one in found)
        if (number == before and is_logged) or time.monotonic() > until:
            return listed
        before = number
        time.sleep(1.5)


def signer_of(reader: LedgerReader, log: Address) -> Address:
    """Whom the chain names as the signer of this log's receipts."""
    return parse_keys_value(reader.data_history(log, data_key(KEYS_LABEL))[-1].value)[0]


def unproved(reader: LedgerReader, url: str, receipts: Mapping[TransactionHash, Sequence[Issued]], number: int) -> list[str]:
    """What is wrong with `number` receipts, evenly taken, when a stranger verifies them against chain and public log.

    That a receipt is not anchored yet is not wrong: it is promised for later.
    """
    every = [one for listed in receipts.values() for one in listed]
    log, found = PublicLog(HttpLogFiles(f"{url}/log")), []
    for one in every[:: max(1, len(every) // number)]:
        found += [
            f"receipt {one.id}: {check.name}: {check.evidence}"
            for check in verify(reader, one, log=log).checks
            if check.verdict is Verdict.FAILED or (check.name == "inclusion" and check.verdict is not Verdict.OK)
        ]
    return found


def _receipts(url: str, seat: Seat) -> list[Issued]:
    found: list[Issued] = []
    with requests.Session() as session:
        session.trust_env = False  # a proxy meant for the internet has no business between us and a local server
        session.headers["Authorization"] = f"Bearer {seat.token}"
        while True:
            answer = session.get(f"{url}/v1/receipts", params={"from": len(found), "limit": _PAGE}, timeout=60)
            answer.raise_for_status()
            page = answer.json()["receipts"]
            for record in page:
                index = record.pop("leaf_index")
                issued = Issued.from_json(record)
                found.append(Issued(issued.signed, issued.salt, issued.id, index))
            if len(page) < _PAGE:
                return found
