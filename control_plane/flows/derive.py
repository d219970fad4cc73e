"""Derive an asset: from a training job's weights to an asset on sale that the trainer owns.

In: weights, how they came to be, and the operator's wallet. Out: what was made. This module must never need the trainer's key, nor
leave the operator a right over what is the trainer's.

The steps are those of publishing, but for the chain: the NFT is the trainer's from its first block, 200 datatokens are minted to
the trainer once, and when everything is written the operator's rights are given up. Each step can be repeated: a run that was
interrupted anywhere and is repeated makes one asset.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from control_plane.chain import ddo
from control_plane.chain.histories import recorded
from control_plane.chain.ledger import MODEL_LABEL, Created, Sent, Terms, Wallet
from control_plane.chain.lineage import Custody, Parent
from control_plane.did import Bytes32, TokenWei, UnixSeconds, did_of
from control_plane.errors import BadInput, ChangedByOwner, IntegrityBroken, NotFound, Refused
from control_plane.flows.derivation import Derivation
from control_plane.flows.documents import documented, record_document
from control_plane.flows.entries import Installed, describe, install, obtain
from control_plane.flows.market import Conversion, Market, Progress, Steps, shown, silent
from control_plane.flows.publications import Choices, Journal, Journals
from control_plane.flows.publish import MAX_NAME, symbol_of
from control_plane.flows.serve import listing_of, serve
from control_plane.serving.listing import Listing
from control_plane.serving.replay import ServedParity
from converters.entry import read_entry
from converters.errors import EntryBroken, WeightsBroken
from converters.weights_folder import weights_digest

MINTED = TokenWei(200 * 10**18)
"""Datatoken wei that the trainer gets of what he trained."""
RATE_OF_THE_FREE = TokenWei(10**18)
"""What a datatoken costs at first when the parent's are given away: a dispenser cannot be made for somebody else."""


@dataclass(frozen=True)
class Trained:
    """What a training job leaves. weights: a folder with exactly the weights that `derivation` names.

    rate: base-token wei for one datatoken, above 0; None: as the parent's. name: None: the first ancestor's, with the job's first
    eight digits.
    """

    derivation: Derivation
    weights: Path
    name: str | None = None
    rate: TokenWei | None = None


@dataclass(frozen=True)
class Derived:
    """left: the transactions that took the operator's rights away. parity: as in `Published`."""

    listing: Listing
    created: Created
    metadata: Sent
    left: tuple[Sent, ...]
    stored: str | None
    parity: tuple[ServedParity, ...]


def derive(market: Market, operator: Wallet, trained: Trained, progress: Progress = silent) -> Derived:
    """Put trained weights on sale in the trainer's name.

    Raises NotFound for a parent that is not here; BadInput; Refused when converter, chain or inference server say no (code
    parity_failed: what was served did not answer as PyTorch does); ChangedByOwner when the trainer, who owns the NFT from its first
    block, changed it so that it cannot be made; IntegrityBroken when weights, entry and chain do not agree;
    Unavailable and OutcomeUnknown: run it again.
    Again: finds what was done and goes on there; one asset, and one minting, in any case.
    """
    derivation = trained.derivation
    steps = Steps(progress, market.clock)
    parent = market.catalogue.find(derivation.parent)
    _check(market, trained, parent)
    with steps("weights") as detail:
        _check_weights(trained)
        detail["weights_digest"] = derivation.weights_digest
    with steps("convert") as detail:
        asked = Conversion(
            model=str(trained.weights),
            name=trained.name or _name(market, parent, derivation),
            task=parent.task,
            precision=_precision(market, parent),
            parents=(derivation.parent_digest,),
        )
        convert = partial(market.convert, asked)
        found = obtain(asked.model, None, asked.options, market.models, market.weights, market.scratch, convert)
        detail["entry"] = str(found.folder)
    with steps("install") as detail:
        installed = install(found, market.models, market.weights)
        _check_entry(installed, derivation)
        detail.update(entry=installed.folder.name, model_digest=installed.model_digest, weights_digest=installed.weights_digest)
    choices = _choices(market, trained, parent, installed, asked.name)
    journals = Journals(market.publications)
    key = f"derive/{journals.id_of(choices)}"
    begun = market.ledger.is_begun(f"{key}/asset/nft")
    if begun and (before := journals.read(journals.id_of(choices))) is not None:
        choices = before.choices  # the parent's owner, or the operator, may have changed his terms since; nobody could choose anew
    journal = journals.begin(choices, UnixSeconds(int(market.clock())), begun)
    kept = Parent(derivation.parent_nft, derivation.parent_digest, derivation.digest())
    with steps("asset") as detail:
        created = _create(market, operator, f"{key}/asset", choices, kept)
        did = did_of(created.nft, choices.chain_id)
        detail.update(did=did, nft=created.nft, datatoken=created.datatoken, exchange=created.exchange, **shown(created.sent))
    with steps("metadata") as detail:
        stated = derivation.to_json() | {"statement": derivation.digest()}
        facts = describe(installed, choices.licence) | {"licence_given_by": "parent", "derivation": stated}
        journal = documented(market, journals, journal, created, facts)
        metadata = _described(market, operator, f"{key}/metadata", journal, created)
        detail.update(clear_hash=journal.clear_hash, **shown(metadata))
    with steps("rights") as detail:
        left = market.ledger.give_up(operator, f"{key}/rights", created.nft, created.datatoken)
        detail["transactions"] = [sent.transaction for sent in left]
    served = serve(market, steps, listing_of(choices, created, did, installed, float(journal.created)), installed, kept)
    return Derived(served.listing, created, metadata, left, served.stored, served.parity)


