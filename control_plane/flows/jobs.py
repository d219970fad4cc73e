"""Jobs: ordered, followed and stopped by their owner.

In: a paid order's facts and what is asked of the model. Out: a job in the queue, or a refusal that costs nothing. This module must
never run a job, nor show one to anybody but its owner.

There is no verb for a refund: a job that fails gives its payment back in the transaction that makes it fail (`jobs/store.py`), and
`order_job` takes that payment once more (`jobs/access.py` says why this is what a refund can be, and how often).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from control_plane.chain.compute import Algorithm
from control_plane.did import Address, Did, UnixSeconds
from control_plane.errors import BadInput, Conflict, NotFound
from control_plane.fields import Kind as Described
from control_plane.flows.services import Services
from control_plane.jobs.access import JobQuestion, Paid, may_have_job, paid_time
from control_plane.jobs.architectures import UNTRAINABLE
from control_plane.jobs.environments import FREE, Environment, find
from control_plane.jobs.job import Job, NewJob
from control_plane.jobs.parameters import TASKS, Evaluate, Infer, Limits, Parameters, canonical, dataset_needed, parse_parameters
from control_plane.jobs.states import Kind
from control_plane.jobs.store import JobStore, Standing
from control_plane.serving.access import on_sale_only
from control_plane.serving.listing import Listing


@dataclass(frozen=True)
class JobOrder:
    """What an owner, whose signature was checked, asks for.

    model: its order is the payment; the service is the listing's for computing, not the one for calls. algorithm, trusted,
    algorithm_paid, dataset_paid, dataset_trusts: see `JobQuestion`; an algorithm counts with its
    checksums. environment: an id. parameters: as they came.
    """

    kind: Kind
    owner: Address
    listing: Listing
    model: Paid
    algorithm: Did
    trusted: frozenset[Did]
    environment: object
    parameters: object
    algorithm_paid: Paid | None = None
    dataset_paid: Paid | None = None
    dataset_trusts: tuple[Algorithm, ...] | None = None


def limits_of(services: Services, kind: Kind, listing: Listing) -> Limits:
    """What a job of this kind may ask of the model. Raises BadInput when it is not for such jobs: with code wrong_task, and for an
    architecture that cannot be trained with unsupported_model."""
    if listing.task not in TASKS[kind]:
        expected = f"a model for {' or '.join(TASKS[kind])}, which a job can {kind.value}"
        raise BadInput("did", expected, Described(f"one for {listing.task}"), code="wrong_task")
    entry = services.catalogue.entry(listing)
    if kind is Kind.TRAIN and (why := UNTRAINABLE.get(entry.architecture)) is not None:
        expected = f"a model that can be trained, and no {entry.architecture}, {why}"
        raise BadInput("did", expected, Described("one"), code="unsupported_model")
    details = entry.details
    lengths = [int(details["context_length"])]
    if kind is Kind.TRAIN and "decoder_length" in details:  # half of a sequence is read, the other half written
        lengths.append(2 * int(details["decoder_length"]))
    return Limits(min(lengths), services.settings.max_new_tokens, services.settings.jobs.precisions)


def parameters_of(services: Services, kind: Kind, listing: Listing, record: object) -> Parameters:
    """Typed parameters of a job of this model. Raises BadInput as `parse_parameters` and `limits_of`, and 422 for a prompt that the
    model cannot read."""
    parameters = parse_parameters(kind, record, limits_of(services, kind, listing))
    if isinstance(parameters, Infer):
        services.prompts.check_texts(listing, "prompts", parameters.prompts)
        services.prompts.check_generation(listing, {"max_tokens": parameters.max_tokens})
    return parameters


def check_publishing(
    services: Services, parameters: Parameters, did: Did, owner: Address, beside: Connection | None = None
) -> None:
    """Raises Conflict with code `too_many_evaluations` for an evaluation that could not be published as its owner wants. beside: as
    in `check_derivable`."""
    if isinstance(parameters, Evaluate) and parameters.publish:
        services.evaluations.check_room(did, owner, beside)


def check_derivable(
    services: Services, kind: Kind, environment: Environment, owner: Address, beside: Connection | None = None
) -> None:
    """Raises Conflict with code `too_many_derived` for a training whose model would be one more on sale than may be.

    Each costs the operator ten transactions, and stays loaded. The free environment has half of the places, so that nobody who
    pays is kept out by who does not. beside: the transaction that is to store the job, to count in it.
    """
    if kind is not Kind.TRAIN:
        return
    jobs = services.settings.jobs
    sold = (each for each in services.catalogue.listings(beside) if each.statement is not None and each.state == "on_sale")
    owners = [each.publisher for each in sold] + [job.owner for job in services.jobs.trainings(beside)]
    if owners.count(owner) >= jobs.derived_of_owner:
        found = (
            f"an owner may have at most {jobs.derived_of_owner}, trainings under way among them: one whose NFT is revoked is none"
        )
        raise Conflict(f"derived models: {found}", code="too_many_derived")
    if len(owners) >= (jobs.derived // 2 if environment.id == FREE else jobs.derived):
        raise Conflict(f"derived models: {environment.id} takes no training until there are fewer on sale", code="too_many_derived")


def order_job(services: Services, asked: JobOrder) -> Job:
    """Put a job into the queue for a payment that has no other.

    Raises BadInput (parameters, by their field; a prompt that the model cannot read, 422), NotFound (no such environment),
    Forbidden (the order does not allow it, with the reason), Conflict with code `payment_used`
    or `too_many_evaluations` or `too_many_derived`, TooMany (no room for now),
    IntegrityBroken (the model is withdrawn), Unavailable. Whatever is raised, the payment is as good as it was.
    Again: the same job, while it is not over; afterwards Conflict, which names it.
    """
    on_sale_only(asked.listing).enforce()
    environment = find(services.environments, asked.environment)
    parameters = parameters_of(services, asked.kind, asked.listing, asked.parameters)
    dataset, ours = dataset_needed(parameters), services.algorithms.values()
    trusts = None if asked.dataset_trusts is None else frozenset(each.did for each in asked.dataset_trusts if each in ours)
    question = JobQuestion(
        owner=asked.owner,
        model=asked.model,
        algorithm=asked.algorithm,
        trusted=asked.trusted,
        environment=environment,
        operator=services.operator.address,
        confirmations=services.network.confirmations,
        now=services.clock(),
        algorithm_paid=asked.algorithm_paid,
        dataset=dataset,
        dataset_paid=asked.dataset_paid,
        dataset_trusts=trusts,
    )
    time, fee = paid_time(asked.model), asked.model.facts.provider_fee
    new = NewJob(
        kind=asked.kind,
        did=asked.listing.did,
        model_digest=asked.listing.model_digest,
        owner=asked.owner,
        payment=asked.model.payment,
        original_order=None if asked.model.facts.transaction == asked.model.payment else asked.model.facts.transaction,
        dataset_did=dataset,
        dataset_order=None if asked.dataset_paid is None else asked.dataset_paid.payment,
        algorithm_did=asked.algorithm,
        algorithm_order=None if asked.algorithm_paid is None else asked.algorithm_paid.payment,
        parameters=canonical(parameters),
        environment=environment.id,
        valid_until=UnixSeconds(0 if fee is None else fee.valid_until),
        paid_s=0 if time is None else min(time.seconds, environment.max_duration_s),
    )

    def decide(standing: Standing, connection: Connection) -> None:
        may_have_job(question, standing).enforce()
        check_publishing(services, parameters, asked.listing.did, asked.owner, connection)
        check_derivable(services, asked.kind, environment, asked.owner, connection)

    return services.jobs.add(new, decide)


def job_of(jobs: JobStore, job_id: str, owner: Address) -> Job:
    """An owner's job. Raises NotFound, the same for another's job as for none: an id is told to nobody else."""
    job = jobs.get(job_id)
    if job.owner != owner:
        raise NotFound.named("job_id", "the id of a job", job_id, code="job_unknown")
    return job


def stop_job(jobs: JobStore, job_id: str, owner: Address) -> Job:
    """Stop an owner's job, see `JobStore.request_stop`. Raises NotFound as `job_of` does."""
    job_of(jobs, job_id, owner)
    return jobs.request_stop(job_id)
