"""Decrypt: a document that stands on chain, for whoever signs for it.

In: an NFT, a transaction or the sealed bytes. Out: the document's clear text. This module must never open what is not the DDO of
that NFT, and never one whose owner has withdrawn it.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.chain.published import DocumentWritten
from control_plane.did import Address, TransactionHash, did_of
from control_plane.errors import BadInput, NotFound
from control_plane.flows.services import Services
from control_plane.provider.aqua import WITHDRAWN
from control_plane.provider.documents import open_document


@dataclass(frozen=True)
class Sealed:
    """A document as it was written. flags: 1 compressed, 2 encrypted."""

    nft: Address
    flags: int
    data: bytes
    clear_hash: bytes


def find_sealed(services: Services, transaction: TransactionHash, nft: Address | None) -> Sealed:
    """The document that a transaction wrote, on `nft` where it wrote several. Raises BadInput when it wrote none there."""
    written = [each for each in services.ledger.documents_of(transaction) if nft in (None, each.nft)]
    if not written or len({each.nft for each in written}) > 1:
        found = "none" if not written else "several, and no dataNftAddress"
        raise BadInput("transactionId", "a transaction that wrote the metadata of a data NFT", found)
    return _sealed(written[-1])


def decrypt(services: Services, sealed: Sealed) -> bytes:
    """The exact clear text. Raises BadInput: 403 for a withdrawn asset, 400 for no document of an NFT of Ocean's."""
    try:
        facts = services.ledger.asset(sealed.nft)
    except NotFound as error:
        raise _foreign() from error
    if not facts.is_from_factory:
        raise _foreign()
    if facts.state in WITHDRAWN:
        expected = "an asset that is in use"
        raise BadInput("dataNftAddress", expected, f"one that is {WITHDRAWN[facts.state]}", status=403, code="asset_withdrawn")
    did = did_of(sealed.nft, services.network.chain_id)
    return open_document(sealed.flags, sealed.data, sealed.clear_hash, did, services.provider.key).clear


def _sealed(written: DocumentWritten) -> Sealed:
    return Sealed(written.nft, written.flags, written.data, written.clear_hash)


def _foreign() -> BadInput:
    return BadInput("dataNftAddress", "a data NFT of Ocean's factory", "another contract, or none", code="nft_foreign")
