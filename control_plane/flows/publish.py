"""Publish a model: from a folder or hub id to an asset on sale.

In: a request and the publisher's wallet. Out: what was published. This module must never put on sale what the chain does not name.

The order of the steps matters. Digest and log stand on chain before the model is loaded, the loaded model must give PyTorch's
answers before it is listed, and each step can be repeated: a run that was interrupted anywhere and is repeated makes one asset.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from control_plane.chain import ddo
from control_plane.chain.ledger import (
    MODEL_LABEL,
    OPERATOR_LABEL,
    Created,
    Ledger,
    LedgerReader,
    Sent,
    Terms,
    Wallet,
    data_key,
)
from control_plane.did import Address, Bytes32, Did, TokenWei, UnixSeconds, did_of
from control_plane.errors import BadInput, IntegrityBroken, Refused
from control_plane.flows.entries import Installed, describe, install, obtain
from control_plane.flows.publications import Choices, Journal, Journals
from control_plane.serving.inference import InferenceServer
from control_plane.serving.listing import Listing
from control_plane.serving.replay import ServedParity, replay
from converters.entry import PRECISIONS, ModelDigest

SERVICE_INDEX = 0
MAX_NAME = 128


class Catalogue(Protocol):
    """What this flow needs of serving/catalogue.py."""

    def load_verified(self, listing: Listing, server: InferenceServer, ledger: LedgerReader) -> bool:
        """Load an entry whose digest is the chain's, hashed before and after. Raises IntegrityBroken otherwise."""

    def verify(self, listing: Listing) -> None:
        """Raises IntegrityBroken when the entry on disk is not the listing's."""

    def listings(self) -> tuple[Listing, ...]:
        """Every listing, withdrawn ones too."""

    def hold(self, entry_name: str) -> AbstractContextManager[None]:
        """Nobody unloads the entry meanwhile, though no listing sells it yet."""

    def put_on_sale(self, listing: Listing) -> None:
        """Again: replaces the listing of the same DID."""


Progress = Callable[[str, Mapping[str, Any] | None], None]
"""Called with a step's name when it begins (detail None) and when it is done: addresses, transactions, `seconds`."""


@dataclass(frozen=True)
class Request:
    """What a publisher asks. model: an entry's folder, a model's folder, or a hub id (then with `revision`, 40 hex digits).

    rate: base-token wei for one datatoken, 0 for free. task: when the model's own files do not say it. precision: one of the
    converter's, fp32 by default. licence: None takes the model's own; needed where it states none. timeout_s: how long an order
    lets its holder call, in seconds.
    """

    model: str
    name: str
    rate: TokenWei
    timeout_s: int
    revision: str | None = None
    task: str | None = None
    precision: str | None = None
    description: str = ""
    author: str = ""
    licence: str | None = None


@dataclass(frozen=True)
class Market:
    """Where publications go. operator_key: the operator's 64-byte public key; documents are sealed to it.

    convert: makes the entry of a request's model below an empty folder, and returns the entry's own; convert.py has the one that
    starts a child process. store: keeps an entry's copy in object
    storage under its digest and returns where; None where there is no such storage. log_nft: the operator's, see open_log.
    models: the folder Triton reads. scratch, publications: folders of this flow. clock: seconds since 1970, UTC.
    """

    ledger: Ledger
    inference: InferenceServer
    catalogue: Catalogue
    convert: Callable[[Request, Path], Path]
    store: Callable[[Path, ModelDigest], str] | None
    log_nft: Address
    operator: Address
    operator_key: bytes
    public_url: str
    base_token: Address
    publish_fee: TokenWei
    swap_fee: int
    models: Path
    scratch: Path
    publications: Path
    clock: Callable[[], float] = time.time


@dataclass(frozen=True)
class Published:
    """parity: what the served entry answered to its probes, the worst of each output."""

    listing: Listing
    created: Created
    digest: Sent
    log: Sent
    metadata: Sent
    stored: str | None
    parity: tuple[ServedParity, ...]


def _silent(_name: str, _detail: Mapping[str, Any] | None) -> None:
    return None


