"""What the dataset of a job costs, for who has no order of it that is still good.

In: a dataset's DID, who will own the job, an order of theirs where they have one. Out: an offer, or nothing where nothing is to be
paid. This module must never offer a model, nor a dataset whose owner does not let the job's algorithm near it.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.chain.compute import Algorithm
from control_plane.chain.ledger import Sale
from control_plane.did import Address, Did, TransactionHash
from control_plane.errors import Forbidden, Refused
from control_plane.flows.compute import dataset_service, paid_by
from control_plane.flows.consume import Service, check_consumable, check_no_model, fee_for, find_service
from control_plane.flows.offer import Offer
from control_plane.flows.services import Services
from control_plane.jobs.access import part_question
from control_plane.jobs.environments import Environment
from control_plane.provider.files import read_files
from control_plane.serving.access import may_order_be_used

_ONE = 10**18


@dataclass(frozen=True)
class DatasetOffer:
    """order_refused: why the order that was given is none for this job; None where none was given."""

    offer: Offer
    order_refused: str | None


NOT_FOR_THIS_JOB = frozenset({"order_expired", "order_wrong_service", "order_foreign", "order_without_provider_fee"})
"""Refusals of an order that can start no job here, or none any more: the dataset's owner sells another service of it by now, or for
another datatoken, or the order was made at another market."""


def dataset_offer(
    services: Services,
    did: Did,
    algorithm: Algorithm,
    owner: Address,
    environment: Environment,
    order: TransactionHash | None = None,
) -> DatasetOffer | None:
    """What `owner` must order before a job may read the dataset; None when `order` is good for it.

    Offered beside an `order`, it says why that is none for this job (`NOT_FOR_THIS_JOB`). All that the job would be refused for
    after the payment is refused here. Raises as `readable_dataset` and `check_file`; Forbidden for an order of somebody else,
    Refused with code not_for_sale where Ocean's exchange and dispenser do not sell the dataset. An order that is not final yet
    raises with a time to try again: it was paid, and is not to be paid twice.
    """
    service = readable_dataset(services, did, algorithm, owner)
    order_refused = None
    if order is not None:
        paid = paid_by(services, service, service.id, order)
        operator, confirmations = services.operator.address, services.network.confirmations
        decision = may_order_be_used(part_question(paid, owner, environment, operator, confirmations, services.clock()))
        if decision.refusal is None:
            return None
        if decision.refusal.code not in NOT_FOR_THIS_JOB:
            decision.enforce()
        order_refused = decision.refusal.message
    check_file(services, service)
    return DatasetOffer(_offer(services, service), order_refused)


def readable_dataset(services: Services, did: Did, algorithm: Algorithm, owner: Address) -> Service:
    """The service of a dataset that an order must be of before `algorithm` may read it in a job of `owner`'s.

    Raises NotFound (no such dataset), Forbidden (not for use, a model, an algorithm that its owner does not trust).
    """
    sold = dataset_service(services.provider.assets, did)
    service = find_service(services, did, sold.id)
    check_no_model(services, service, check_consumable(services, service, owner))
    if service.is_compute and algorithm not in sold.trusted:
        raise Forbidden(f"algorithm: the owner of {did} does not let {algorithm.did} near it", code="algorithm_not_trusted")
    return service


def check_file(services: Services, service: Service) -> None:
    """Raises BadInput and Unavailable for a dataset whose first file cannot be had: nobody is to pay for what is not there."""
    files = read_files(service.record, service.nft, services.provider.key)
    services.provider.files.open(files[0]).close()


def _offer(services: Services, service: Service) -> Offer:
    fee = fee_for(services, service)  # first: it says whether the datatoken is the asset's at all
    found = services.ledger.datatoken_facts(service.nft, service.datatoken)
    if found is None or found.price is None:
        raise Refused(
            f"{service.did}: Ocean's exchange and dispenser do not sell its datatoken {service.datatoken}; its owner may give it",
            code="not_for_sale",
        )
    sale = services.ledger.sale(service.datatoken, found.exchange)
    return Offer(
        chain_id=service.chain_id,
        did=service.did,
        nft=service.nft,
        datatoken=service.datatoken,
        exchange=found.exchange,
        rate=sale.rate,
        base_token=sale.base_token or services.network.ocean,
        publish_fee=sale.publish_fee,
        swap_fee=_swap_fee(sale),
        service_index=service.service_index,
        service_id=service.id,
        timeout_s=service.timeout_s,
        provider_fee=fee,
    )


def _swap_fee(sale: Sale) -> int:
    """Of the price, in 10**-18: what the exchange takes beyond the rate, Ocean's own share inside, rounded up."""
    return -(-(sale.price - sale.rate) * _ONE // sale.rate) if sale.rate else 0
