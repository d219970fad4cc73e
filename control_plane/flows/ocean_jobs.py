"""Jobs as Ocean's clients order them: what each part costs, and the start.

In: a model's service for jobs, an algorithm, datasets, orders. Out: fees to order with, a job. This module must never decide
whether a payment has a job (`jobs/access.py` does), nor price anything itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control_plane.chain.compute import Algorithm, ComputeService
from control_plane.chain.fees import sign_fee
from control_plane.chain.ledger import ProviderFee
from control_plane.did import Address, Did, TransactionHash, UnixSeconds, parse_did, parse_transaction_hash
from control_plane.errors import BadInput, Forbidden, NotFound
from control_plane.fields import Kind as Described
from control_plane.flows.compute import DatasetPaid, compute_needed, dataset_paid, paid_by
from control_plane.flows.consume import check_consumable, fee_for, find_service
from control_plane.flows.dataset_offer import check_file, readable_dataset
from control_plane.flows.jobs import JobOrder, check_derivable, check_publishing, limits_of, order_job, parameters_of
from control_plane.flows.services import Services
from control_plane.jobs.access import (
    PAYMENT_CHECKS,
    JobQuestion,
    Service,
    has_room,
    may_be_ordered_again,
    may_have_job,
    part_question,
)
from control_plane.jobs.algorithms import kind_of_did
from control_plane.jobs.environments import Environment, find
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind
from control_plane.jobs.store import Standing
from control_plane.serving.access import Decision, may_order_be_used, on_sale_only
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


@dataclass(frozen=True)
class Prices:
    model: Priced
    datasets: tuple[Priced, ...]
    algorithm: Priced


def price_job(
    services: Services,
    owner: Address,
    model: Part,
    algorithm: Part,
    datasets: Sequence[Part],
    environment: str,
    valid_until: int,
    told: Mapping[str, Any],
) -> Prices:
    """What a client must order for a job: computing on the model until `valid_until`, seconds since 1970 (of all seconds until
    then: whole days are paid as well). The algorithm and datasets cost the operator's fee nothing.

    told: as of `start_job`; none where the client does not send them yet. What would be refused after the payment is refused here,
    as far as it is known then: raises as `start_job`, TooMany for an environment without room among it, and BadInput for a time
    that is not offered.
    """
    listing, service = _model(services, model, owner)
    place = find(services.environments, environment)
    ordered = _price_other(services, algorithm, owner, place)
    kind = _check_offered(services, listing, service, algorithm.did, datasets)
    check_derivable(services, kind, place, owner)
    if told:
        parameters = parameters_of(services, kind, listing, _parameters(told))
        check_publishing(services, parameters, listing.did, owner)
    others = tuple(_price_dataset(services, each, owner, place, kind) for each in datasets)
    return Prices(_price_model(services, listing, service, model.order, algorithm.did, owner, place, valid_until), others, ordered)


def _check_offered(services: Services, listing: Listing, service: ComputeService, algorithm: Did, datasets: Sequence[Part]) -> Kind:
    """The kind of job. Raises BadInput for what no job here can be, Forbidden for an algorithm that the model's owner does not
    trust, and for a dataset that no job of this kind reads."""
    kind = _kind(services, algorithm)
    limits_of(services, kind, listing)
    _at_most_one(datasets)
    if algorithm not in _trusted(services, service.trusted):
        raise Forbidden(f"algorithm: the owner of {listing.did} does not let {algorithm} near it", code="algorithm_not_trusted")
    if datasets and kind is Kind.INFER:
        raise Forbidden(f"dataset: expected none, which a job of kind {kind} reads none of, found one", code="dataset_not_ordered")
    return kind


def _price_dataset(services: Services, part: Part, owner: Address, place: Environment, kind: Kind) -> Priced:
    """Raises as `readable_dataset` and `check_file`; BadInput with code dataset_wrong_service for another service than the one that
    a job's order must be of."""
    service = readable_dataset(services, part.did, services.algorithms[kind], owner)
    if part.service_id != service.id:
        expected = f"{service.id}, the service of this dataset that jobs are ordered of"
        raise BadInput("dataset.serviceId", expected, Described("another"), code="dataset_wrong_service")
    priced = _price_other(services, part, owner, place)
    if priced.fee is not None:
        check_file(services, service)
    return priced


