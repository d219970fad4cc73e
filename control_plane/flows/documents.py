"""An asset's sealed document: made once, kept in the publication's journal, written on its NFT; made anew when it is out of date.

In: a journal and the facts of an asset. Out: the journal with the document inside; the transaction that wrote it. This module must
never seal the same document twice: sealing again gives other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from control_plane.chain import ddo
from control_plane.chain.compute import Algorithm, compute_service
from control_plane.chain.ledger import Created, Sent, Wallet
from control_plane.did import Address, Bytes32
from control_plane.errors import IntegrityBroken
from control_plane.flows.market import Market
from control_plane.flows.publications import Journal, Journals
from control_plane.jobs.algorithms import for_model


def documented(market: Market, journals: Journals, journal: Journal, created: Created, facts: Mapping[str, Any]) -> Journal:
    """The journal with the sealed document inside. facts: what a buyer reads about the model, see entries.describe.

    Its task, and whether its weights are kept, decide which of the market's algorithms it lets near itself.
    """
    if journal.document is not None and journal.nft == created.nft:  # another NFT: a local chain that was begun anew
        return journal
    return _made(market, journals, replace(journal, revision=0), created, facts)


def revised(market: Market, journals: Journals, journal: Journal, created: Created, facts: Mapping[str, Any]) -> Journal:
    """The journal with another document, where the market's algorithms that fit this model are not those that the document names.

    To be called when the journal's document was written. One that its owner has replaced by other means stays, and so does every
    document of a market that has no algorithms. Again: the same journal.
    """
    sealed = _kept(journal).sealed
    said = compute_service(ddo.unseal(sealed, market.decryptor))
    is_so = frozenset(() if said is None else said.trusted) == frozenset(_near(market, facts))
    if is_so or not market.algorithms or market.ledger.document(created.nft) != sealed:
        return journal
    return _made(market, journals, replace(journal, revision=journal.revision + 1), created, facts)


def record_document(market: Market, wallet: Wallet, key: str, journal: Journal) -> Sent:
    """Write the kept document on its NFT. Again: under the same key each revision is written once."""
    kept = _kept(journal)
    name = key if journal.revision == 0 else f"{key}/{kept.clear_hash}"
    return market.ledger.record_metadata(wallet, name, kept.nft, kept.sealed, kept.clear_hash, kept.endpoint, market.operator)


def _near(market: Market, facts: Mapping[str, Any]) -> tuple[Algorithm, ...]:
    return for_model(market.algorithms, str(facts["task"]), facts["weights_digest"] is not None)


def _made(market: Market, journals: Journals, journal: Journal, created: Created, facts: Mapping[str, Any]) -> Journal:
    choices = journal.choices
    about = ddo.Description(
        name=choices.name,
        description=choices.description,
        author=choices.author,
        licence=choices.licence,
        created=journal.created,
        facts=facts,
    )
    document = ddo.build_ddo(
        created.nft,
        created.datatoken,
        choices.chain_id,
        about,
        market.public_url,
        market.operator_key,
        choices.timeout_s,
        _near(market, facts),
    )
    made = replace(
        journal,
        nft=created.nft,
        document="0x" + ddo.seal(document, market.operator_key).hex(),
        clear_hash=ddo.clear_hash(document),
        endpoint=market.public_url,
    )
    journals.write(made)
    return made


@dataclass(frozen=True)
class _Kept:
    """A document that was made, and where it belongs."""

    sealed: bytes
    nft: Address
    clear_hash: Bytes32
    endpoint: str


def _kept(journal: Journal) -> _Kept:
    if journal.nft is None or journal.document is None or journal.clear_hash is None or journal.endpoint is None:
        raise IntegrityBroken(f"{journal.choices.name}: the publication's journal lost its document")
    return _Kept(bytes.fromhex(journal.document[2:]), journal.nft, journal.clear_hash, journal.endpoint)
