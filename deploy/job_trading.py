"""A buyer's errands with jobs: the price, the payment, the job, and how it goes on.

In: a market, a ledger, a wallet, the buyer's files, what is wanted. Out: a job in the queue; then what the market says of it. This
module must never pay twice for one job: a payment whose job is not in the queue yet is used first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from control_plane.chain.fees import compute_time
from control_plane.chain.ledger import Ledger, Wallet
from control_plane.did import Did, TokenWei, TransactionHash, parse_did
from control_plane.errors import Forbidden, Refused, Unavailable
from control_plane.flows import order as order_flow
from control_plane.flows.offer import Offer
from control_plane.jobs.parameters import WIKITEXT
from control_plane.jobs.states import OVER
from deploy.buyer import BuyerFiles
from deploy.market import JobOffers, Market, MarketRefused
from deploy.trading import most_unasked, with_session

_PAYMENT_IS_SPENT = frozenset({"order_expired", "payment_used", "payment_used_up"})
_DATASET_IS_TO_BE_PAID = frozenset(
    f"dataset_order_{why}" for why in ("expired", "foreign", "wrong_service", "without_provider_fee")
)
_OVER = frozenset(state.value for state in OVER)
_SILENT_FOR_S = 120.0
_TRIES, _LONGEST_WAIT_S = 30, 10
Result = TypeVar("Result")


@dataclass(frozen=True)
class Wanted:
    """duration_s: seconds of computing to pay for. order: paid already, None: to be paid. dataset_order: of the dataset that the
    parameters name by its DID, None: the newest one that is good, else to be paid."""

    kind: str
    did: Did
    parameters: Mapping[str, Any]
    environment: str
    duration_s: int
    order: TransactionHash | None = None
    dataset_order: TransactionHash | None = None

    @property
    def dataset(self) -> Did | None:
        """The dataset asset that the job reads; None where it reads none."""
        named = self.parameters.get("dataset")
        return None if named in (None, WIKITEXT) else parse_did(named, "dataset")


@dataclass(frozen=True)
class Due:
    """What is to be paid for a job before it can be asked for. None: nothing, or paid already.

    dataset_order_refused: why an order of the dataset that was paid before is none for this job, in the market's words.
    """

    model: Offer | None
    dataset: Offer | None
    dataset_order_refused: str | None = None

    @property
    def cost(self) -> TokenWei:
        """The most that it may cost, in base-token wei."""
        return TokenWei(sum(order_flow.cost_of(each) for each in (self.model, self.dataset) if each is not None))


def order_job(
    market: Market,
    ledger: Ledger,
    wallet: Wallet,
    files: BuyerFiles,
    wanted: Wanted,
    tell: Callable[[Due], None] = lambda _due: None,
    most: TokenWei | None = None,
) -> dict[str, Any]:
    """Pay for a job, and for the dataset that it reads, and put it into the queue; the job as the market shows it.

    tell: hears the whole price before anything is paid. most: base-token wei that all of it may cost; None: of each part as
    `most_unasked`. Raises Refused, with nothing paid, above that; MarketRefused, with nothing paid, for parameters that the market
    does not take, and for a dataset, or a `dataset_order` that was named, which is not for this job.
    Again: after an interruption, or an outcome that is not known, goes on with the same payments, also with other parameters for
    the same time of the same environment; otherwise pays for another job. A dataset's order that is still good is used again.
    """
    order, dataset_order = _known(files, wanted)
    if order is not None and (dataset_order is not None or wanted.dataset is None):
        try:  # before any offer, which an owner whose job is in the queue already may be refused: a free environment takes one
            return _queue(market, ledger, wallet, files, wanted, order, dataset_order)
        except MarketRefused as refused:
            if refused.code not in _DATASET_IS_TO_BE_PAID or wanted.dataset_order is not None:
                raise
    return _queue(market, ledger, wallet, files, wanted, *_paid(market, ledger, wallet, files, wanted, tell, most))


def _queue(
    market: Market,
    ledger: Ledger,
    wallet: Wallet,
    files: BuyerFiles,
    wanted: Wanted,
    order: TransactionHash,
    dataset_order: TransactionHash | None,
) -> dict[str, Any]:
    """Again: the same job, while it is not over; then refused, and the payment is no longer remembered."""
    body = {"kind": wanted.kind, "parameters": wanted.parameters, "environment": wanted.environment, "order": order}
    if dataset_order is not None:
        body["dataset_order"] = dataset_order

    def put(token: str) -> dict[str, Any]:
        return market.order_job(token, body)

    try:
        job = with_session(market, wallet, files, wanted.did, ledger.network.chain_id, put, order, _place(market))
    except MarketRefused as refused:
        if refused.code in _PAYMENT_IS_SPENT:
            files.job_queued(wanted.did, wanted.environment, wanted.duration_s, order)
        raise
    files.job_queued(wanted.did, wanted.environment, wanted.duration_s, order)
    return job


def _known(files: BuyerFiles, wanted: Wanted) -> tuple[TransactionHash | None, TransactionHash | None]:
    """The orders of the model and of the dataset that are named, or paid already."""
    _, order = files.job_payment(wanted.did, wanted.environment, wanted.duration_s)
    dataset_order = wanted.dataset_order
    if dataset_order is None and wanted.dataset is not None:
        _, dataset_order = files.dataset_payment(wanted.dataset)
    return wanted.order or order, dataset_order


def _paid(
    market: Market,
    ledger: Ledger,
    wallet: Wallet,
    files: BuyerFiles,
    wanted: Wanted,
    tell: Callable[[Due], None],
    most: TokenWei | None,
) -> tuple[TransactionHash, TransactionHash | None]:
    """The orders of the model and of the dataset, each paid where it is to be."""
    order, dataset_order = _known(files, wanted)
    offers = _offered(market, wallet, wanted, dataset_order)
    due = Due(offers.model if order is None else None, offers.dataset, offers.dataset_order_refused)
    _check(due, wanted, dataset_order)
    tell(due)
    if most is not None and due.cost > most:
        found = f"all in all it may cost {due.cost} wei, at most {most} are to be paid"
        raise Refused(f"job of {wanted.did}: {found}", code="too_expensive")
    if due.dataset is not None:
        if dataset_order is not None:
            files.dataset_ended(due.dataset.did, dataset_order)
        key, _ = files.dataset_payment(due.dataset.did)
        dataset_order = _pay(ledger, wallet, due.dataset, key, _limit(due, due.dataset, most), is_dataset=True)
        files.dataset_paid(due.dataset.did, dataset_order)
    if order is None and due.model is not None:
        key, _ = files.job_payment(wanted.did, wanted.environment, wanted.duration_s)
        order = _pay(ledger, wallet, due.model, key, _limit(due, due.model, most))
        files.job_paid(wanted.did, wanted.environment, wanted.duration_s, order)
    assert order is not None  # noqa: S101  # paid before, or just now
    return order, dataset_order


def _limit(due: Due, offer: Offer, most: TokenWei | None) -> TokenWei:
    """What one part may cost: what the other leaves of it."""
    return most_unasked(offer) if most is None else TokenWei(most - due.cost + order_flow.cost_of(offer))


def _pay(ledger: Ledger, wallet: Wallet, offer: Offer, key: str, limit: TokenWei, is_dataset: bool = False) -> TransactionHash:
    purchase = order_flow.buy(ledger, wallet, offer, key, limit, is_dataset)
    return order_flow.order(ledger, wallet, offer, key, most=limit, paid=purchase.paid, is_dataset=is_dataset).transaction


def _offered(
    market: Market,
    wallet: Wallet,
    wanted: Wanted,
    dataset_order: TransactionHash | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> JobOffers:
    """The market's offers. An asset that was published a moment ago is waited for: its document must be read from the chain."""
    asked = (wanted.did, wallet.address, wanted.kind, wanted.parameters, wanted.environment, wanted.duration_s)
    for left in reversed(range(_TRIES)):
        try:
            return market.job_offer(*asked, dataset_order)
        except MarketRefused as refused:
            if refused.code != "not_indexed" or not left:
                raise
            sleep(min(refused.retry_after_s or 1, _LONGEST_WAIT_S))
    raise AssertionError("the last try returns or raises")


