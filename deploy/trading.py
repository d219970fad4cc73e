"""A buyer's errands: buy and order, sign in, call.

In: a market, a ledger, a wallet, the buyer's files. Out: an order, a session, a kept call. This module must never pay twice for one
purchase: what was begun is looked for first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.chain.ledger import FeePaid, Ledger, OrderFacts, Purchase, Sent, Wallet
from control_plane.did import Did, TransactionHash
from control_plane.errors import Forbidden
from control_plane.flows import order as order_flow
from control_plane.flows.offer import Offer
from deploy.buyer import BuyerFiles, KeptCall, KeptSession
from deploy.market import Answered, Market, MarketRefused

_SESSION_IS_OVER = frozenset({"session_unknown", "session_expired", "session_revoked"})


@dataclass(frozen=True)
class Bought:
    """One purchase and its order; fees as the order's transaction paid them."""

    offer: Offer
    purchase: Purchase
    sent: Sent
    facts: OrderFacts

    @property
    def fees(self) -> tuple[FeePaid, ...]:
        return self.facts.fees


def buy(market: Market, ledger: Ledger, wallet: Wallet, files: BuyerFiles, did: Did, valid_for_s: int | None = None) -> Bought:
    """Buy one datatoken of `did` and order with it.

    Again: after an interruption, or an outcome that is not known, goes on with the same purchase; otherwise buys once more.
    """
    offer = market.offer(did, wallet.address, valid_for_s)
    key = files.purchase_key(did)
    purchase = order_flow.buy(ledger, wallet, offer, key)
    sent = order_flow.order(ledger, wallet, offer, key)
    facts = ledger.order_facts(sent.transaction, offer.datatoken)
    files.purchased(did, sent.transaction)
    return Bought(offer, purchase, sent, facts)


def session_for(
    market: Market, wallet: Wallet, files: BuyerFiles, did: Did, chain_id: int, order: TransactionHash | None = None
) -> KeptSession:
    """The kept session for `did`, or a new one with `order` or the newest order. Raises Forbidden when there is no order."""
    kept = files.session(market.url, did)
    if kept is not None and order in (None, kept.order):
        return kept
    chosen = order or files.latest_order(did)
    if chosen is None:
        raise Forbidden(f"{wallet.address} has no order of {did}: run `posthuman buy {did}` first", code="no_order")
    session = market.sign_in(wallet, did, chosen, chain_id)
    files.keep_session(market.url, did, session)
    return session


def call(
    market: Market,
    wallet: Wallet,
    files: BuyerFiles,
    did: Did,
    chain_id: int,
    body: Mapping[str, Any],
    on_text: Callable[[str], None] | None = None,
    order: TransactionHash | None = None,
) -> tuple[Answered, Path]:
    """Call `did`; keep the exact bytes and the receipt. on_text: stream, and hand over each piece.

    A session that the market has ended meanwhile is replaced once. Again: another call, charged again.
    """
    ask = market.complete if on_text is None else lambda token, sent: market.stream(token, sent, on_text)
    session = session_for(market, wallet, files, did, chain_id, order)
    try:
        answered = ask(session.token, body)
    except MarketRefused as refused:
        if refused.code not in _SESSION_IS_OVER:
            raise
        files.keep_session(market.url, did, None)
        answered = ask(session_for(market, wallet, files, did, chain_id, order or session.order).token, body)
    path = files.keep_call(
        KeptCall(did, "/v1/completions", answered.request, answered.response, answered.receipt, answered.seconds)
    )
    return answered, path


def text_of(answered: Answered) -> str:
    """The completion's text out of a whole answer."""
    record = json.loads(answered.response)
    return str(record["choices"][0]["text"])
