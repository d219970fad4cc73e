"""Jobs as Ocean's clients order them: what each part costs, and the start.

In: a model's service for jobs, an algorithm, datasets, orders. Out: fees to order with, a job. This module must never decide
whether a payment has a job (`jobs/access.py` does), nor price anything itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from control_plane.chain.compute import ComputeService
from control_plane.chain.fees import compute_time, sign_fee
from control_plane.chain.ledger import ProviderFee
from control_plane.did import Address, Did, TransactionHash, UnixSeconds, parse_did, parse_transaction_hash
from control_plane.errors import BadInput, Forbidden, NotFound
from control_plane.flows.compute import DatasetPaid, compute_needed, dataset_paid, paid_by
from control_plane.flows.consume import check_consumable, fee_for, find_service
from control_plane.flows.jobs import JobOrder, order_job
from control_plane.flows.services import Services
from control_plane.jobs.access import Paid, Service
from control_plane.jobs.algorithms import kind_of_did
from control_plane.jobs.environments import Environment, find
from control_plane.jobs.job import Job
from control_plane.serving.access import OrderQuestion, may_order_be_used, on_sale_only
from control_plane.serving.listing import Listing

DATASET_ORDER = "dataset_order"
"""Beside the parameters: the order of the dataset that they name. `ocean.py` 3.1.2 drops further datasets, so it has no other
place.
"""


@dataclass(frozen=True)
class Part:
    """One asset of a job: its service, and the transaction that ordered it where there is one."""

    did: Did
    service_id: str
    order: TransactionHash | None = None


@dataclass(frozen=True)
class Priced:
    """What a client must order. order: one that is there already; with a fee it must be ordered again, without it is good as it
    is.
    """

    datatoken: Address
    fee: ProviderFee | None
    order: TransactionHash | None = None


def price_model(services: Services, part: Part, owner: Address, environment: str, valid_until: int) -> Priced:
    """The fee for computing until then. Raises BadInput for a time that is not offered; NotFound; IntegrityBroken when withdrawn.

    valid_until: seconds since 1970. Of all seconds until then: whole days are paid as well.
    """
    listing, service = _model(services, part, owner)
    place = find(services.environments, environment)
    paid = None if part.order is None else paid_by(services, _ordered(services, listing, service), service.id, part.order)
    if paid is not None and part.order is not None:
        if _is_still_worth_a_job(services, paid, owner, place):
            return Priced(service.datatoken, None, part.order)
        is_good = _may_be_used(services, paid, owner, place)
    fee = sign_fee(
        services.operator,
        service.datatoken,
        service.id,
        place.fee_token,
        place.fee(valid_until - int(services.clock())),
        UnixSeconds(valid_until),
        services.clock,
        place.id,
    )
    return Priced(service.datatoken, fee, part.order if paid is not None and is_good else None)


def price_other(services: Services, part: Part, owner: Address, environment: str) -> Priced:
    """The fee of an algorithm or a dataset: nothing, for it is not computed on; an order that is good is told as such."""
    service = find_service(services, part.did, part.service_id)
    check_consumable(services, service, owner)
    place = find(services.environments, environment)
    if part.order is not None:
        paid = paid_by(services, service, service.id, part.order)
        if _decision(services, paid, owner, place) is None:
            return Priced(service.datatoken, None, part.order)
    return Priced(service.datatoken, fee_for(services, service))


def start_job(
    services: Services,
    owner: Address,
    model: Part,
    algorithm: Part,
    datasets: Sequence[Part],
    environment: object,
    told: Mapping[str, Any],
) -> Job:
    """Put the job into the queue. told: its parameters, and beside them the dataset's order.

    Raises as `order_job`; BadInput and NotFound for parts that are not what they should be. Again: the same job, while it is not
    over.
    """
    listing, service = _model(services, model, owner)
    if model.order is None:
        raise BadInput("dataset.transferTxId", "the transaction that ordered the model's jobs", "none", code="missing")
    kind = kind_of_did(services.algorithms, algorithm.did)
    if kind is None:
        raise BadInput("algorithm.documentId", "one of this market's algorithms", "another", code="not_trusted_algo")
    parameters = {name: value for name, value in told.items() if name != DATASET_ORDER}
    dataset = _dataset_paid(services, owner, datasets, parameters, told.get(DATASET_ORDER))
    algorithm_paid = None
    if algorithm.order is not None:
        ordered = find_service(services, algorithm.did, algorithm.service_id)
        algorithm_paid = paid_by(services, ordered, ordered.id, algorithm.order)
    return order_job(
        services,
        JobOrder(
            kind=kind,
            owner=owner,
            listing=listing,
            model=paid_by(services, _ordered(services, listing, service), service.id, model.order),
            algorithm=algorithm.did,
            trusted=frozenset(each.did for each in service.trusted if each in services.algorithms.values()),
            environment=environment,
            parameters=parameters,
            algorithm_paid=algorithm_paid,
            dataset_paid=None if dataset is None else dataset.paid,
            dataset_trusts=None if dataset is None else dataset.trusts,
        ),
    )


def _model(services: Services, part: Part, owner: Address) -> tuple[Listing, ComputeService]:
    try:
        listing = services.catalogue.find(part.did)
    except NotFound as error:
        expected = "dataset.documentId: expected the DID of a model of this market, found none"
        raise NotFound(expected, code="did_not_found") from error
    on_sale_only(listing).enforce()
    service = compute_needed(services.provider.assets, listing)
    if service.id != part.service_id:
        raise NotFound("dataset.serviceId: expected the model's service for jobs, found another", code="main_service_compute")
    check_consumable(services, find_service(services, part.did, part.service_id), owner)
    return listing, service


def _ordered(services: Services, listing: Listing, service: ComputeService) -> Service:
    return Service(listing.did, services.network.chain_id, listing.nft, service.datatoken, service.index, service.timeout_s)


def _dataset_paid(
    services: Services, owner: Address, datasets: Sequence[Part], parameters: Mapping[str, Any], order: object
) -> DatasetPaid | None:
    """The order of the dataset that the parameters name, from wherever the client has put it."""
    if len(datasets) > 1:
        raise BadInput("additionalDatasets", "at most one dataset", f"{len(datasets)}", code="too_many_datasets")
    did, transaction = parameters.get("dataset"), parse_transaction_hash(order, DATASET_ORDER) if order is not None else None
    if datasets:
        did, transaction = datasets[0].did, datasets[0].order or transaction
    if transaction is None or not isinstance(did, str):
        return None
    return dataset_paid(services, owner, parse_did(did, "dataset"), transaction)


def _is_still_worth_a_job(services: Services, paid: Paid, owner: Address, place: Environment) -> bool:
    """The fee pays for time in this environment, has not ended, and no other job holds it."""
    time = None if paid.facts.provider_fee is None else compute_time(paid.facts.provider_fee)
    if time is None or time.environment != place.id or _decision(services, paid, owner, place) is not None:
        return False
    return not any(job.holds_payment for job in services.jobs.of_payment(paid.payment))


def _may_be_used(services: Services, paid: Paid, owner: Address, place: Environment) -> bool:
    """The order itself is good, whatever its fee was for: with a new fee it can be ordered again."""
    lasting = sign_fee(
        services.operator,
        paid.service.datatoken,
        "",
        place.fee_token,
        place.fee(1),
        UnixSeconds(int(services.clock()) + 60),
        services.clock,
    )
    return _decision(services, replace(paid, facts=replace(paid.facts, provider_fee=lasting)), owner, place) is None


def _decision(services: Services, paid: Paid, owner: Address, place: Environment) -> Forbidden | None:
    """As `jobs/access.py` judges orders: the environment may be the consumer of what the owner paid."""
    is_through = paid.facts.consumer == place.consumer and paid.facts.payer == owner
    consumer = place.consumer if is_through else owner
    operator, confirmations, now = services.operator.address, services.network.confirmations, services.clock()
    refusal = may_order_be_used(OrderQuestion(paid.facts, paid.service, consumer, operator, confirmations, now)).refusal
    return None if refusal is None else Forbidden(refusal.message, code=refusal.code)