def _check(due: Due, wanted: Wanted, dataset_order: TransactionHash | None) -> None:
    """The chain does not know what a fee is for; its data say it, under the operator's signature."""
    if due.model is not None:
        time_paid = compute_time(due.model.provider_fee)
        if time_paid is None or (time_paid.environment, time_paid.seconds) != (wanted.environment, wanted.duration_s):
            expected = f"{wanted.duration_s} s in {wanted.environment}"
            found = "no computing" if time_paid is None else f"{time_paid.seconds} s in {time_paid.environment!r:.80}"
            raise Refused(f"offer for {due.model.did}: expected a fee for {expected}, found one for {found}", code="offer_differs")
    for offer, did in ((due.model, wanted.did), (due.dataset, wanted.dataset)):
        if offer is not None and offer.did != did:
            raise Refused(f"offer: expected one of {did or 'no dataset'}, found one of {offer.did}", code="offer_differs")
    if due.dataset is not None and wanted.dataset_order is not None:
        why = due.dataset_order_refused or "the market asks for another"
        found = f"dataset order {dataset_order}: expected one that is good for this job; {why}"
        raise Refused(f"{found}; name none to pay for the dataset once more", code="dataset_order_not_good")
    if due.dataset is None and wanted.dataset is not None and dataset_order is None:
        raise Refused(f"offer: expected one of the dataset {wanted.dataset}, found none", code="offer_differs")


def with_any_session(market: Market, wallet: Wallet, files: BuyerFiles, chain_id: int, ask: Callable[[str], Result]) -> Result:
    """Ask with the newest order of jobs of this wallet: it shows them all. Raises Forbidden when there is none here."""
    newest = files.latest_job_order()
    if newest is None:
        raise Forbidden(f"{wallet.address} has no order of a job here: run `posthuman train` first", code="no_order")
    did, order = newest
    return with_session(market, wallet, files, did, chain_id, ask, order, _place(market))


def _place(market: Market) -> str:
    """Where sessions of orders of jobs are kept: they are not for calls."""
    return f"{market.url} jobs"


def follow(
    look: Callable[[], dict[str, Any]],
    every_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[str, Any]]:
    """What the market says of a job, again and again until it is over. A market that does not answer for two minutes ends it with
    Unavailable; the job goes on without who watches it."""
    heard_at = clock()
    while True:
        try:
            job = look()
        except Unavailable:
            if clock() - heard_at > _SILENT_FOR_S:
                raise
        else:
            heard_at = clock()
            yield job
            if job["state"] in _OVER:
                return
        sleep(every_s)
