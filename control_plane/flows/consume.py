"""Consume: what an order of an Ocean asset allows, and the files behind it.

In: a DID, a service, who asks, an order's transaction. Out: fees to order with, files to fetch. This module must never open a
file of a model, whatever was ordered: what an order of a model buys is calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from control_plane.chain.fees import is_named, sign_fee
from control_plane.chain.ledger import CALLABLE_STATES, AssetFacts, OrderFacts, ProviderFee
from control_plane.did import Address, Did, TokenWei, TransactionHash, UnixSeconds, parse_address
from control_plane.errors import BadInput, Forbidden, NotFound, Refused
from control_plane.flows.offer import make_offer
from control_plane.flows.services import Services
from control_plane.provider.asset_index import IndexedAsset
from control_plane.provider.fetch import RemoteFile
from control_plane.provider.files import read_files
from control_plane.serving.access import CALLS_CHECKS, ORDER_CHECKS, OrderQuestion, may_order_be_used, on_sale_only
from control_plane.serving.listing import Listing

NO_TIMEOUT_S = 100 * 366 * 86_400
"""How long a fee is good for a service whose orders never end."""
MODEL_FACTS = "posthuman"
"""Where our own documents say what a model is, under `additionalInformation`."""


@dataclass(frozen=True)
class Service:
    """One service of an indexed asset; implements `Ordered`."""

    asset: IndexedAsset
    record: Mapping[str, Any]
    service_index: int
    chain_id: int

    @property
    def did(self) -> Did:
        return self.asset.did

    @property
    def nft(self) -> Address:
        return self.asset.nft

    @property
    def datatoken(self) -> Address:
        return parse_address(self.record["datatokenAddress"])

    @property
    def timeout_s(self) -> int:
        return int(self.record["timeout"])

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def is_compute(self) -> bool:
        return bool(self.record["type"] == "compute")


def find_service(services: Services, did: Did, service_id: str) -> Service:
    """Raises NotFound with code did_not_found or service_not_found."""
    asset = services.provider.assets.find(did)
    if asset is None:
        raise NotFound("documentId: expected the DID of an asset that is indexed here, found none", code="did_not_found")
    for index, record in enumerate(asset.document["services"]):
        if str(record["id"]) == service_id:
            return Service(asset, record, index, services.network.chain_id)
    raise NotFound("serviceId: expected the id of a service of this asset, found none", code="service_not_found")


def listing_of(services: Services, service: Service) -> Listing | None:
    """The listing where the service is a model's; None for a dataset or an algorithm."""
    try:
        return services.catalogue.find(service.did)
    except NotFound:
        return None


def check_consumable(services: Services, service: Service, consumer: Address) -> AssetFacts:
    """The asset as the chain has it now, when `consumer` may use it by that and by the document's lists.

    Raises Forbidden with its reason.
    """
    facts = services.ledger.asset(service.nft)
    if not facts.is_from_factory:
        raise Forbidden("documentId: expected an NFT of Ocean's factory, found another contract", code="nft_foreign")
    if facts.state not in CALLABLE_STATES:
        raise Forbidden(f"documentId: this asset is not for use, its state is {facts.state}", code="asset_not_consumable")
    allowed, denied = (_addresses(service.asset.document, name) for name in ("allow", "deny"))
    if (allowed and consumer.lower() not in allowed) or consumer.lower() in denied:
        raise Forbidden("consumerAddress: expected one that the asset's credentials let in, found another", code="not_allowed")
    return facts


def fee_for(services: Services, service: Service) -> ProviderFee:
    """What an order of the service pays to the operator: a model's listed fee; nothing for a file that somebody else keeps.

    Raises Forbidden with code datatoken_foreign for a datatoken that the asset's NFT has not made: the document is a stranger's,
    who may name a model's, and would have its calls for nothing. Raises Refused with code document_damaged for a model whose
    document names another datatoken than the one that its calls are sold for.
    """
    listing = listing_of(services, service)
    settings, clock = services.settings, services.clock
    if listing is not None:
        on_sale_only(listing).enforce()
        if service.service_index != listing.service_index:
            raise NotFound("serviceId: expected the service of this model's calls, found another", code="service_not_found")
        if service.datatoken != listing.datatoken:
            found = f"its calls are sold for {service.datatoken}, expected its datatoken {listing.datatoken}"
            raise Refused(f"{listing.did}: {found}", code="document_damaged")
        return make_offer(listing, services.operator, settings.provider_fee, settings.order_timeout_s, clock).provider_fee
    if not services.ledger.has_made(service.nft, service.datatoken):
        expected = "expected a datatoken that the asset's own NFT has made"
        raise Forbidden(f"serviceId: {expected}, the document names {service.datatoken}", code="datatoken_foreign")
    ends_at = UnixSeconds(int(clock()) + (service.timeout_s or NO_TIMEOUT_S))
    return sign_fee(services.operator, service.datatoken, service.id, services.network.ocean, TokenWei(0), ends_at, clock)