def publish(market: Market, wallet: Wallet, request: Request, progress: Progress = _silent) -> Published:
    """Put a model on sale in the wallet's name.

    Raises BadInput for the request's fields; Refused when the model, the chain or the inference server says no; Conflict when this
    publisher published the same model under this name on other terms; Unavailable and OutcomeUnknown: run it again; IntegrityBroken
    when what is served is not what the chain says, Refused with code parity_failed when it does not answer as PyTorch does (nothing
    is put on sale then).
    Again: finds what was done and goes on there; one asset in any case.
    """
    _check(request)
    steps = _Steps(progress, market.clock)
    with steps("convert") as detail:
        options = (request.name, request.task, request.precision)
        found = obtain(request.model, request.revision, options, market.models, market.scratch, partial(market.convert, request))
        detail["entry"] = str(found.folder)
    with steps("install") as detail:
        installed = install(found, market.models)
        folder, digest = installed.folder, installed.model_digest
        detail.update(entry=folder.name, model_digest=digest)
        for line in installed.entry.quality:  # what the choice of a precision costs
            detail[line["measure"]] = f"{line['value']}, float32 {line['full_precision']}, {line['unit']}"
    choices = _choices(market, wallet, request, installed)
    journals = Journals(market.publications)
    key = f"publish/{journals.id_of(choices)}"
    journal = journals.begin(choices, UnixSeconds(int(market.clock())), market.ledger.is_begun(f"{key}/asset"))
    with steps("asset") as detail:
        created = _create(market, wallet, f"{key}/asset", choices)
        did = did_of(created.nft, choices.chain_id)
        detail.update(did=did, nft=created.nft, datatoken=created.datatoken, exchange=created.exchange, **_shown(created.sent))
    with steps("digest") as detail:
        digest_sent = market.ledger.record_data(
            wallet, f"{key}/digest", created.nft, data_key(MODEL_LABEL), bytes.fromhex(digest[2:])
        )
        detail.update(model_digest=digest, **_shown(digest_sent))
    with steps("log") as detail:
        log_sent = market.ledger.record_data(
            wallet, f"{key}/log", created.nft, data_key(OPERATOR_LABEL), bytes.fromhex(market.log_nft[2:])
        )
        detail.update(log=market.log_nft, **_shown(log_sent))
    with steps("metadata") as detail:
        journal = _documented(market, journals, journal, created, installed)
        metadata_sent = _record_document(market, wallet, f"{key}/metadata", created.nft, journal)
        detail.update(clear_hash=journal.clear_hash, **_shown(metadata_sent))
    stored: str | None = None
    if market.store is not None:
        with steps("store") as detail:
            stored = market.store(folder, ModelDigest(digest))
            detail["where"] = stored
    with steps("compare") as detail:
        _compare(market, did, created, digest)
        detail["model_digest"] = digest
    listing = _listing(choices, created, did, installed, float(journal.created))
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
            detail["did"] = did
    return Published(listing, created, digest_sent, log_sent, metadata_sent, stored, parity)


def symbol_of(name: str) -> str:
    """A token symbol from a name: its letters and digits, upper case, at most 11 (what wallets show)."""
    return re.sub(r"[^A-Z0-9]", "", name.upper())[:11] or "MODEL"


def _check(request: Request) -> None:
    if not request.name.strip() or len(request.name) > MAX_NAME or not request.name.isprintable():
        raise BadInput("name", f"1 to {MAX_NAME} printable letters", request.name)
    if request.rate < 0 or request.rate >= 2**256:
        raise BadInput("rate", "token wei, from 0", request.rate)
    if request.timeout_s < 1:
        raise BadInput("timeout_s", "a whole number of seconds from 1", request.timeout_s)
    if request.precision is not None and request.precision not in PRECISIONS:
        raise BadInput("precision", f"one of {', '.join(PRECISIONS)}", request.precision)
    licence = request.licence
    if licence is not None and (not licence.strip() or len(licence) > MAX_NAME or not licence.isprintable()):
        raise BadInput("licence", f"1 to {MAX_NAME} printable letters", licence)


def _licence(request: Request, installed: Installed) -> str:
    """The licence that buyers are told: what the publisher gives, else what the model states."""
    found = request.licence or installed.entry.source.get("licence")
    if not found:
        raise BadInput("licence", "the model's licence, such as apache-2.0 (--licence), since its own files state none", None)
    return str(found)


