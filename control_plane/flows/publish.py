"""Publish a model: from a folder or hub id to an asset on sale.

In: a request and the publisher's wallet. Out: what was published. This module must never put on sale what the chain does not name.

The order of the steps matters. Digest and log stand on chain before the model is loaded, the loaded model must give PyTorch's
answers before it is listed, and each step can be repeated: a run that was interrupted anywhere and is repeated makes one asset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial

from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, Created, Sent, Terms, Wallet, data_key
from control_plane.did import TokenWei, UnixSeconds, did_of
from control_plane.errors import BadInput
from control_plane.flows.documents import documented, record_document, revised
from control_plane.flows.entries import Installed, describe, install, obtain
from control_plane.flows.market import Conversion, Market, Progress, Steps, shown, silent
from control_plane.flows.publications import Choices, Journals
from control_plane.flows.serve import known_weights, listing_of, serve
from control_plane.jobs.architectures import UNTRAINABLE
from control_plane.serving.listing import Listing
from control_plane.serving.replay import ServedParity
from converters.entry import PRECISIONS

MAX_NAME = 128


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
class Published:
    """parity: what the served entry answered to its probes, the worst of each output."""

    listing: Listing
    created: Created
    digest: Sent
    log: Sent
    metadata: Sent
    stored: str | None
    parity: tuple[ServedParity, ...]


def publish(market: Market, wallet: Wallet, request: Request, progress: Progress = silent) -> Published:
    """Put a model on sale in the wallet's name.

    Raises BadInput for the request's fields; Refused when the model, the chain or the inference server says no; Conflict when this
    publisher published the same model under this name on other terms; Unavailable and OutcomeUnknown: run it again; IntegrityBroken
    when what is served is not what the chain says, Refused with code parity_failed when it does not answer as PyTorch does (nothing
    is put on sale then).
    Again: finds what was done and goes on there; one asset in any case. Where other jobs are possible with such a model by now than
    its document says, the document is written anew, in one transaction.
    """
    _check(request)
    steps = Steps(progress, market.clock)
    with steps("convert") as detail:
        asked = Conversion(request.model, request.name, request.revision, request.task, request.precision)
        convert = partial(market.convert, asked)
        found = obtain(asked.model, asked.revision, asked.options, market.models, market.weights, market.scratch, convert)
        detail["entry"] = str(found.folder)
    with steps("install") as detail:
        installed = install(found, market.models, market.weights)
        digest = installed.model_digest
        if installed.weights_digest is None:
            installed = replace(installed, weights_digest=known_weights(market, digest))
        if installed.entry.architecture in UNTRAINABLE:  # kept, should that change; and offered to nobody
            installed = replace(installed, weights_digest=None)
        detail.update(entry=installed.folder.name, model_digest=digest, weights_digest=installed.weights_digest)
        for line in installed.entry.quality:  # what the choice of a precision costs
            detail[line["measure"]] = f"{line['value']}, float32 {line['full_precision']}, {line['unit']}"
    choices = _choices(market, wallet, request, installed)
    journals = Journals(market.publications)
    key = f"publish/{journals.id_of(choices)}"
    journal = journals.begin(choices, UnixSeconds(int(market.clock())), market.ledger.is_begun(f"{key}/asset"))
    with steps("asset") as detail:
        created = _create(market, wallet, f"{key}/asset", choices)
        did = did_of(created.nft, choices.chain_id)
        detail.update(did=did, nft=created.nft, datatoken=created.datatoken, exchange=created.exchange, **shown(created.sent))
    with steps("digest") as detail:
        digest_sent = market.ledger.record_data(
            wallet, f"{key}/digest", created.nft, data_key(MODEL_LABEL), bytes.fromhex(digest[2:])
        )
        detail.update(model_digest=digest, **shown(digest_sent))
    with steps("log") as detail:
        log_sent = market.ledger.record_data(
            wallet, f"{key}/log", created.nft, data_key(OPERATOR_LABEL), bytes.fromhex(market.log_nft[2:])
        )
        detail.update(log=market.log_nft, **shown(log_sent))
    with steps("metadata") as detail:
        facts = describe(installed, choices.licence)
        journal = documented(market, journals, journal, created, facts)
        metadata_sent = record_document(market, wallet, f"{key}/metadata", journal)
        newer = revised(market, journals, journal, created, facts)
        if newer != journal:
            journal, metadata_sent = newer, record_document(market, wallet, f"{key}/metadata", newer)
        detail.update(clear_hash=journal.clear_hash, **shown(metadata_sent))
    listing = listing_of(choices, created, did, installed, float(journal.created))
    served = serve(market, steps, listing, installed)
    return Published(served.listing, created, digest_sent, log_sent, metadata_sent, served.stored, served.parity)


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
