"""Index assets: find the documents that Ocean's clients write on chain, open and check them, and keep what the chain says of them.

In: a ledger, the index, the operator's key. Out: what was indexed. This module must never index what it did not open itself,
and never believe an event before Ocean's factory has confirmed who emitted it.

A step of the log keeper. Documents are taken from the head, so that a client that waits for its own sees it at once; when the chain
undoes blocks, the index goes back and reads them again. Orders are counted only when they are final.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from control_plane.chain.ledger import Block, LedgerReader
from control_plane.chain.published import DocumentWritten, Happened, NftFacts
from control_plane.did import Address, Did, did_of, parse_address
from control_plane.errors import BadInput, NotFound, Refused, Unavailable
from control_plane.provider.asset_index import (
    DOCUMENTS,
    MOST_BLOCKS,
    ORDERS,
    REWOUND_BLOCKS,
    AssetIndex,
    Begun,
    Cursor,
    IndexedAsset,
)
from control_plane.provider.ddo_schema import faults_of
from control_plane.provider.documents import ENCRYPTED, Decryptor, open_document

MOST_FOUND = 64
"""Documents kept in one step: each may be a megabyte, and takes many times that when it is open."""
MOST_DATATOKENS = 16
"""Of an asset that are asked for a price: those that its document names first."""
BUDGET_S = 2.0
"""What a step may take before it leaves the rest to the next one. Its one thread also makes checkpoints and anchors."""
STALE_AFTER_S = 60.0
REFRESHED_MOST = 3
"""Facts that no event tells of (owner, price) are read again one by one."""
TOUCHED_MOST = 16
"""Assets of which an event told something, read again in one step."""


@dataclass
class _Round:
    """What one step does; told to the operator where it is worth a line."""

    indexed: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    untold: Mapping[str, Sequence[str]] = field(default_factory=dict)
    forgotten: int = 0

    def told(self) -> Mapping[str, object] | None:
        record: dict[str, object] = {"indexed": self.indexed} if self.indexed else {}
        record |= {"passed_over": dict(self.passed_over)} if self.passed_over else {}
        record |= {"unread": dict(self.unread)} if self.unread else {}
        record |= {"untold": self.untold} if self.untold else {}
        return (record | ({"forgotten": self.forgotten} if self.forgotten else {})) or None


def index_assets(
    index: AssetIndex,
    ledger: LedgerReader,
    key: Decryptor,
    public_url: str,
    clock: Callable[[], float],
    stopwatch: Callable[[], float] = time.monotonic,
) -> Mapping[str, object] | None:
    """One step. Raises Unavailable when no node answers; nothing is lost then. Again: goes on where it was.

    Does at least one thing of each kind, and ends after `BUDGET_S` with whatever is under way then, which is one asset's facts.
    clock: seconds since 1970. stopwatch: seconds that never go back.
    """
    done, head, cursor = _Round(), ledger.head(), index.cursor(DOCUMENTS)
    if cursor is not None and cursor.block > head.number:
        return None  # this node is behind, or the chain undid blocks and is not as long again yet
    until = stopwatch() + BUDGET_S

    def is_over() -> bool:
        return stopwatch() > until

    _documents(index, ledger, _Opening(key, public_url, clock), head, done, is_over)
    _orders(index, ledger, head)
    for before, most in ((_AT_ONCE, TOUCHED_MOST), (clock() - STALE_AFTER_S, REFRESHED_MOST)):
        for number, asset in enumerate(index.stalest(before, most)):
            if number and is_over():
                break
            _refresh(index, ledger, asset, clock(), done)
    done.untold = {str(block): kinds for block, kinds in index.untold.items()}
    index.untold.clear()
    return done.told()


_AT_ONCE = 1.0
"""Facts that were read before this second of 1970 are those that `AssetIndex` wants read again as soon as may be."""


@dataclass(frozen=True)
class _Opening:
    """What documents are opened with."""

    key: Decryptor
    public_url: str
    clock: Callable[[], float]


def _documents(
    index: AssetIndex, ledger: LedgerReader, opening: _Opening, head: Block, done: _Round, is_over: Callable[[], bool]
) -> None:
    cursor = index.cursor(DOCUMENTS)
    if cursor is not None and ledger.block(cursor.block).hash != cursor.block_hash:
        back = max(cursor.block - REWOUND_BLOCKS, ledger.network.start_block)
        done.forgotten = index.rewind(Cursor(back, ledger.block(back).hash))
        cursor = index.cursor(DOCUMENTS)
    first = ledger.network.start_block if cursor is None else cursor.block + 1
    last = min(head.number, first + index.reach[DOCUMENTS] - 1)
    if first > last:
        return
    reached = Cursor(last, ledger.block(last).hash)  # before its events: if they change, the next step sees another hash
    happened = _happened(index, ledger, DOCUMENTS, first, last)
    documents, begun = happened.documents, index.begun()
    if begun is not None and cursor is not None and not _is_begun(documents, begun):
        done.forgotten = index.rewind(cursor)  # the chain undid the block of which a part was done
        begun = None
    at = start = 0 if begun is None else begun.count
    found: list[IndexedAsset] = []
    newest: dict[Did, IndexedAsset] = {}
    facts: dict[tuple[Address, ...], NftFacts] = {}
    while at < len(documents) and len(found) < MOST_FOUND and not (at > start and is_over()):
        written = documents[at]
        did = did_of(written.nft, ledger.network.chain_id)
        known = newest.get(did) or index.find(did)
        try:
            newest[did] = _indexed(ledger, opening, written, did, known, facts)
        except (BadInput, NotFound, Refused) as error:
            done.passed_over[error.code] += 1
        else:
            found.append(newest[did])
        at += 1
    begun = None
    if at < len(documents):
        block = documents[at].block
        end = ledger.block(max(block - 1, 0))
        if ledger.block(last).hash != reached.block_hash:
            return  # the chain undid some of this meanwhile: the next step reads it anew
        reached = Cursor(end.number, end.hash)
        count = sum(each.block == block for each in documents[:at])
        begun = Begun(count, documents[at - 1].transaction) if count else None
    index.put(found, reached, begun, set(happened.touched) - {asset.nft for asset in found})
    done.indexed += sorted(newest)


def _happened(index: AssetIndex, ledger: LedgerReader, name: str, first: int, last: int) -> Happened:
    """Anybody can fill blocks with events that look like documents, until a node takes too long to tell of so many blocks, or its
    answer is too long. name: what they are read for."""
    try:
        happened = ledger.happened(first, last)
    except Unavailable:
        index.reach[name] = max((last - first + 1) // 4, 1)
        raise
    index.reach[name] = min(index.reach[name] * 2, MOST_BLOCKS)
    if happened.untold:
        index.untold[last] = happened.untold  # there, for a step that fails later tells nothing
    return happened


def _is_begun(documents: Sequence[DocumentWritten], begun: Begun) -> bool:
    """The documents behind the cursor are still those of which a part was done."""
    return len(documents) >= begun.count and documents[begun.count - 1].transaction == begun.transaction


def _indexed(
    ledger: LedgerReader,
    opening: _Opening,
    written: DocumentWritten,
    did: Did,
    known: IndexedAsset | None,
    read: dict[tuple[Address, ...], NftFacts],
) -> IndexedAsset:
    """known: the asset as an earlier document has it. read: facts of this step, by NFT and named datatokens; added to.

    Raises NotFound when the NFT is not Ocean's, BadInput when the document is not for us, or not as it should be."""
    if not written.flags & ENCRYPTED and written.decryptor_url.rstrip("/") != opening.public_url:
        raise BadInput("document", "one that names this market", "another provider's", code="document_elsewhere")
    document = _opened(ledger, opening.key, written, did)
    named = _named(document)
    about = (written.nft, *named)
    if about not in read:
        read[about] = ledger.nft_facts(written.nft, named)
    facts = read[about]
    moment = _moment(written.written_at)
    return IndexedAsset(
        did=did,
        nft=written.nft,
        block=written.block,
        document=document,
        event={
            "tx": written.transaction,
            "block": written.block,
            "from": written.by,
            "contract": written.nft,
            "datetime": moment,
        },
        facts=_facts(facts, str(known.facts["created"]) if known else moment),
        orders=0,
        refreshed_at=opening.clock(),
    )


