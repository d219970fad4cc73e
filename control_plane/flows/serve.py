"""From an asset on chain to an asset on sale: copied, compared, loaded, asked, listed.

In: a listing that the chain already names, and its installed entry. Out: the listing as it is on sale. This module must never put
on sale what the chain does not name, or what does not answer as PyTorch does.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL, AssetFacts, Created, data_key
from control_plane.chain.lineage import Custody, Parent, custody_key
from control_plane.did import ZERO_ADDRESS, Bytes32, Did
from control_plane.errors import ChangedByOwner, IntegrityBroken, Refused
from control_plane.flows.entries import Installed, weights_folder
from control_plane.flows.market import Market, Steps
from control_plane.flows.publications import Choices
from control_plane.serving.listing import Listing
from control_plane.serving.replay import ServedParity, replay
from converters.entry import ModelDigest
from converters.weights_folder import WeightsDigest

SERVICE_INDEX = 0


@dataclass(frozen=True)
class Served:
    """stored: where copies are kept. parity: what the served entry answered to its probes, the worst of each output."""

    listing: Listing
    stored: str | None
    parity: tuple[ServedParity, ...]


def listing_of(choices: Choices, created: Created, did: Did, installed: Installed, published_at: float) -> Listing:
    return Listing(
        did=did,
        name=choices.name,
        task=installed.entry.task,
        entry_name=installed.folder.name,
        model_digest=choices.model_digest,
        chain_id=choices.chain_id,
        nft=created.nft,
        datatoken=created.datatoken,
        exchange=created.exchange,
        publisher=choices.publisher,
        service_index=SERVICE_INDEX,
        timeout_s=choices.timeout_s,
        rate=choices.rate,
        base_token=choices.base_token,
        publish_fee=choices.publish_fee,
        swap_fee=choices.swap_fee,
        published_at=published_at,
        weights_digest=installed.weights_digest,
        statement=choices.statement,
    )


def serve(market: Market, steps: Steps, listing: Listing, installed: Installed, parent: Parent | None = None) -> Served:
    """Copy entry and weights, compare with the chain, load, ask the probes, list. parent: what the chain must name as such.

    Raises IntegrityBroken when chain, disk and listing do not agree, ChangedByOwner when the owner of a derived asset wrote other
    things over its record, Refused with code parity_failed when the served entry does not answer as PyTorch does.
    Again: copies, loads and lists what is missing.
    """
    folder = installed.folder
    stored: str | None = None
    if market.store is not None:
        with steps("store") as detail:
            stored = market.store(folder, ModelDigest(listing.model_digest))
            detail["where"] = stored
            if market.store_weights is not None and installed.weights_digest is not None:
                kept = WeightsDigest(installed.weights_digest)
                detail["weights"] = market.store_weights(weights_folder(market.weights, kept), kept)
    with steps("compare") as detail:
        _compare(market, listing, parent)
        detail["model_digest"] = listing.model_digest
    with market.catalogue.hold(folder.name):
        with steps("load") as detail:
            if folder.name in market.inference.loaded():
                market.catalogue.verify(listing)
            else:
                market.catalogue.load_verified(listing, market.inference, market.ledger)
            detail["entry"] = folder.name
        with steps("parity") as detail:
            parity = _replayed(market, folder)
            detail.update({line.output: f"{line.worst_relative:.1e}, bound {line.bound:.1e}" for line in parity})
        listing = replace(listing, parity=json.dumps([asdict(line) for line in parity]))
        with steps("on sale") as detail:
            market.catalogue.put_on_sale(listing)
            if folder.name not in market.inference.loaded():
                # the log keeper had begun to unload what nobody sold, a moment before it was held
                market.catalogue.load_verified(listing, market.inference, market.ledger)
            detail["did"] = listing.did
    return Served(listing, stored, parity)


def known_weights(market: Market, digest: Bytes32) -> Bytes32 | None:
    """The weights that an earlier publication of the same entry kept; None when none did."""
    found = (each.weights_digest for each in market.catalogue.listings() if each.model_digest == digest)
    return next((weights for weights in found if weights is not None), None)


def _compare(market: Market, listing: Listing, parent: Parent | None) -> None:
    """The chain names this digest, parent and this market's log. The bytes on disk are compared where they are loaded."""
    did = listing.did
    facts = market.ledger.find_asset(did, listing.nft)
    wrong = None
    if not facts.is_from_factory or facts.datatoken != listing.datatoken:
        wrong = f"{did}: expected datatoken {listing.datatoken} of Ocean's factory, the chain says {facts.datatoken}"
    elif facts.model_digest != listing.model_digest:
        wrong = f"{did}: published {listing.model_digest}, the chain says {facts.model_digest}"
    elif facts.log != market.log_nft:
        wrong = f"{did}: expected calls in the log {market.log_nft}, the chain says {facts.log}"
    elif facts.parent != parent:
        wrong = f"{did}: expected the parent {parent}, the chain says {facts.parent}"
    if wrong is None:
        return
    if parent is not None and _is_by_owner(market, listing, Custody(listing.model_digest, market.log_nft, parent), facts):
        raise ChangedByOwner(wrong)
    raise IntegrityBroken(wrong)


def _is_by_owner(market: Market, listing: Listing, ours: Custody, facts: AssetFacts) -> bool:
    """Whether the NFT's owner wrote what stands there instead of the custody record, and no node is merely behind.

    The market writes nothing else on a derived asset's NFT, and a right to write under a label only its owner has.
    """
    nft, history = listing.nft, market.ledger.data_history
    if facts.datatoken not in (listing.datatoken, ZERO_ADDRESS):
        return True
    if any(history(nft, data_key(label)) for label in (MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL)):
        return True
    kept = history(nft, custody_key(listing.datatoken))
    return bool(kept) and kept[-1].value != ours.value()


def _replayed(market: Market, folder: Path) -> tuple[ServedParity, ...]:
    """The loaded entry's answers to its probes; one that does not pass is unloaded, unless another listing sells it."""
    try:
        return replay(market.inference, folder.name, folder)
    except Refused:
        sold = {listing.entry_name for listing in market.catalogue.listings() if listing.state == "on_sale"}
        if folder.name not in sold:
            market.inference.unload(folder.name)
        raise