def _choices(market: Market, wallet: Wallet, request: Request, installed: Installed) -> Choices:
    entry = installed.entry
    if request.precision not in (None, entry.precision):
        raise BadInput("precision", f"{entry.precision}, which this entry was made with", request.precision)
    return Choices(
        publisher=wallet.address,
        chain_id=market.ledger.network.chain_id,
        model_digest=installed.model_digest,
        name=request.name,
        description=request.description or f"{request.name}: {entry.task}, {entry.architecture}",
        author=request.author or wallet.address,
        licence=_licence(request, installed),
        rate=request.rate,
        base_token=market.base_token,
        publish_fee=market.publish_fee,
        swap_fee=market.swap_fee if request.rate else 0,
        marketplace_owner=market.operator,
        timeout_s=request.timeout_s,
    )


def _create(market: Market, wallet: Wallet, key: str, choices: Choices) -> Created:
    terms = Terms(choices.rate, choices.base_token, choices.publish_fee, choices.marketplace_owner, choices.swap_fee)
    return market.ledger.create_asset(wallet, key, choices.name, symbol_of(choices.name), terms)


def _documented(market: Market, journals: Journals, journal: Journal, created: Created, installed: Installed) -> Journal:
    """The journal with the sealed document inside; made once, since sealing again gives other bytes."""
    if journal.document is not None and journal.nft == created.nft:  # another NFT: a local chain that was begun anew
        return journal
    choices = journal.choices
    about = ddo.Description(
        name=choices.name,
        description=choices.description,
        author=choices.author,
        licence=choices.licence,
        created=journal.created,
        facts=describe(installed, choices.licence),
    )
    document = ddo.build_ddo(
        created.nft, created.datatoken, choices.chain_id, about, market.public_url, market.operator_key, choices.timeout_s
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


def _record_document(market: Market, wallet: Wallet, key: str, nft: Address, journal: Journal) -> Sent:
    if journal.document is None or journal.clear_hash is None or journal.endpoint is None:
        raise IntegrityBroken(f"{journal.choices.name}: the publication's journal lost its document")
    sealed = bytes.fromhex(journal.document[2:])
    return market.ledger.record_metadata(wallet, key, nft, sealed, journal.clear_hash, journal.endpoint, market.operator)


def _compare(market: Market, did: Did, created: Created, digest: Bytes32) -> None:
    """The chain names this digest and this market's log. The bytes on disk are compared where they are loaded."""
    facts = market.ledger.find_asset(did, created.nft)
    if not facts.is_from_factory or facts.datatoken != created.datatoken:
        raise IntegrityBroken(f"{did}: expected datatoken {created.datatoken} of Ocean's factory, the chain says {facts.datatoken}")
    if facts.model_digest != digest:
        raise IntegrityBroken(f"{did}: published {digest}, the chain says {facts.model_digest}")
    if facts.log != market.log_nft:
        raise IntegrityBroken(f"{did}: expected calls in the log {market.log_nft}, the chain says {facts.log}")


def _replayed(market: Market, folder: Path) -> tuple[ServedParity, ...]:
    """The loaded entry's answers to its probes; one that does not pass is unloaded, unless another listing sells it."""
    try:
        return replay(market.inference, folder.name, folder)
    except Refused:
        sold = {listing.entry_name for listing in market.catalogue.listings() if listing.state == "on_sale"}
        if folder.name not in sold:
            market.inference.unload(folder.name)
        raise


def _listing(choices: Choices, created: Created, did: Did, installed: Installed, published_at: float) -> Listing:
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
    )


def _shown(sent: Sent) -> dict[str, Any]:
    return {"transaction": sent.transaction, "block": sent.block, "gas_used": sent.gas_used}


class _Steps:
    """Tells `progress` of each step and how long it took. A step that fails is not reported as done."""

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress, self._clock = progress, clock

    @contextmanager
    def __call__(self, name: str) -> Iterator[dict[str, Any]]:
        self._progress(name, None)
        begun = self._clock()
        detail: dict[str, Any] = {}
        yield detail
        self._progress(name, detail | {"seconds": round(self._clock() - begun, 3)})
