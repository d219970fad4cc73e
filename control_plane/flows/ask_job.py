"""A job asked for through our own surface: its price before, and the job after the payment.

In: a listing or a session, what is wanted. Out: an offer that the asset's datatoken accepts, a job in the queue. This module must
never take a document's or an order's facts from who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.chain.compute import Algorithm, ComputeService
from control_plane.did import Address, TransactionHash, parse_did
from control_plane.errors import BadInput, Forbidden, Unavailable
from control_plane.fields import Kind as Described
from control_plane.flows.compute import DatasetPaid, compute_needed, dataset_paid
from control_plane.flows.dataset_offer import DatasetOffer, dataset_offer
from control_plane.flows.jobs import JobOrder, check_derivable, check_publishing, order_job, parameters_of
from control_plane.flows.offer import Offer, make_job_offer
from control_plane.flows.services import Services
from control_plane.jobs.access import Paid, Service
from control_plane.jobs.environments import Environment
from control_plane.jobs.job import Job
from control_plane.jobs.parameters import WIKITEXT, canonical, dataset_needed
from control_plane.jobs.states import Kind
from control_plane.serving.listing import Listing
from control_plane.serving.sessions import Session


@dataclass(frozen=True)
class Wanted:
    """parameters: as they came, and an object."""

    kind: Kind
    parameters: Mapping[str, Any]
    environment: Environment


@dataclass(frozen=True)
class Offered:
    """What is to be ordered for a job. dataset: None where the job reads none, or its order is good already. parameters: with every
    default filled in, as canonical JSON."""

    model: Offer
    dataset: DatasetOffer | None
    parameters: str


def job_offer(
    services: Services,
    listing: Listing,
    wanted: Wanted,
    duration_s: int,
    consumer: Address,
    dataset_order: TransactionHash | None = None,
) -> Offered:
    """What the job costs.

    duration_s: seconds of computing that are paid for; the program is ended when they are used up. consumer: who will own the job.
    dataset_order: theirs, of the dataset that the parameters name. All that would be refused after the payment is refused here, as
    far as it is known: raises what `order_job` and `dataset_offer` raise.
    """
    parameters = parameters_of(services, wanted.kind, listing, wanted.parameters)
    check_publishing(services, parameters, listing.did, consumer)
    check_derivable(services, wanted.kind, wanted.environment, consumer)
    service = compute_needed(services.provider.assets, listing)
    algorithm = algorithm_for(services, wanted.kind)
    if algorithm not in service.trusted:
        raise Forbidden(f"algorithm: the owner of {listing.did} does not let {algorithm.did} near it", code="algorithm_not_trusted")
    made = make_job_offer(listing, service, services.operator, wanted.environment, duration_s, services.clock)
    did = dataset_needed(parameters)
    if did is None:
        if dataset_order is not None:
            raise _no_dataset()
        return Offered(made, None, canonical(parameters))
    dataset = dataset_offer(services, did, algorithm, consumer, wanted.environment, dataset_order)
    return Offered(made, dataset, canonical(parameters))


def ask_for_job(services: Services, session: Session, wanted: Wanted, dataset_order: TransactionHash | None = None) -> Job:
    """Put a job into the queue for the order that `session` is for. Raises, and Again: as `order_job`."""
    listing = services.catalogue.find(session.did)
    service = compute_needed(services.provider.assets, listing)
    algorithm = algorithm_for(services, wanted.kind)
    model, dataset = _service(listing, service), _dataset(services, session.wallet, wanted, dataset_order)
    return order_job(
        services,
        JobOrder(
            kind=wanted.kind,
            owner=session.wallet,
            listing=listing,
            model=Paid.by_order(model, services.ledger.order_facts(session.order, listing.datatoken)),
            algorithm=algorithm.did,
            trusted=frozenset({each.did for each in service.trusted if each == algorithm}),
            environment=wanted.environment.id,
            parameters=wanted.parameters,
            dataset_paid=None if dataset is None else dataset.paid,
            dataset_trusts=None if dataset is None else dataset.trusts,
        ),
    )


def algorithm_for(services: Services, kind: Kind) -> Algorithm:
    """The market's own. Raises Unavailable before set-up has published it."""
    found = services.algorithms.get(kind)
    if found is None:
        raise Unavailable(
            f"{kind.value}: this market has not published its algorithm yet", code="algorithm_missing", retry_after_s=60
        )
    return found


def _no_dataset() -> BadInput:
    return BadInput("dataset_order", "nothing, unless parameters name a dataset by its DID", Described("a transaction"))


def _service(listing: Listing, service: ComputeService) -> Service:
    return Service(listing.did, listing.chain_id, listing.nft, service.datatoken, service.index, service.timeout_s)


def _dataset(services: Services, owner: Address, wanted: Wanted, order: TransactionHash | None) -> DatasetPaid | None:
    """A dataset's order. Whether one is needed, and whether this one is good, order_job says."""
    named = wanted.parameters.get("dataset")
    if order is None:
        return None
    if not isinstance(named, str) or named == WIKITEXT:
        raise _no_dataset()
    return dataset_paid(services, owner, parse_did(named, "dataset"), order)
