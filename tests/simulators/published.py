"""Anybody's assets on the simulated ledger: documents written, orders started and reused.

In: what the ledger keeps. Out: what `PublishedReader` tells of it. This module must never decide what counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from control_plane.chain.ledger import Sent, Terms, Wallet
from control_plane.chain.published import DatatokenFacts, DocumentWritten, Happened, NftFacts, Ordered, Reuse
from control_plane.did import Address, TransactionHash
from tests.simulators.assets import Datatoken, Nft
from tests.simulators.network import address_of
from tests.simulators.rewinding import Rewindable


@dataclass
class Events:
    documents: list[DocumentWritten] = field(default_factory=list)
    touched: list[tuple[int, Address]] = field(default_factory=list)
    ordered: list[tuple[int, Address]] = field(default_factory=list)
    reuses: dict[tuple[TransactionHash, Address], tuple[TransactionHash, int, tuple[Any, ...]]] = field(default_factory=dict)

    def between(self, first: int, last: int) -> Happened:
        return Happened(
            documents=tuple(each for each in self.documents if first <= each.block <= last),
            touched=tuple(nft for block, nft in self.touched if first <= block <= last),
            ordered=tuple(Ordered(emitter, block) for block, emitter in self.ordered if first <= block <= last),
        )


class Published(Rewindable):
    """The part of `SimulatedLedger` that others' clients write and Ocean's servers read."""

    events: Events
    unreadable: dict[Address, Exception]
    """What asking an NFT anything ends with, where it ends badly."""
    facts_read: list[Address]
    """NFTs in the order in which they were asked for their facts."""
    _nfts: dict[Address, Nft]
    _datatokens: dict[Address, Datatoken]
    _blocks: list[Any]

    # what tests do to it

    def set_state(self, nft: Address, state: int) -> None:
        self._nfts[nft].state = state
        self.events.touched.append((self._mine().number, nft))

    def write_document(self, wallet: Wallet, nft: Address, flags: int, data: bytes, clear_hash: bytes) -> TransactionHash:
        """`setMetaData` as a client of Ocean's calls it, whatever the document is."""
        self._nft(nft).documents.append(data)
        sent = self._send(f"document {len(self.events.documents)}", 169_820)
        self._document_event(wallet, nft, flags, data, clear_hash, "", sent)
        return sent.transaction

    def add_datatoken(self, nft: Address, terms: Terms) -> Address:
        """One more datatoken of an asset, with a dispenser."""
        made = address_of(f"datatoken {len(self._datatokens)} of {nft}")
        self._datatokens[made] = Datatoken(nft, terms, None)
        return made

    # PublishedReader, and what `LedgerReader` tells of a document

    def document(self, nft: Address) -> bytes | None:
        self._reach()
        documents = self._nft(nft).documents
        return documents[-1] if documents else None

    def happened(self, first: int, last: int) -> Happened:
        self._reach()
        return self.events.between(first, last)

    def documents_of(self, transaction: TransactionHash) -> tuple[DocumentWritten, ...]:
        self._reach()
        return tuple(each for each in self.events.documents if each.transaction == transaction)

    def nft_facts(self, nft: Address, named: Iterable[Address]) -> NftFacts:
        self._reach()
        self.facts_read.append(nft)
        if nft in self.unreadable:
            raise self.unreadable[nft]
        found = self._nft(nft)
        known = {address: each for address, each in self._datatokens.items() if each.nft == nft}
        made = [(each, known[each]) for each in dict.fromkeys(named) if each in known]
        return NftFacts(
            nft, found.name, found.symbol, "", found.owner, found.state, True, tuple(self._told(*each) for each in made)
        )

    def datatoken_facts(self, nft: Address, datatoken: Address) -> DatatokenFacts | None:
        self._reach()
        found = self._datatokens.get(datatoken)
        return None if found is None or found.nft != nft else self._told(datatoken, found)

    def has_made(self, nft: Address, datatoken: Address) -> bool:
        self._reach()
        found = self._datatokens.get(datatoken)
        return found is not None and found.nft == nft

    def _told(self, address: Address, found: Datatoken) -> DatatokenFacts:
        terms = found.terms
        name = f"{self._nfts[found.nft].name} access"
        return DatatokenFacts(
            address,
            name,
            self._nfts[found.nft].symbol,
            terms.rate,
            terms.base_token if found.exchange else None,
            "OCEAN" * bool(found.exchange),
            found.exchange,
        )

    def reuse_of(self, transaction: TransactionHash, datatoken: Address) -> Reuse | None:
        self._reach()
        found = self.events.reuses.get((transaction, datatoken))
        return None if found is None else Reuse(found[0], len(self._blocks) - found[1], found[2])

    def reuses(self, original: TransactionHash, datatoken: Address, first: int) -> tuple[Reuse, ...]:
        self._reach()
        told = ((where, *each) for (_, where), each in self.events.reuses.items())
        kept = (each for each in told if each[0] == datatoken and each[1] == original and each[2] >= first)
        return tuple(Reuse(original, len(self._blocks) - block, fees) for _, _, block, fees in kept)

    def reuse_order(self, original: TransactionHash, datatoken: Address, *fees: Any) -> TransactionHash:
        """`reuseOrder`, which anybody may call."""
        sent = self._send(f"reuse {len(self.events.reuses)}", 44_049)
        self.events.reuses[sent.transaction, datatoken] = (original, sent.block, fees)
        return sent.transaction

    def _document_event(
        self, wallet: Wallet, nft: Address, flags: int, data: bytes, clear_hash: bytes, endpoint: str, sent: Sent
    ) -> None:
        at = self._blocks[sent.block].timestamp
        written = DocumentWritten(nft, flags, data, clear_hash, endpoint, wallet.address, sent.block, sent.transaction, at)
        self.events.documents.append(written)
