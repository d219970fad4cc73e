"""What of an asset can be ordered for jobs: read from its document on chain, which its owner alone writes.

In: a listing, or another asset's DID. Out: the service, or a refusal that says why not. This module must never take a market's word
for whom a model trusts: its owner may change the list at any time, with any Ocean client.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from control_plane.chain.compute import Algorithm, ComputeService, access_service, compute_service
from control_plane.chain.fees import is_named, service_id
from control_plane.did import Address, Did, TransactionHash
from control_plane.errors import BadInput, NotFound, Refused, Unavailable
from control_plane.fields import Kind as Described
from control_plane.flows.consume import check_consumable, find_service
from control_plane.flows.services import Services
from control_plane.jobs.access import Paid
from control_plane.provider.asset_index import AssetIndex
from control_plane.serving.listing import Listing, Ordered


def compute_of(assets: AssetIndex, listing: Listing) -> ComputeService | None:
    """The listing's service for jobs. None: it sells none, as everything that was published before jobs were sold.

    Raises Unavailable while its document was not read from the chain yet; Refused with code document_damaged, also where it says
    that jobs are the service that the listing's calls are: whoever owns the NFT would have calls for the price of a free job.
    """
    asset = assets.find(listing.did)
    if asset is None:
        raise Unavailable(f"{listing.did}: its document was not read from the chain yet", code="not_indexed")
    service = compute_service(asset.document)
    if service is not None and service.datatoken != listing.datatoken:
        found = f"its jobs are sold for {service.datatoken}, expected its datatoken {listing.datatoken}"
        raise Refused(f"{listing.did}: {found}", code="document_damaged")
    if service is not None and (service.index == listing.service_index or service.id != service_id(service.index)):
        found = f"jobs are service {service.index} with the id {service.id!r:.80}"
        expected = f"another service than {listing.service_index}, its calls, with its own number as its id"
        raise Refused(f"{listing.did}: in its document {found}; expected {expected}", code="document_damaged")
    return service


def compute_needed(assets: AssetIndex, listing: Listing) -> ComputeService:
    """Raises BadInput with code sells_no_jobs; otherwise as `compute_of`."""
    service = compute_of(assets, listing)
    if service is None:
        raise sells_no_jobs(listing.did)
    return service


def sells_no_jobs(did: Did) -> BadInput:
    expected = "a model that sells jobs: one whose document on chain names a compute service"
    return BadInput("did", expected, Described(did), code="sells_no_jobs")


@dataclass(frozen=True)
class DatasetPaid:
    """A dataset's order. trusts: the algorithms that its owner lets near it; None where its files are sold themselves, and whoever
    has ordered them may do with them what he likes."""

    paid: Paid
    trusts: tuple[Algorithm, ...] | None


def dataset_service(assets: AssetIndex, did: Did) -> ComputeService:
    """What an order of a dataset is for: its service for jobs, else for access.

    Raises NotFound with code dataset_unknown, Refused with code document_damaged.
    """
    asset = assets.find(did)
    if asset is None:
        raise NotFound.named("dataset", "the DID of an asset whose document is on this chain", did, code="dataset_unknown")
    service = compute_service(asset.document) or access_service(asset.document)
    if service is None:
        raise Refused(f"{did}: expected a service that can be ordered, its document names none", code="document_damaged")
    return service


def dataset_paid(services: Services, owner: Address, did: Did, transaction: TransactionHash) -> DatasetPaid:
    """What the chain says of a dataset's order. Raises as `dataset_service`; Forbidden for an asset that is not for use, or not for
    this owner. Whether the order is good, order_job says."""
    sold = dataset_service(services.provider.assets, did)
    service = find_service(services, did, sold.id)
    check_consumable(services, service, owner)
    return DatasetPaid(paid_by(services, service, sold.id, transaction), sold.trusted if service.is_compute else None)


def paid_by(services: Services, service: Ordered, its_id: str, transaction: TransactionHash) -> Paid:
    """What the chain says of an order, with the fee of ours that names the service. One that was ordered again (`reuseOrder`)
    has the order's facts, and the fee and the confirmations of the transaction that did so."""
    reuse = services.ledger.reuse_of(transaction, service.datatoken)
    facts = services.ledger.order_facts(transaction if reuse is None else reuse.original, service.datatoken)
    signed = facts.signed_fees if reuse is None else reuse.signed_fees
    ours = [fee for fee in signed if fee.provider == services.operator.address and is_named(fee, service.datatoken, its_id)]
    facts = replace(facts, provider_fee=ours[0] if ours else None)
    if reuse is None:
        return Paid.by_order(service, facts)
    return Paid(service, replace(facts, confirmations=min(facts.confirmations, reuse.confirmations)), transaction)
