"""What the chain says of anybody's Ocean assets: documents written, orders started and reused, names and prices.

In: nothing. Out: frozen facts, and the protocol that reads them. This module must never import what speaks to a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from control_plane.did import Address, Bytes32, TransactionHash, UnixSeconds

if TYPE_CHECKING:
    from control_plane.chain.ledger import ProviderFee


@dataclass(frozen=True)
class DocumentWritten:
    """A `MetadataCreated` or `MetadataUpdated` event of the contract `nft`, which need not be one of Ocean's.

    flags: 1 compressed, 2 encrypted. clear_hash: SHA-256 of the clear text, says whoever wrote it. by: the transaction's sender.
    """

    nft: Address
    flags: int
    data: bytes
    clear_hash: bytes
    decryptor_url: str
    by: Address
    block: int
    transaction: TransactionHash
    written_at: UnixSeconds


@dataclass(frozen=True)
class Ordered:
    """An `OrderStarted` event of the contract `emitter`."""

    emitter: Address
    block: int


@dataclass(frozen=True)
class Happened:
    """Events of some blocks, oldest first. touched: contracts that told of a new state. Whether an emitter is what it looks like,
    nobody has asked yet. untold: names of the kinds of event of which one block has more than a node's answer may hold: none of
    them is here."""

    documents: tuple[DocumentWritten, ...]
    touched: tuple[Address, ...]
    ordered: tuple[Ordered, ...]
    untold: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatatokenFacts:
    """price: base-token wei of one; 0 from a dispenser, None where no exchange or dispenser of Ocean's sells it. exchange:
    the id of the fixed rate that sells it, where one does."""

    address: Address
    name: str
    symbol: str
    price: int | None
    base_token: Address | None
    base_symbol: str
    exchange: Bytes32 | None = None


@dataclass(frozen=True)
class NftFacts:
    """A data NFT as it is now. state: Ocean's; 0 active, 1 end of life, 2 deprecated, 3 revoked, 4 disabled, 5 unlisted.
    datatokens: those that were asked for."""

    nft: Address
    name: str
    symbol: str
    token_uri: str
    owner: Address
    state: int
    is_from_factory: bool
    datatokens: tuple[DatatokenFacts, ...]


@dataclass(frozen=True)
class Reuse:
    """An `OrderReused` event of a datatoken. original: the transaction of the order that it names. signed_fees: as in
    `OrderFacts`, of the transaction that ordered again."""

    original: TransactionHash
    confirmations: int
    signed_fees: tuple[ProviderFee, ...] = ()


class PublishedReader(Protocol):
    """Raises Unavailable when no node answers."""

    def happened(self, first: int, last: int) -> Happened:
        """Ocean's events of blocks first..last, whoever emitted them. Raises AnswerTooLarge, which is Unavailable, where several
        blocks have more than can be read; one block is read as far as it can be."""

    def documents_of(self, transaction: TransactionHash) -> tuple[DocumentWritten, ...]:
        """What one transaction wrote; nothing when it is unknown or was reverted."""

    def nft_facts(self, nft: Address, named: Iterable[Address]) -> NftFacts:
        """With those of the named datatokens that are the NFT's own; of the others, of which its owner may make any number, nothing
        is read. Six reads, and at most fifteen for each that is named. Raises NotFound when the address holds no data NFT."""

    def datatoken_facts(self, nft: Address, datatoken: Address) -> DatatokenFacts | None:
        """One datatoken of a data NFT, in at most twenty reads, whatever its owner has made; None when the NFT is none of Ocean's
        factory, or has not made it."""

    def has_made(self, nft: Address, datatoken: Address) -> bool:
        """Whether the NFT is of Ocean's factory and has made the datatoken, in two reads; no other contract's word counts."""

    def reuse_of(self, transaction: TransactionHash, datatoken: Address) -> Reuse | None:
        """The reuse of an order of `datatoken` that a transaction made; events of other emitters do not count."""

    def reuses(self, original: TransactionHash, datatoken: Address, first: int) -> tuple[Reuse, ...]:
        """Every one of this order since block `first`, oldest first; of each transaction what `reuse_of` tells."""
