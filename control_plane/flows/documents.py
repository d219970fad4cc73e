"""An asset's sealed document: made once, kept in the publication's journal, written on its NFT.

In: a journal and the facts of an asset. Out: the journal with the document inside; the transaction that wrote it. This module must
never seal a document twice: sealing again gives other bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from control_plane.chain import ddo
from control_plane.chain.ledger import Created, Sent, Wallet
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
        for_model(market.algorithms, str(facts["task"]), facts["weights_digest"] is not None),
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


def record_document(market: Market, wallet: Wallet, key: str, journal: Journal) -> Sent:
    """Write the kept document on its NFT. Again: under the same key it is written once."""
    if journal.nft is None or journal.document is None or journal.clear_hash is None or journal.endpoint is None:
        raise IntegrityBroken(f"{journal.choices.name}: the publication's journal lost its document")
    sealed = bytes.fromhex(journal.document[2:])
    return market.ledger.record_metadata(wallet, key, journal.nft, sealed, journal.clear_hash, journal.endpoint, market.operator)
