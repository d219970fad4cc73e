"""Sign in: one wallet signature and one order become a session.

In: an EIP-4361 text and its signature. Out: a bearer token. This module must never ask the chain again later: what it finds here is
what the session is bound to.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from control_plane.chain.ledger import OrderFacts
from control_plane.did import Address, Did, TransactionHash, UnixSeconds
from control_plane.errors import BadInput, Forbidden
from control_plane.flows.compute import compute_of
from control_plane.flows.services import Services
from control_plane.jobs.access import Service, consumer_for
from control_plane.serving.access import (
    CALLS_CHECKS,
    NEVER,
    OWNER_CHECKS,
    OrderQuestion,
    may_order_be_used,
    order_ends_at,
)
from control_plane.serving.eip4361 import SignInMessage, parse_message, recover_signer
from control_plane.serving.listing import Listing
from control_plane.serving.sessions import JOBS_ONLY, Session

CLOCK_SKEW_S = 60
"""How far a wallet's clock may run ahead of ours."""


@dataclass(frozen=True)
class SignedIn:
    """The token is shown once; we keep its hash."""

    token: str
    session: Session


def compose_message(
    services: Services, address: Address, did: Did, order: TransactionHash, nonce: str, valid_for_s: int
) -> SignInMessage:
    """The message that this market accepts from `address`, good for `valid_for_s` seconds from now."""
    now = int(services.clock())
    url = services.settings.public_url
    return SignInMessage(
        domain=urlsplit(url).netloc,
        address=address,
        uri=url,
        chain_id=services.settings.chain_id,
        nonce=nonce,
        issued_at=UnixSeconds(now),
        expires_at=UnixSeconds(now + valid_for_s),
        did=did,
        order=order,
    )


def sign_in(services: Services, text: object, signature: object) -> SignedIn:
    """Open a session for who signed, if the order may be used.

    The session ends at the earliest of: what the message says, the order's own end, the market's longest session. An order that
    pays for jobs opens a session for jobs alone, also when it has ended: its owner follows what it has started.
    Raises BadInput (400 not an EIP-4361 text; 401 another site, chain or time), Unauthenticated (signature, nonce), NotFound (no
    such model), Forbidden (the order may not be used, with the reason), Unavailable (no chain node; the nonce stays good).
    Again: refused, for the nonce is used up by the first that succeeds.
    """
    message = parse_message(text)
    _check_message(services, message)
    signer = recover_signer(str(text), signature)
    if signer != message.address:
        raise BadInput(
            "signature", f"one by {message.address}, whom the message names", signer, status=401, code="signature_foreign"
        )
    services.sessions.check_nonce(message.nonce)
    listing = services.catalogue.find(message.did)
    facts = services.ledger.order_facts(message.order, listing.datatoken)
    now = services.clock()
    jobs = _jobs_service(services, listing, facts)
    consumer = signer if jobs is None else consumer_for(facts, signer, services.environments)
    operator, confirmations = services.operator.address, services.network.confirmations
    question = OrderQuestion(facts, jobs or listing, consumer, operator, confirmations, now)
    may_order_be_used(question, CALLS_CHECKS if jobs is None else OWNER_CHECKS).enforce()
    calls_limit = services.settings.session_calls if jobs is None else JOBS_ONLY
    if jobs is None and services.sessions.calls_used_by(message.order) >= calls_limit:
        raise Forbidden(f"order: the {calls_limit} calls of this order are used up", code="quota_exhausted")
    assert facts.block_hash is not None  # noqa: S101  # an order that was found has a block; access.py refused any other
    order_end = order_ends_at(facts, listing) if jobs is None else NEVER
    services.sessions.use_nonce(message.nonce)
    token, session = services.sessions.open(
        wallet=signer,
        did=listing.did,
        order=message.order,
        order_block=facts.block,
        order_block_hash=facts.block_hash,
        expires_at=float(min(now + services.settings.session_ttl_s, order_end, message.expires_at)),
        calls_limit=calls_limit,
    )
    return SignedIn(token, session)


def _jobs_service(services: Services, listing: Listing, facts: OrderFacts) -> Service | None:
    """The model's service for jobs, where that is what was ordered."""
    if not facts.found or facts.service_index in (-1, listing.service_index):
        return None
    found = compute_of(services.provider.assets, listing)
    if found is None or found.index != facts.service_index:
        return None
    return Service(listing.did, listing.chain_id, listing.nft, found.datatoken, found.index, found.timeout_s)


def _check_message(services: Services, message: SignInMessage) -> None:
    """Compare with the settings, never with the request's Host header, which the sender chooses."""
    url, now = services.settings.public_url, services.clock()

    def refuse(field: str, expected: str, found: object, code: str) -> None:
        raise BadInput(f"message.{field}", expected, found, status=401, code=code)

    if message.version != "1":
        refuse("version", "1", message.version, "wrong_version")
    if message.domain != urlsplit(url).netloc:
        refuse("domain", urlsplit(url).netloc, message.domain, "wrong_domain")
    if message.uri.rstrip("/") != url:
        refuse("uri", url, message.uri, "wrong_uri")
    if message.chain_id != services.settings.chain_id:
        refuse("chain_id", str(services.settings.chain_id), message.chain_id, "wrong_chain")
    if message.issued_at > now + CLOCK_SKEW_S:
        refuse("issued_at", f"a time not after {int(now)}", message.issued_at, "message_from_the_future")
    if message.expires_at <= now:
        refuse("expiration_time", f"a time after {int(now)}", message.expires_at, "message_expired")
    if message.not_before is not None and message.not_before > now + CLOCK_SKEW_S:
        refuse("not_before", f"a time not after {int(now)}", message.not_before, "message_from_the_future")