def _opened(ledger: LedgerReader, key: Decryptor, written: DocumentWritten, did: Did) -> dict[str, Any]:
    """The document, whoever wrote it. Raises BadInput for any that is not as it should be, also in a way nobody has thought of:
    it stands on chain for ever, and would end each step."""
    try:
        document = open_document(written.flags, written.data, written.clear_hash, did, key).document
        faults = faults_of(document, ledger.network.chain_id)
    except (BadInput, MemoryError):  # who has no memory left opens it the next time
        raise
    except Exception as error:
        raise BadInput("document", "a DDO", type(error).__name__, code="document_breaks") from error
    if faults:
        raise BadInput("document", "a valid DDO", "one with faults", code="document_invalid")
    return document


def _named(document: Mapping[str, Any]) -> list[Address]:
    """The datatokens that its services are sold for, at most `MOST_DATATOKENS`."""
    named = dict.fromkeys(parse_address(service["datatokenAddress"]) for service in document["services"])
    return list(named)[:MOST_DATATOKENS]


def _refresh(index: AssetIndex, ledger: LedgerReader, asset: IndexedAsset, now: float, done: _Round) -> None:
    """Read its facts again. Whatever comes of it, it is the others' turn then: what fails for ever comes back like any other.

    What an event told of stays to be read at once, behind others, ten times while no node answers."""
    facts, read_at = asset.facts, now
    try:
        facts = _facts(ledger.nft_facts(asset.nft, _named(asset.document)), str(asset.facts["created"]))
    except (BadInput, NotFound, Refused) as error:
        done.unread[error.code] += 1
    except Unavailable:
        read_at = asset.refreshed_at + _AT_ONCE / 10 if asset.refreshed_at < _AT_ONCE else now
        raise
    finally:
        index.refresh(asset.did, facts, read_at)


def _facts(facts: NftFacts, created: str) -> dict[str, Any]:
    """As JSON. Prices are decimal text: uint256 fits no JSON number."""
    record = asdict(facts)
    for datatoken in record["datatokens"]:
        datatoken["price"] = None if datatoken["price"] is None else str(datatoken["price"])
    return {**record, "created": created}


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _orders(index: AssetIndex, ledger: LedgerReader, head: Block) -> None:
    cursor = index.cursor(ORDERS)
    first = ledger.network.start_block if cursor is None else cursor.block + 1
    last = min(head.number - ledger.network.confirmations + 1, first + index.reach[ORDERS] - 1)
    seen = index.cursor(DOCUMENTS)
    last = min(last, seen.block if seen is not None else first - 1)  # an order of an asset that is not indexed yet would be missed
    if first > last:
        return
    reached = Cursor(last, ledger.block(last).hash)
    ordered = _happened(index, ledger, ORDERS, first, last).ordered
    sold_by = _sold_by(index) if ordered else {}
    index.count_orders(Counter((sold_by[each.emitter], each.block) for each in ordered if each.emitter in sold_by), reached)


def _sold_by(index: AssetIndex) -> dict[Address, Did]:
    return {Address(each["address"]): asset.did for asset in index.all() for each in asset.facts["datatokens"]}
