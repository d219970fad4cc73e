"""Index assets: find the documents that Ocean's clients write on chain, open and check them, and keep what the chain says of them.

In: a ledger, the index, the operator's key. Out: what was indexed. This module must never index what it did not open itself,
and never believe an event before Ocean's factory has confirmed who emitted it.

A step of the log keeper. Documents are taken from the head, so that a client that waits for its own sees it at once; when the chain
undoes blocks, the index goes back and reads them again. Orders are counted only when they are final.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from control_plane.chain.ledger import Block, LedgerReader
from control_plane.chain.published import DocumentWritten, NftFacts
from control_plane.did import Address, Did, did_of
from control_plane.errors import BadInput, NotFound, Refused
from control_plane.provider.asset_index import DOCUMENTS, ORDERS, REWOUND_BLOCKS, AssetIndex, Cursor, IndexedAsset
from control_plane.provider.ddo_schema import faults_of
from control_plane.provider.documents import ENCRYPTED, Decryptor, open_document

MOST_BLOCKS = 10_000
"""Read in one step."""
STALE_AFTER_S = 60.0
REFRESHED_MOST = 3
"""Facts that no event tells of (owner, price) are read again one by one."""


@dataclass
class _Round:
    """What one step does; told to the operator where it is worth a line."""

    indexed: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    forgotten: int = 0

    def told(self) -> Mapping[str, object] | None:
        record: dict[str, object] = {"indexed": self.indexed} if self.indexed else {}
        record |= {"passed_over": dict(self.passed_over)} if self.passed_over else {}
        record |= {"unread": dict(self.unread)} if self.unread else {}
        return (record | ({"forgotten": self.forgotten} if self.forgotten else {})) or None


def index_assets(
    index: AssetIndex, ledger: LedgerReader, key: Decryptor, public_url: str, clock: Callable[[], float]
) -> Mapping[str, object] | None:
    """One step. Raises Unavailable when no node answers; nothing is lost then. Again: goes on where it was."""
    done, head, cursor = _Round(), ledger.head(), index.cursor(DOCUMENTS)
    if cursor is not None and cursor.block > head.number:
        return None  # this node is behind, or the chain undid blocks and is not as long again yet
    _documents(index, ledger, key, public_url, clock, head, done)
    _orders(index, ledger, head)
    for asset in index.stalest(clock() - STALE_AFTER_S, REFRESHED_MOST):
        _refresh(index, ledger, asset, clock(), done)
    return done.told()


def _documents(
    index: AssetIndex,
    ledger: LedgerReader,
    key: Decryptor,
    public_url: str,
    clock: Callable[[], float],
    head: Block,
    done: _Round,
) -> None:
    cursor = index.cursor(DOCUMENTS)
    if cursor is not None and ledger.block(cursor.block).hash != cursor.block_hash:
        back = max(cursor.block - REWOUND_BLOCKS, ledger.network.start_block)
        done.forgotten = index.rewind(Cursor(back, ledger.block(back).hash))
        cursor = index.cursor(DOCUMENTS)
    first = ledger.network.start_block if cursor is None else cursor.block + 1
    last = min(head.number, first + MOST_BLOCKS - 1)
    if first > last:
        return
    reached = Cursor(last, ledger.block(last).hash)  # before its events: if they change, the next step sees another hash
    happened = ledger.happened(first, last)
    found: list[IndexedAsset] = []
    newest: dict[Did, IndexedAsset] = {}
    for written in happened.documents:
        did = did_of(written.nft, ledger.network.chain_id)
        known = newest.get(did) or index.find(did)
        try:
            newest[did] = _indexed(ledger, key, public_url, written, did, known, clock())
        except (BadInput, NotFound, Refused) as error:
            done.passed_over[error.code] += 1
        else:
            found.append(newest[did])
    index.put(found, reached)
    done.indexed += sorted(newest)
    for nft in set(happened.touched):
        asset = index.find_nft(nft)
        if asset is not None and asset.did not in newest:
            _refresh(index, ledger, asset, clock(), done)


def _indexed(
    ledger: LedgerReader,
    key: Decryptor,
    public_url: str,
    written: DocumentWritten,
    did: Did,
    known: IndexedAsset | None,
    now: float,
) -> IndexedAsset:
    """known: the asset as an earlier document has it.

    Raises NotFound when the NFT is not Ocean's, BadInput when the document is not for us, or not as it should be."""
    if not written.flags & ENCRYPTED and written.decryptor_url.rstrip("/") != public_url:
        raise BadInput("document", "one that names this market", "another provider's", code="document_elsewhere")
    document = _opened(ledger, key, written, did)
    facts = ledger.nft_facts(written.nft)
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
        refreshed_at=now,
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


def _refresh(index: AssetIndex, ledger: LedgerReader, asset: IndexedAsset, now: float, done: _Round) -> None:
    """Read its facts again. Whatever comes of it, it is the others' turn then: what fails for ever comes back like any other."""
    facts = asset.facts
    try:
        facts = _facts(ledger.nft_facts(asset.nft), str(asset.facts["created"]))
    except (BadInput, NotFound, Refused) as error:
        done.unread[error.code] += 1
    finally:
        index.refresh(asset.did, facts, now)


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
    last = min(head.number - ledger.network.confirmations + 1, first + MOST_BLOCKS - 1)
    seen = index.cursor(DOCUMENTS)
    last = min(last, seen.block if seen is not None else first - 1)  # an order of an asset that is not indexed yet would be missed
    if first > last:
        return
    reached = Cursor(last, ledger.block(last).hash)
    ordered = ledger.happened(first, last).ordered
    sold_by = _sold_by(index) if ordered else {}
    index.count_orders(Counter((sold_by[each.emitter], each.block) for each in ordered if each.emitter in sold_by), reached)


def _sold_by(index: AssetIndex) -> dict[Address, Did]:
    return {Address(each["address"]): asset.did for asset in index.all() for each in asset.facts["datatokens"]}
