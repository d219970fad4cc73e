"""Orders on Ocean's datatokens: bought, started, and read back.

In: a datatoken and a buyer, or a transaction's hash. Out: actions, and every fact that decides whether an order counts. This module
must never decide that (access.py does), and must never believe an event before it has looked at who emitted it.
"""

from __future__ import annotations

from collections.abc import Sequence

from control_plane.chain.assets import ONE_DATATOKEN, STRANGERS_GAS, is_from_factory, read
from control_plane.chain.contracts import Values, call_data, events
from control_plane.chain.fees import is_signed, names
from control_plane.chain.ledger import FeePaid, Network, OrderFacts, ProviderFee
from control_plane.chain.rpc import Log, Mined, Rpc
from control_plane.chain.transaction import Action
from control_plane.did import ZERO_ADDRESS, Address, Bytes32, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import NotFound, Refused

_DATATOKEN = "ERC20Template"
_WORD = 32
ORDER_IDENTITY = 4 + 2 * _WORD
"""Bytes of `startOrder`'s data that name the order: selector, consumer, service index. The fee and its time come after."""
BUY_IDENTITY = 4 + 2 * _WORD
"""Bytes of `buyDT`'s data that name the purchase: selector, exchange, datatoken amount. The most it may cost comes after."""


def approve_action(token: Address, spender: Address, amount: int) -> Action:
    return Action(token, call_data(_DATATOKEN, "approve", [spender, amount]))


def allowance(rpc: Rpc, token: Address, owner: Address, spender: Address) -> int:
    return int(read(rpc, _DATATOKEN, token, "allowance", owner, spender)[0])


def buy_action(network: Network, exchange: Bytes32, most: int) -> Action:
    arguments = [bytes.fromhex(exchange[2:]), ONE_DATATOKEN, most, ZERO_ADDRESS, 0]
    return Action(network.fixed_rate, call_data("FixedRateExchange", "buyDT", arguments))


def dispense_action(network: Network, datatoken: Address, buyer: Address) -> Action:
    return Action(network.dispenser, call_data("Dispenser", "dispense", [datatoken, ONE_DATATOKEN, buyer]))


def paid(network: Network, mined: Mined, exchange: Bytes32) -> TokenWei:
    """Base-token wei that a purchase cost. Raises Refused when the transaction bought nothing there."""
    for _, values in events("FixedRateExchange", "Swapped", mined.logs, network.fixed_rate):
        if values["exchangeId"].hex() == exchange[2:]:
            return TokenWei(values["baseTokenSwappedAmount"])
    raise Refused(f"{mined.transaction}: expected a purchase at {exchange}, found none")


def fee_argument(fee: ProviderFee) -> tuple[object, ...]:
    """A signed provider fee as the contracts take it."""
    r, s = bytes.fromhex(fee.r[2:]), bytes.fromhex(fee.s[2:])
    return (fee.provider, fee.token, fee.amount, fee.v, r, s, fee.valid_until, fee.data)


def order_action(datatoken: Address, consumer: Address, service_index: int, fee: ProviderFee) -> Action:
    no_consume_fee = (ZERO_ADDRESS, ZERO_ADDRESS, 0)
    return Action(datatoken, call_data(_DATATOKEN, "startOrder", [consumer, service_index, fee_argument(fee), no_consume_fee]))


def order_facts(rpc: Rpc, network: Network, transaction: TransactionHash, datatoken: Address | None) -> OrderFacts:
    """A transaction with several orders of one datatoken counts as its first one: one transaction, one order."""
    mined = rpc.receipt(transaction)
    if mined is None:
        return OrderFacts(transaction, network.chain_id, found=False)
    head = rpc.head().number
    seen = OrderFacts(
        transaction,
        network.chain_id,
        found=True,
        status=mined.status,
        block=mined.block,
        block_hash=mined.block_hash,
        confirmations=max(head - mined.block + 1, 0),
    )
    if mined.status != 1:
        return seen
    for log, values in events(_DATATOKEN, "OrderStarted", mined.logs, datatoken):
        nft, is_ours = _origin(rpc, network, log.address)
        if datatoken is None and not is_ours:
            continue  # any contract can emit such an event
        return _facts(seen, mined, log, values, nft, is_ours, rpc.block(mined.block).timestamp)
    return seen


def _facts(
    seen: OrderFacts, mined: Mined, log: Log, values: Values, nft: Address | None, is_ours: bool, at: UnixSeconds
) -> OrderFacts:
    emitter, service_index = log.address, int(values["serviceIndex"])
    offered = [_provider_fee(each) for _, each in events(_DATATOKEN, "ProviderFee", mined.logs, emitter)]
    signed = signed_fees(mined.logs, emitter)
    genuine = [fee for fee in signed if names(fee, emitter, service_index)]
    return OrderFacts(
        transaction=seen.transaction,
        chain_id=seen.chain_id,
        found=True,
        status=seen.status,
        emitter=emitter,
        nft=nft,
        is_from_factory=is_ours,
        consumer=Address(values["consumer"]),
        payer=Address(values["payer"]),
        amount=TokenWei(values["amount"]),
        service_index=service_index,
        block=seen.block,
        block_hash=seen.block_hash,
        ordered_at=at,
        confirmations=seen.confirmations,
        fees=_market_fees(mined, emitter)
        + tuple(FeePaid("provider", fee.provider, fee.token, fee.amount, fee.valid_until) for fee in offered),
        orders=len(events(_DATATOKEN, "OrderStarted", mined.logs)),
        provider_fee=genuine[0] if genuine else None,
        signed_fees=signed,
    )


def signed_fees(logs: Sequence[Log], emitter: Address) -> tuple[ProviderFee, ...]:
    """The fees that a datatoken took, those whose signature is by the provider they name."""
    offered = (_provider_fee(each) for _, each in events(_DATATOKEN, "ProviderFee", logs, emitter))
    return tuple(fee for fee in offered if is_signed(fee))


def _origin(rpc: Rpc, network: Network, emitter: Address) -> tuple[Address | None, bool]:
    """The NFT that an emitter names, and whether Ocean's factory and that NFT confirm it."""
    try:
        nft = Address(read(rpc, _DATATOKEN, emitter, "getERC721Address", gas=STRANGERS_GAS)[0])
        return nft, is_from_factory(rpc, network, nft, emitter)
    except NotFound:
        return None, False


def _provider_fee(values: Values) -> ProviderFee:
    return ProviderFee(
        provider=Address(values["providerFeeAddress"]),
        token=Address(values["providerFeeToken"]),
        amount=TokenWei(values["providerFeeAmount"]),
        valid_until=UnixSeconds(values["validUntil"]),
        data=bytes(values["providerData"]),
        v=int(values["v"]),
        r=Bytes32("0x" + values["r"].hex()),
        s=Bytes32("0x" + values["s"].hex()),
    )


def _market_fees(mined: Mined, emitter: Address) -> tuple[FeePaid, ...]:
    publish = tuple(
        FeePaid(
            "publish",
            Address(each["PublishMarketFeeAddress"]),
            Address(each["PublishMarketFeeToken"]),
            TokenWei(each["PublishMarketFeeAmount"]),
        )
        for _, each in events(_DATATOKEN, "PublishMarketFee", mined.logs, emitter)
    )
    consume = tuple(
        FeePaid(
            "consume",
            Address(each["consumeMarketFeeAddress"]),
            Address(each["consumeMarketFeeToken"]),
            TokenWei(each["consumeMarketFeeAmount"]),
        )
        for _, each in events(_DATATOKEN, "ConsumeMarketFee", mined.logs, emitter)
    )
    return publish + consume
