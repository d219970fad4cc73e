"""Buy a datatoken and order with it: the buyer's side.

In: an offer, a wallet, a key. Out: a purchase, an order. This module must never trust the offer: it comes from a server, so what it
says is compared with the chain before anything is paid.
"""

from __future__ import annotations

from control_plane.chain.fees import is_named, is_signed, service_id
from control_plane.chain.ledger import CALLABLE_STATES, Ledger, LedgerReader, Purchase, Sent, Wallet
from control_plane.did import Address, TokenWei
from control_plane.errors import BadInput, Refused
from control_plane.flows.offer import Offer

COMMUNITY_FEE_MOST = 2 * 10**15
"""The most that Ocean's community takes of a purchase, in 10**-18: 0.1 % for approved base tokens, 0.2 % for others."""
_ONE = 10**18


def most_for_one(offer: Offer) -> TokenWei:
    """The most that one datatoken may cost at this offer: rate, the marketplace owner's share and Ocean's."""
    if offer.exchange is None:
        return TokenWei(0)
    return TokenWei(offer.rate + -(-offer.rate * (offer.swap_fee + COMMUNITY_FEE_MOST) // _ONE))


def cost_of(offer: Offer, paid: TokenWei | None = None) -> TokenWei:
    """The most that a whole purchase may cost, in base-token wei: price, swap fee, publish fee and provider fee.

    paid: what the datatoken has cost already; None: it is not bought yet.
    """
    return TokenWei((most_for_one(offer) if paid is None else paid) + offer.publish_fee + offer.provider_fee.amount)


def _check_cost(offer: Offer, most: TokenWei | None, paid: TokenWei | None = None) -> None:
    cost = cost_of(offer, paid)
    if most is not None and cost > most:
        raise Refused(
            f"offer for {offer.did}: all in all it may cost {cost} wei, at most {most} are to be paid "
            f"(price {most_for_one(offer) if paid is None else paid}, publish fee {offer.publish_fee}, "
            f"provider fee {offer.provider_fee.amount})",
            code="too_expensive",
        )


def check_offer(ledger: LedgerReader, offer: Offer, is_dataset: bool = False) -> None:
    """Compare an offer with the chain: the asset, its datatoken, price and fees, and the provider's signature.

    is_dataset: the buyer wants a dataset, which has no model digest, may have several datatokens, and services with ids of its
    publisher's choice: which is which, the market says.

    Everything is paid in one token, OCEAN: an offer cannot reach for another one that the buyer holds.

    Raises BadInput for another chain or a DID that is not the NFT's; Refused, with what the chain says, for any other difference.
    """
    if offer.chain_id != ledger.network.chain_id:
        raise BadInput("offer.chain_id", f"{ledger.network.chain_id}, the chain of this wallet", offer.chain_id)
    facts = ledger.find_asset(offer.did, offer.nft)
    sale = ledger.sale(offer.datatoken, offer.exchange)
    fee = offer.provider_fee
    is_its = ledger.has_made(offer.nft, offer.datatoken) if is_dataset else offer.datatoken == facts.datatoken
    for is_so, what in (
        (facts.is_from_factory, f"{offer.nft} is not a data NFT of Ocean's factory"),
        (is_its, f"the asset's datatoken is {facts.datatoken}, the offer names {offer.datatoken}"),
        (facts.state in CALLABLE_STATES, f"the asset's state is {facts.state}: it is not for use"),
        (is_dataset or facts.model_digest is not None, "no model digest is recorded on chain"),
        (sale.is_active, "its exchange or dispenser is switched off"),
        (sale.rate == offer.rate, f"the rate on chain is {sale.rate} wei, the offer says {offer.rate}"),
        (offer.exchange is None or sale.exchange_datatoken == offer.datatoken, "the exchange sells another datatoken"),
        (offer.exchange is None or sale.base_token == offer.base_token, f"the exchange takes {sale.base_token}"),
        (
            offer.base_token == ledger.network.ocean,
            f"it is to be paid in {offer.base_token}, expected OCEAN {ledger.network.ocean}",
        ),
        (fee.token == offer.base_token, f"the provider fee is to be paid in {fee.token}, expected {offer.base_token}"),
        (sale.publish_fee == offer.publish_fee, f"each order pays {sale.publish_fee} wei, the offer says {offer.publish_fee}"),
        (sale.publish_fee == 0 or sale.publish_fee_token == offer.base_token, f"each order pays in {sale.publish_fee_token}"),
        (is_signed(fee), f"the provider fee is not signed by {fee.provider}"),
        (is_dataset or offer.service_id == service_id(offer.service_index), f"its service {offer.service_index} has another id"),
        (is_named(fee, offer.datatoken, offer.service_id), "the provider fee was signed for another datatoken or service"),
    ):
        if not is_so:
            raise Refused(f"offer for {offer.did}: {what}", code="offer_differs")


def buy(ledger: Ledger, wallet: Wallet, offer: Offer, key: str, most: TokenWei | None = None, is_dataset: bool = False) -> Purchase:
    """Buy one datatoken at no more than the offer's rate and fees, or take a free one.

    most: base-token wei that the whole purchase may cost, its order's fees inside (`cost_of`); None: whatever the offer and the
    chain agree on. is_dataset: see `check_offer`. Raises Refused, with nothing paid, when it may cost more.
    key: names this purchase; a fresh one buys again. Again: returns the purchase made the first time, also with a newer offer.
    """
    name = f"buy/{wallet.address}/{key}"
    if not ledger.is_begun(name):  # what was sent is only looked for; the price may have changed since
        check_offer(ledger, offer, is_dataset)
        _check_cost(offer, most)
    return ledger.buy_datatoken(wallet, name, offer.datatoken, offer.exchange, most_for_one(offer))


def order(
    ledger: Ledger,
    wallet: Wallet,
    offer: Offer,
    key: str,
    consumer: Address | None = None,
    most: TokenWei | None = None,
    paid: TokenWei | None = None,
    is_dataset: bool = False,
) -> Sent:
    """Order with one datatoken of the wallet; pays the publish-market fee and the provider fee.

    most: base-token wei that the whole purchase may cost, `paid` inside: what the datatoken did cost; None: what one costs now.
    Raises Refused, with no fee paid, when it may cost more.
    consumer: who may call; the wallet itself unless another is named. key: names this order; a fresh one orders again.
    Again: returns the order made the first time, also with a newer offer.
    """
    name = f"order/{wallet.address}/{key}"
    if not ledger.is_begun(name):
        check_offer(ledger, offer, is_dataset)
        _check_cost(offer, most, paid)
    return ledger.start_order(
        wallet,
        name,
        offer.datatoken,
        consumer or wallet.address,
        offer.service_index,
        offer.provider_fee,
        TokenWei(offer.publish_fee + offer.provider_fee.amount),
    )
