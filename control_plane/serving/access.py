"""May this order be used, may this call be made: facts in, decision out.

In: what the chain says of an order, what the catalogue says of a model, a session, the time. Out: a `Decision`, with one named
refusal a check. This module must never do I/O: no chain, no database, no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from control_plane.chain.fees import pays_for_calls
from control_plane.chain.ledger import OrderFacts
from control_plane.did import Address, Did, UnixSeconds
from control_plane.errors import Conflict, Forbidden, IntegrityBroken, PosthumanError, TooMany, Unauthenticated
from control_plane.serving.listing import Listing, Ordered
from control_plane.serving.sessions import Session

ONE_DATATOKEN = 10**18
NEVER = UnixSeconds(2**63 - 1)
_KINDS: dict[int, type[PosthumanError]] = {401: Unauthenticated, 403: Forbidden, 409: Conflict, 503: IntegrityBroken}


@dataclass(frozen=True)
class Refusal:
    """Why not. status: 401 sign in again, 403 not with this order or token, 409 it stands for something else, 429 too many at once,
    503 nobody can for now. code is stable."""

    status: int
    code: str
    message: str
    retry_after_s: int | None = None


@dataclass(frozen=True)
class Decision:
    """`refusal` is None where it is allowed."""

    refusal: Refusal | None = None

    @property
    def is_allowed(self) -> bool:
        return self.refusal is None

    def enforce(self) -> None:
        """Raises Unauthenticated, Forbidden, Conflict, TooMany or IntegrityBroken for a refusal; does nothing otherwise."""
        refusal = self.refusal
        if refusal is None:
            return
        if refusal.status == 429:
            raise TooMany(refusal.message, refusal.code, refusal.retry_after_s or 1)
        error = _KINDS[refusal.status](refusal.message, code=refusal.code)
        error.retry_after_s = refusal.retry_after_s
        raise error


@dataclass(frozen=True)
class OrderQuestion:
    """May `consumer` use this order for `listing` now? A listing, or another asset's service that is ordered.

    operator: whose provider fee an order must carry. confirmations: blocks that the chain asks for before an order counts.
    now: seconds since 1970.
    """

    facts: OrderFacts
    listing: Ordered
    consumer: Address
    operator: Address
    confirmations: int
    now: float


def order_ends_at(facts: OrderFacts, listing: Ordered) -> UnixSeconds:
    """When an order stops being good: the earlier of its time plus the service's timeout (0: never) and what its provider fee says.

    Seconds since 1970. An order without the operator's fee is refused elsewhere; here it has no end of its own.
    """
    by_timeout = UnixSeconds(facts.ordered_at + listing.timeout_s) if listing.timeout_s else NEVER
    return by_timeout if facts.provider_fee is None else min(by_timeout, facts.provider_fee.valid_until)


def _no(code: str, message: str, status: int = 403, retry_after_s: int | None = None) -> Refusal:
    return Refusal(status, code, message, retry_after_s)


def _is_on_this_chain(q: OrderQuestion) -> Refusal | None:
    if q.facts.chain_id == q.listing.chain_id:
        return None
    return _no("order_wrong_chain", f"order: expected one on chain {q.listing.chain_id}, found chain {q.facts.chain_id}")


def _is_found(q: OrderQuestion) -> Refusal | None:
    if q.facts.found:
        return None
    return _no(
        "order_not_found", f"order {q.facts.transaction}: expected a mined transaction, the chain knows none", retry_after_s=2
    )


def _was_done(q: OrderQuestion) -> Refusal | None:
    if q.facts.status == 1:
        return None
    return _no("order_reverted", f"order {q.facts.transaction}: expected status 1, found {q.facts.status}: it was reverted")


def _was_emitted_by_the_datatoken(q: OrderQuestion) -> Refusal | None:
    if q.facts.emitter == q.listing.datatoken:
        return None
    found = q.facts.emitter or "no such event from it"
    return _no(
        "order_foreign", f"order: expected OrderStarted from the datatoken {q.listing.datatoken} of {q.listing.did}, found {found}"
    )


def _datatoken_belongs_to_the_nft(q: OrderQuestion) -> Refusal | None:
    if q.facts.nft == q.listing.nft:
        return None
    return _no("order_wrong_nft", f"order: expected a datatoken of the data NFT {q.listing.nft}, found one of {q.facts.nft}")


def _nft_is_from_the_factory(q: OrderQuestion) -> Refusal | None:
    if q.facts.is_from_factory:
        return None
    return _no("order_not_ocean", f"order: expected a datatoken made by Ocean's factory, found {q.facts.emitter}, which is not")


def _is_alone(q: OrderQuestion) -> Refusal | None:
    if q.facts.orders == 1:
        return None
    return _no("order_not_alone", f"order: expected a transaction with one order, found {q.facts.orders} in {q.facts.transaction}")


def _is_for_the_service(q: OrderQuestion) -> Refusal | None:
    if q.facts.service_index == q.listing.service_index:
        return None
    return _no("order_wrong_service", f"order: expected service {q.listing.service_index}, found {q.facts.service_index}")


def _paid_a_datatoken(q: OrderQuestion) -> Refusal | None:
    if q.facts.amount >= ONE_DATATOKEN:
        return None
    return _no("order_unpaid", f"order: expected at least {ONE_DATATOKEN} wei (one datatoken), found {q.facts.amount}")


def _is_the_consumers(q: OrderQuestion) -> Refusal | None:
    if q.facts.consumer == q.consumer:
        return None
    return _no("order_not_yours", f"order: expected the consumer {q.consumer} who signed in, found {q.facts.consumer}")


def _carries_the_operators_fee(q: OrderQuestion) -> Refusal | None:
    fee = q.facts.provider_fee
    if fee is not None and fee.provider == q.operator:
        return None
    found = fee.provider if fee else "none"
    return _no("order_without_provider_fee", f"order: expected a provider fee signed by {q.operator}, found {found}")


def _pays_for_calls(q: OrderQuestion) -> Refusal | None:
    fee = q.facts.provider_fee
    if fee is not None and pays_for_calls(fee):
        return None
    return _no(
        "order_not_for_calls",
        f"order: expected a provider fee that was signed as the price of calls of {q.listing.did}, found one for something else",
    )


def _has_not_expired(q: OrderQuestion) -> Refusal | None:
    ended = order_ends_at(q.facts, q.listing)
    if q.now < ended:
        return None
    return _no(
        "order_expired", f"order: expected one that is still good, found one that ended at {ended}, {int(q.now - ended)} s ago"
    )


def _is_final_enough(q: OrderQuestion) -> Refusal | None:
    if q.facts.confirmations >= q.confirmations:
        return None
    message = f"order: it has {q.facts.confirmations} of {q.confirmations} confirmations; try again when more blocks have followed"
    return _no("order_not_final", message, retry_after_s=2)


OrderCheck = Callable[[OrderQuestion], Refusal | None]
ORDER_CHECKS: tuple[OrderCheck, ...] = (
    _is_on_this_chain,
    _is_found,
    _was_done,
    _was_emitted_by_the_datatoken,
    _datatoken_belongs_to_the_nft,
    _nft_is_from_the_factory,
    _is_alone,
    _is_for_the_service,
    _paid_a_datatoken,
    _is_the_consumers,
    _carries_the_operators_fee,
    _has_not_expired,
    _is_final_enough,
)
"""In this order, so that the first refusal is the one that says most."""


CALLS_CHECKS: tuple[OrderCheck, ...] = (*ORDER_CHECKS, _pays_for_calls)
"""What an order must pass to open a model's calls. The fee's datatoken and service do not say that: whoever owns a model's NFT
says in its document what its services are, and may have asked for a fee before the model was on sale."""


OWNER_CHECKS: tuple[OrderCheck, ...] = tuple(check for check in ORDER_CHECKS if check is not _has_not_expired)
"""What an order must pass to show whose it is, also when there is nothing more to start with it."""


REORDER_CHECKS: tuple[OrderCheck, ...] = tuple(check for check in ORDER_CHECKS if check is not _carries_the_operators_fee)
"""What an order must pass to be ordered again with a new fee, whatever the old one was for."""


def may_order_be_used(question: OrderQuestion, checks: tuple[OrderCheck, ...] = ORDER_CHECKS) -> Decision:
    """The first refusal of `checks`, or allowed."""
    return next((Decision(refusal) for check in checks if (refusal := check(question)) is not None), Decision())


@dataclass(frozen=True)
class CallQuestion:
    """May the holder of `session` (None: the token is unknown) call `did`, listed as `listing`, now?"""

    session: Session | None
    did: Did
    listing: Listing
    now: float


def _revoked(session: Session) -> Refusal:
    return _no("session_revoked", f"this session was revoked: {session.revoked_why or 'by its owner'}", 401)


def _expired(session: Session) -> Refusal:
    return _no("session_expired", f"this session ended at {int(session.expires_at)}: sign in again", 401)


def _has_a_session(q: CallQuestion) -> Refusal | None:
    if q.session is not None:
        return None
    return _no(
        "session_unknown", "Authorization: expected `Bearer` and a token from POST /v1/auth/token, found one unknown here", 401
    )


def _session_is_not_revoked(q: CallQuestion) -> Refusal | None:
    if q.session is None or q.session.revoked_at is None:
        return None
    return _revoked(q.session)


def _session_has_not_expired(q: CallQuestion) -> Refusal | None:
    if q.session is None or q.now < q.session.expires_at:
        return None
    return _expired(q.session)


def _session_is_for_this_did(q: CallQuestion) -> Refusal | None:
    if q.session is None or q.session.did == q.did:
        return None
    return _no("token_of_another_did", f"model: expected {q.session.did}, which this token is for, found {q.did}")


def _is_for_calls(q: CallQuestion) -> Refusal | None:
    if q.session is None or not q.session.is_for_jobs:
        return None
    return _no("order_for_jobs", f"{q.did}: the order of this token pays for jobs, and for no calls")


def _has_calls_left(q: CallQuestion) -> Refusal | None:
    if q.session is None or q.session.is_for_jobs or q.session.calls_used < q.session.calls_limit:
        return None
    return _no("quota_exhausted", f"{q.did}: the {q.session.calls_limit} calls of this order are used up")


def _model_is_on_sale(q: CallQuestion) -> Refusal | None:
    return on_sale_only(q.listing).refusal


def on_sale_only(listing: Listing) -> Decision:
    """Refuses what was withdrawn: it is neither served nor offered."""
    if listing.state == "on_sale":
        return _ALLOWED
    reason = listing.reason or "no reason given"
    return Decision(_no("model_withdrawn", f"{listing.did} is withdrawn: {reason}", 503, retry_after_s=60))


CallCheck = Callable[[CallQuestion], Refusal | None]
CALL_CHECKS: tuple[CallCheck, ...] = (
    _has_a_session,
    _session_is_not_revoked,
    _session_has_not_expired,
    _session_is_for_this_did,
    _is_for_calls,
    _has_calls_left,
    _model_is_on_sale,
)


def may_call(question: CallQuestion, checks: tuple[CallCheck, ...] = CALL_CHECKS) -> Decision:
    """The first refusal of `checks`, or allowed. The quota may be a moment old here; what charges the call counts exactly."""
    for check in checks:
        refusal = check(question)
        if refusal is not None:
            return Decision(refusal)
    return _ALLOWED


def session_only(session: Session, now: float) -> Decision:
    """May the holder of `session` see what is its own, at `now`? Asks nothing of the model or the quota."""
    if session.revoked_at is not None:
        return Decision(_revoked(session))
    return Decision(_expired(session)) if now >= session.expires_at else _ALLOWED


_ALLOWED = Decision()