def _check(market: Market, trained: Trained, parent: Listing) -> None:
    derivation = trained.derivation
    if trained.name is not None and (not trained.name.strip() or len(trained.name) > MAX_NAME or not trained.name.isprintable()):
        raise BadInput("name", f"1 to {MAX_NAME} printable letters", trained.name)
    if trained.rate is not None and not 0 < trained.rate < 2**256:
        raise BadInput("rate", "token wei above 0", trained.rate)
    if derivation.chain_id != market.ledger.network.chain_id:
        raise BadInput("chain_id", str(market.ledger.network.chain_id), derivation.chain_id)
    history = recorded(market.ledger, parent.nft, parent.datatoken, MODEL_LABEL)
    if bytes.fromhex(derivation.parent_digest[2:]) not in {record.value for record in history}:
        raise IntegrityBroken(f"{parent.did}: trained from {derivation.parent_digest}, which the chain never named")


def _check_weights(trained: Trained) -> None:
    expected = trained.derivation.weights_digest
    try:
        found = str(weights_digest(trained.weights))
    except WeightsBroken as error:
        found = str(error)
    if found != expected:
        raise IntegrityBroken(f"job {trained.derivation.job}: expected the weights {expected}, found {found}")


def _check_entry(installed: Installed, derivation: Derivation) -> None:
    """The entry was made from these weights, and says what they were trained from."""
    if installed.weights_digest != derivation.weights_digest:
        raise IntegrityBroken(
            f"job {derivation.job}: trained to {derivation.weights_digest}, converted was {installed.weights_digest}"
        )
    if installed.entry.parents != (derivation.parent_digest,):
        raise IntegrityBroken(
            f"job {derivation.job}: expected an entry with the parent {derivation.parent_digest}, found {installed.entry.parents}"
        )


def _name(market: Market, parent: Listing, derivation: Derivation) -> str:
    """The name of the ancestor that somebody published, and the job's beginning: short, and no two jobs have one."""
    first, seen = parent, {parent.did}
    while first.statement is not None:
        try:
            first = market.catalogue.find(Derivation.from_json(json.loads(first.statement)).parent)
        except NotFound:
            break
        if first.did in seen:
            raise IntegrityBroken(f"{first.did}: the catalogue says that it was trained from itself")
        seen.add(first.did)
    return f"{first.name[: MAX_NAME - 9]} {derivation.job[:8]}"


def _precision(market: Market, parent: Listing) -> str:
    """What was derived is served as its parent is."""
    try:
        return read_entry(market.models / parent.entry_name).precision
    except EntryBroken as error:
        raise IntegrityBroken(f"{parent.did}: the entry on disk is broken: {error}", code="model_tampered") from error


def _choices(market: Market, trained: Trained, parent: Listing, installed: Installed, name: str) -> Choices:
    derivation = trained.derivation
    return Choices(
        publisher=derivation.trainer,
        chain_id=derivation.chain_id,
        model_digest=installed.model_digest,
        name=name,
        description=f"{parent.name}, trained further on {derivation.dataset}",
        author=derivation.trainer,
        licence=_licence(market, parent),
        rate=trained.rate or parent.rate or RATE_OF_THE_FREE,
        base_token=market.base_token,
        publish_fee=market.publish_fee,
        swap_fee=market.swap_fee,
        marketplace_owner=market.operator,
        timeout_s=parent.timeout_s,
        statement=derivation.canonical().decode(),
    )


_MOST_LICENCE = 1000
"""Letters. The parent's owner writes them, and the operator pays for writing them again."""


def _licence(market: Market, parent: Listing) -> str:
    """The parent's, as its document on chain has it: what is trained from it stands under the same."""
    sealed = market.ledger.document(parent.nft)
    if sealed is None:
        raise Refused(f"{parent.did}: expected a document on chain that states its licence, found none")
    metadata = ddo.unseal(sealed, market.decryptor).get("metadata")
    licence = metadata.get("license") if isinstance(metadata, Mapping) else None
    if not isinstance(licence, str) or not 0 < len(licence) <= _MOST_LICENCE:
        found = f"expected a document on chain that states its licence in at most {_MOST_LICENCE} letters, found another"
        raise Refused(f"{parent.did}: {found}", code="document_damaged")
    return licence


def _create(market: Market, operator: Wallet, key: str, choices: Choices, parent: Parent) -> Created:
    terms = Terms(choices.rate, choices.base_token, choices.publish_fee, choices.marketplace_owner, choices.swap_fee)
    record = Custody(Bytes32(choices.model_digest), market.log_nft, parent).value()
    symbol = symbol_of(choices.name)
    return market.ledger.create_asset_for(operator, key, choices.publisher, choices.name, symbol, terms, MINTED, record)


def _described(market: Market, operator: Wallet, key: str, journal: Journal, created: Created) -> Sent:
    """The document on its NFT. Raises ChangedByOwner when its owner took the right to write it."""
    try:
        return record_document(market, operator, key, journal)
    except Refused as error:
        if market.ledger.rights(created.nft, created.datatoken, operator.address).may_describe:
            raise
        raise ChangedByOwner(f"{created.nft}: its owner took the right to describe it from {operator.address}") from error