def check_order(services: Services, service: Service, consumer: Address, transaction: TransactionHash) -> OrderFacts:
    """The order's facts, when `consumer` may use it for `service` now. Raises Forbidden with the first reason why not.

    `transaction` may be one that ordered again (`reuseOrder`, which anybody may call): what counts is the order that it names. Who
    paid for an order for somebody else may use it as well, as with Ocean Provider.
    """
    reuse = services.ledger.reuse_of(transaction, service.datatoken)
    facts = services.ledger.order_facts(transaction if reuse is None else reuse.original, service.datatoken)
    fees = [fee for fee in facts.signed_fees if is_named(fee, service.datatoken, service.id)]
    ours = [fee for fee in fees if fee.provider == services.operator.address]
    judged = replace(facts, provider_fee=next(iter([*ours, *fees]), None))
    if consumer == facts.payer:
        judged = replace(judged, consumer=consumer)
    if reuse is not None:
        judged = replace(judged, confirmations=min(judged.confirmations, reuse.confirmations))
    confirmations, now = services.network.confirmations, services.clock()
    operator = services.operator.address
    checks = ORDER_CHECKS if listing_of(services, service) is None else CALLS_CHECKS
    may_order_be_used(OrderQuestion(judged, service, consumer, operator, confirmations, now), checks).enforce()
    return facts


def files_to_download(services: Services, service: Service, facts: AssetFacts) -> tuple[RemoteFile, ...]:
    """facts: of the asset, see `check_no_model`, whose Forbidden this raises."""
    check_no_model(services, service, facts)
    if service.is_compute:
        raise BadInput("serviceId", "a service of type access", "one for computing", code="service_not_access")
    return read_files(service.record, service.nft, services.provider.key)


def check_no_model(services: Services, service: Service, facts: AssetFacts) -> None:
    """Raises Forbidden for a model, known as one by the catalogue, its document, or the chain, which `facts` are of."""
    told = service.asset.document["metadata"].get("additionalInformation") or {}
    stated = told.get(MODEL_FACTS) if isinstance(told, Mapping) else None
    is_model = listing_of(services, service) is not None or (isinstance(stated, Mapping) and "model_digest" in stated)
    if is_model or facts.model_digest is not None:
        raise Forbidden("documentId: this asset is a model; an order of it buys calls, its files are not served", code="is_a_model")


def to_ocean(fee: ProviderFee) -> dict[str, Any]:
    """A fee as Ocean Provider tells it: the amount as text, for JSON numbers end at 2**53."""
    return {
        "providerFeeAddress": fee.provider,
        "providerFeeToken": fee.token,
        "providerFeeAmount": str(fee.amount),
        "providerData": "0x" + fee.data.hex(),
        "v": fee.v,
        "r": fee.r,
        "s": fee.s,
        "validUntil": fee.valid_until,
    }


def _addresses(document: Mapping[str, Any], name: str) -> frozenset[str]:
    """Of `credentials.allow` or `.deny`. Raises Forbidden for lists of another kind: nobody can say whom they let in."""
    found: set[str] = set()
    credentials = document.get("credentials") or {}
    entries = credentials.get(name) or [] if isinstance(credentials, Mapping) else [None]
    for entry in entries if isinstance(entries, list) else [None]:
        if not isinstance(entry, Mapping) or entry.get("type") != "address" or not isinstance(entry.get("values"), list):
            raise Forbidden("documentId: the asset's credentials are of a kind that is not known here", code="credentials_unknown")
        found |= {json.dumps(each).strip('"').lower() for each in entry["values"]}
    return frozenset(found)
