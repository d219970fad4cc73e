"""A buyer's errands: buy and order, sign in, call.

In: a market, a ledger, a wallet, the buyer's files. Out: an order, a session, a kept call. This module must never pay twice for one
purchase: what was begun is looked for first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from control_plane.chain.ledger import FeePaid, Ledger, OrderFacts, Purchase, Sent, Wallet
from control_plane.did import Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import Forbidden, OutcomeUnknown
from control_plane.flows import order as order_flow
from control_plane.flows.offer import Offer
from deploy.buyer import BuyerFiles, KeptCall, KeptSession
from deploy.market import COMPLETIONS, Answered, Market, MarketRefused, text_of

FEES_SPARE = 10**18
"""Base-token wei that all fees of a purchase may cost beyond the price, unless the buyer says what it may cost."""
Result = TypeVar("Result")
_SESSION_IS_OVER = frozenset({"session_unknown", "session_expired", "session_revoked"})


@dataclass(frozen=True)
class Bought:
    """One purchase and its order; fees and times as the order's transaction has them, whatever the newest offer says.

    valid_until: when the order ends.
    """

    offer: Offer
    purchase: Purchase
    sent: Sent
    facts: OrderFacts
    valid_until: UnixSeconds

    @property
    def fees(self) -> tuple[FeePaid, ...]:
        return self.facts.fees

    @property
    def total(self) -> TokenWei:
        """Base-token wei that all this cost."""
        return TokenWei(self.purchase.paid + sum(fee.amount for fee in self.fees if fee.token == self.offer.base_token))


def most_unasked(offer: Offer) -> TokenWei:
    """What a purchase may cost when the buyer did not say: fees may come to the price itself plus one token."""
    return TokenWei(2 * offer.rate + FEES_SPARE)


def buy(
    market: Market,
    ledger: Ledger,
    wallet: Wallet,
    files: BuyerFiles,
    did: Did,
    valid_for_s: int | None = None,
    most: TokenWei | None = None,
) -> Bought:
    """Buy one datatoken of `did` and order with it.

    most: base-token wei that all of it may cost: price, swap fee, publish fee and provider fee. None: the price as the chain has
    it, and fees that together do not exceed the price plus one token (`most_unasked`): a market cannot hide a price in its fees.
    Raises Refused, with nothing paid, above that.

    Again: after an interruption, or an outcome that is not known, goes on with the same purchase; otherwise buys once more.
    """
    offer = market.offer(did, wallet.address, valid_for_s)
    key = files.purchase_key(did)
    limit = most_unasked(offer) if most is None else most
    purchase = order_flow.buy(ledger, wallet, offer, key, limit)
    sent = order_flow.order(ledger, wallet, offer, key, most=limit, paid=purchase.paid)
    facts = ledger.order_facts(sent.transaction, offer.datatoken)
    if facts.provider_fee is None:  # a reorganisation undid it just now: the purchase is not over
        raise OutcomeUnknown(f"order {sent.transaction}: expected its provider fee on chain, found none")
    files.purchased(did, sent.transaction)
    return Bought(offer, purchase, sent, facts, facts.provider_fee.valid_until)


def session_for(
    market: Market,
    wallet: Wallet,
    files: BuyerFiles,
    did: Did,
    chain_id: int,
    order: TransactionHash | None = None,
    place: str | None = None,
) -> KeptSession:
    """The kept session for `did`, or a new one with `order` or the newest order. Raises Forbidden when there is no order.

    place: under which name it is kept; None: the market's URL, where sessions for calls are.
    """
    kept = files.session(place or market.url, did)
    if kept is not None and order in (None, kept.order):
        return kept
    chosen = order or files.latest_order(did)
    if chosen is None:
        raise Forbidden(f"{wallet.address} has no order of {did}: run `posthuman buy {did}` first", code="no_order")
    session = market.sign_in(wallet, did, chosen, chain_id)
    files.keep_session(place or market.url, did, session)
    return session


def with_session(
    market: Market,
    wallet: Wallet,
    files: BuyerFiles,
    did: Did,
    chain_id: int,
    ask: Callable[[str], Result],
    order: TransactionHash | None = None,
    place: str | None = None,
) -> Result:
    """Ask with the token of `session_for`; a session that the market has ended meanwhile is replaced once."""
    session = session_for(market, wallet, files, did, chain_id, order, place)
    try:
        return ask(session.token)
    except MarketRefused as refused:
        if refused.code not in _SESSION_IS_OVER:
            raise
    files.keep_session(place or market.url, did, None)
    return ask(session_for(market, wallet, files, did, chain_id, order or session.order, place).token)


def call(
    market: Market,
    wallet: Wallet,
    files: BuyerFiles,
    did: Did,
    chain_id: int,
    body: Mapping[str, Any],
    on_text: Callable[[str], None] | None = None,
    order: TransactionHash | None = None,
    path: str = COMPLETIONS,
) -> tuple[Answered, Path]:
    """Call `did`; keep the exact bytes and the receipt. on_text: stream, and hand over each piece. path: COMPLETIONS or CHAT.

    Again: another call, charged again.
    """

    def ask(token: str) -> Answered:
        return market.complete(token, body, path) if on_text is None else market.stream(token, body, on_text, path)

    answered = with_session(market, wallet, files, did, chain_id, ask, order)
    kept = files.keep_call(KeptCall(did, path, answered.request, answered.response, answered.receipt, answered.seconds))
    return answered, kept


def answer_of(answered: Answered) -> str:
    """The text out of a whole answer."""
    record = json.loads(answered.response)
    return text_of(record["choices"][0])