def _price_model(
    services: Services,
    listing: Listing,
    service: ComputeService,
    order: TransactionHash | None,
    algorithm: Did,
    owner: Address,
    place: Environment,
    valid_until: int,
) -> Priced:
    is_good = False
    if order is not None:
        paid = paid_by(services, _ordered(services, listing, service), service.id, order)
        question = JobQuestion(
            owner=owner,
            model=paid,
            algorithm=algorithm,
            trusted=_trusted(services, service.trusted),
            environment=place,
            operator=services.operator.address,
            confirmations=services.network.confirmations,
            now=services.clock(),
        )
        decision = may_have_job(question, Standing(services.jobs.of_payment(paid.payment)), PAYMENT_CHECKS)
        if decision.is_allowed:
            return Priced(service.datatoken, None, order)
        _check_not_only_young(decision)
        is_good = may_be_ordered_again(question).is_allowed
    has_room(place, services.jobs.standing_in(place.id, owner)).enforce()
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
    return Priced(service.datatoken, fee, order if is_good else None)


def _price_other(services: Services, part: Part, owner: Address, place: Environment) -> Priced:
    """The fee of an algorithm or a dataset: nothing, for it is not computed on; an order that is good is told as such."""
    service = find_service(services, part.did, part.service_id)
    check_consumable(services, service, owner)
    if part.order is not None:
        paid = paid_by(services, service, service.id, part.order)
        operator, confirmations = services.operator.address, services.network.confirmations
        decision = may_order_be_used(part_question(paid, owner, place, operator, confirmations, services.clock()))
        if decision.is_allowed:
            return Priced(service.datatoken, None, part.order)
        _check_not_only_young(decision)
    return Priced(service.datatoken, fee_for(services, service))


def _check_not_only_young(decision: Decision) -> None:
    """Raises Forbidden, with a time to try again, for an order that is good but not final yet: it is not to be paid twice."""
    if decision.refusal is not None and decision.refusal.code == "order_not_final":
        decision.enforce()


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
    kind = _kind(services, algorithm.did)
    parameters = _parameters(told)
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
            trusted=_trusted(services, service.trusted),
            environment=environment,
            parameters=parameters,
            algorithm_paid=algorithm_paid,
            dataset_paid=None if dataset is None else dataset.paid,
            dataset_trusts=None if dataset is None else dataset.trusts,
        ),
    )


def _parameters(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != DATASET_ORDER}


def _kind(services: Services, algorithm: Did) -> Kind:
    kind = kind_of_did(services.algorithms, algorithm)
    if kind is None:
        raise BadInput("algorithm.documentId", "one of this market's algorithms", "another", code="not_trusted_algo")
    return kind


def _trusted(services: Services, named: Sequence[Algorithm]) -> frozenset[Did]:
    """Those of the market's algorithms that an owner has named with their checksums."""
    return frozenset(each.did for each in named if each in services.algorithms.values())


def _at_most_one(datasets: Sequence[Part]) -> None:
    if len(datasets) > 1:
        raise BadInput("additionalDatasets", "at most one dataset", f"{len(datasets)}", code="too_many_datasets")


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
    _at_most_one(datasets)
    did, transaction = parameters.get("dataset"), parse_transaction_hash(order, DATASET_ORDER) if order is not None else None
    if datasets:
        did, transaction = datasets[0].did, datasets[0].order or transaction
    if transaction is None or not isinstance(did, str):
        return None
    return dataset_paid(services, owner, parse_did(did, "dataset"), transaction)
