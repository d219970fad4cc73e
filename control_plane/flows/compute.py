"""What of an asset can be ordered for jobs: read from its document on chain, which its owner alone writes.

In: a listing, or another asset's DID. Out: the service, or a refusal that says why not. This module must never take a market's word
for whom a model trusts: its owner may change the list at any time, with any Ocean client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.chain.compute import ComputeService, access_service, compute_service
from control_plane.did import Did
from control_plane.errors import BadInput, NotFound, Refused, Unavailable
from control_plane.fields import Kind as Described
from control_plane.jobs.access import Service
from control_plane.provider.asset_index import AssetIndex
from control_plane.serving.listing import Listing


def compute_of(assets: AssetIndex, listing: Listing) -> ComputeService | None:
    """The listing's service for jobs. None: it sells none, as everything that was published before jobs were sold.

    Raises Unavailable while its document was not read from the chain yet, Refused with code document_damaged.
    """
    asset = assets.find(listing.did)
    if asset is None:
        raise Unavailable(f"{listing.did}: its document was not read from the chain yet", code="not_indexed")
    service = compute_service(asset.document)
    if service is not None and service.datatoken != listing.datatoken:
        found = f"its jobs are sold for {service.datatoken}, expected its datatoken {listing.datatoken}"
        raise Refused(f"{listing.did}: {found}", code="document_damaged")
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


def dataset_service(assets: AssetIndex, did: Did, chain_id: int) -> Service:
    """What an order of a dataset is for: its service for jobs, else for access.

    Raises NotFound with code dataset_unknown, Refused with code document_damaged.
    """
    asset = assets.find(did)
    if asset is None:
        raise NotFound.named("dataset", "the DID of an asset whose document is on this chain", did, code="dataset_unknown")
    document: Mapping[str, Any] = asset.document
    service = compute_service(document) or access_service(document)
    if service is None:
        raise Refused(f"{did}: expected a service that can be ordered, its document names none", code="document_damaged")
    return Service(did, chain_id, asset.nft, service.datatoken, service.index, service.timeout_s)
