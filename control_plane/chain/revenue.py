"""Who earned what with assets, from the chain's events alone.

In: datatokens, a node. Out: every payment, with its kind and receiver. This module must never count an event that another contract
than the datatoken, or Ocean's exchange, has emitted.

Source: ocean-contracts 2.0.3. An order's datatoken goes to its collector and, 3 % of it, to Ocean's community; the exchange keeps
swap fees until they are collected, and they are counted here when they arise. Of a provider fee the community takes the share that
its router names (0 until Ocean changes it); the events tell the whole fee, so it is parted by the share of now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from control_plane.chain.assets import read
from control_plane.chain.contracts import events, topic
from control_plane.chain.ledger import Network
from control_plane.chain.rpc import Rpc
from control_plane.did import Address, TokenWei, TransactionHash

_DATATOKEN, _EXCHANGE = "ERC20Template", "FixedRateExchange"
_FEES = ("PublishMarketFee", "ProviderFee", "ConsumeMarketFee")
_COLUMNS = {
    "PublishMarketFee": ("publish", "PublishMarketFeeAddress", "PublishMarketFeeToken", "PublishMarketFeeAmount"),
    "ProviderFee": ("provider", "providerFeeAddress", "providerFeeToken", "providerFeeAmount"),
    "ConsumeMarketFee": ("consume", "consumeMarketFeeAddress", "consumeMarketFeeToken", "consumeMarketFeeAmount"),
}


@dataclass(frozen=True)
class Earned:
    """One payment. kind: `publish`, `provider` and `consume` fees of an order; `order`, the datatokens that it paid with; `sale`,
    the price of datatokens; `swap` fees of the marketplace owner; `community`, of Ocean's community, in a sale or an order."""

    kind: str
    to: Address
    token: Address
    amount: TokenWei
    datatoken: Address
    transaction: TransactionHash


def revenue(rpc: Rpc, network: Network, datatokens: Sequence[Address]) -> tuple[Earned, ...]:
    """Every payment ever made for these, one datatoken behind the other. Raises Unavailable, NotFound for what is no datatoken."""
    last = rpc.head().number
    (community,) = read(rpc, "FactoryRouter", network.router, "getOPCCollector")
    (share,) = read(rpc, "FactoryRouter", network.router, "getOPCProviderFee")
    found: list[Earned] = []
    for each in datatokens:
        for paid in _orders(rpc, network, each, Address(community), last):
            found += _parted(paid, Address(community), share) if paid.kind == "provider" else [paid]
        found += _sales(rpc, network, each, Address(community), last)
    return tuple(each for each in found if each.amount > 0)


def _orders(rpc: Rpc, network: Network, datatoken: Address, community: Address, last: int) -> Iterable[Earned]:
    topics = [[topic(_DATATOKEN, name) for name in (*_FEES, "OrderStarted", "Transfer")]]
    logs = rpc.logs(datatoken, topics, network.start_block, last)
    for name in _FEES:
        kind, to, token, amount = _COLUMNS[name]
        for log, values in events(_DATATOKEN, name, logs, datatoken):
            yield Earned(kind, Address(values[to]), Address(values[token]), TokenWei(values[amount]), datatoken, log.transaction)
    payers = {log.transaction: values["payer"] for log, values in events(_DATATOKEN, "OrderStarted", logs, datatoken)}
    for log, values in events(_DATATOKEN, "Transfer", logs, datatoken):
        if payers.get(log.transaction) != values["from"]:
            continue
        kind = "community" if values["to"] == community else "order"
        yield Earned(kind, Address(values["to"]), datatoken, TokenWei(values["value"]), datatoken, log.transaction)


def _parted(fee: Earned, community: Address, share: int) -> list[Earned]:
    """What the provider and the community get of a provider fee. share: in 10**-18."""
    taken = TokenWei(fee.amount * share // 10**18)
    return [replace(fee, amount=TokenWei(fee.amount - taken)), replace(fee, kind="community", to=community, amount=taken)]


def _sales(rpc: Rpc, network: Network, datatoken: Address, community: Address, last: int) -> Iterable[Earned]:
    (rates,) = read(rpc, _DATATOKEN, datatoken, "getFixedRates")
    for contract, identity in rates:
        if contract.lower() == network.fixed_rate.lower():  # inside a struct it is not checksummed
            yield from _sales_at(rpc, network, datatoken, identity, community, last)


def _sales_at(rpc: Rpc, network: Network, datatoken: Address, identity: bytes, community: Address, last: int) -> Iterable[Earned]:
    owner, _, _, base, *_ = read(rpc, _EXCHANGE, network.fixed_rate, "getExchange", identity)
    _, collector, *_ = read(rpc, _EXCHANGE, network.fixed_rate, "getFeesInfo", identity)
    logs = rpc.logs(network.fixed_rate, [topic(_EXCHANGE, "Swapped"), "0x" + identity.hex()], network.start_block, last)
    for log, values in events(_EXCHANGE, "Swapped", logs, network.fixed_rate):
        market, ocean, consume = (values[f"{name}FeeAmount"] for name in ("market", "ocean", "consumeMarket"))
        is_sold = values["tokenOutAddress"] == datatoken
        price = values["baseTokenSwappedAmount"] - market - ocean - consume if is_sold else 0  # given back for base tokens else
        for kind, to, amount in (("sale", owner, price), ("swap", collector, market), ("community", community, ocean)):
            yield Earned(kind, Address(to), Address(base), TokenWei(amount), datatoken, log.transaction)
