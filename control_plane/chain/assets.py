"""Assets on Ocean's contracts: made by one transaction, and read back.

In: an asset's name and terms, or an NFT's address. Out: actions, and facts. This module must never sign or send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from control_plane.chain.contracts import call_data, events, results, topic
from control_plane.chain.ledger import (
    MODEL_LABEL,
    OPERATOR_LABEL,
    PARENT_LABEL,
    AssetFacts,
    Network,
    Sale,
    Terms,
    data_key,
)
from control_plane.chain.lineage import Custody, Parent, custody_key
from control_plane.chain.rpc import Mined, Rpc
from control_plane.chain.transaction import Action
from control_plane.did import ZERO_ADDRESS, Address, Bytes32, TokenWei, did_of, parse_address
from control_plane.errors import NotFound, Refused

ONE_DATATOKEN = 10**18
MAX_UINT256 = 2**256 - 1
TEMPLATE = 1
"""Ocean's first ERC721 and ERC20 templates, which every chain has."""
NFT_ID = 1
"""Each data NFT is a contract of its own that holds one token, number 1."""
DDO_FLAGS = b"\x03"
"""Ocean's bits for a document: 1 compressed with LZMA, 2 encrypted (after compressing)."""
ACTIVE = 0
STRANGERS_GAS = 1_000_000
"""A token's `symbol` behind a proxy takes 40,000. With a million a contract answers within milliseconds, and 700 KB at most."""


def create_action(rpc: Rpc, network: Network, owner: Address, name: str, symbol: str, terms: Terms) -> Action:
    """One transaction that makes NFT, datatoken and exchange (or dispenser), which may mint datatokens as they are bought.

    The owner keeps all roles and collects what buyers pay; publish-market fee and swap fee go to the marketplace owner.
    """
    nft = (name, symbol, TEMPLATE, "", True, owner)
    datatoken: tuple[Any, ...] = (
        TEMPLATE,
        [f"{name} access"[:128], symbol],
        [owner, owner, terms.marketplace_owner, terms.base_token],
        [MAX_UINT256, terms.publish_fee],
        [],
    )
    if terms.rate == 0:
        # at most one datatoken at a time, to holders of less than one: enough to order, nothing to hoard
        dispenser = (network.dispenser, ONE_DATATOKEN, ONE_DATATOKEN, True, ZERO_ADDRESS)
        return Action(network.factory, call_data("ERC721Factory", "createNftWithErc20WithDispenser", [nft, datatoken, dispenser]))
    (decimals,) = read(rpc, "ERC20Template", terms.base_token, "decimals")
    exchange = (
        network.fixed_rate,
        [terms.base_token, owner, terms.marketplace_owner, ZERO_ADDRESS],
        [decimals, 18, terms.rate, terms.swap_fee, 1],
    )
    return Action(network.factory, call_data("ERC721Factory", "createNftWithErc20WithFixedRate", [nft, datatoken, exchange]))


def created(network: Network, mined: Mined, is_free: bool) -> tuple[Address, Address, Bytes32 | None]:
    """NFT, datatoken and exchange that a transaction of `create_action` made, from the factory's events.

    Raises Refused when the transaction made something else.
    """
    nfts = events("ERC721Factory", "NFTCreated", mined.logs, network.factory)
    datatokens = events("ERC721Factory", "TokenCreated", mined.logs, network.factory)
    if len(nfts) != 1 or len(datatokens) != 1:
        raise Refused(f"{mined.transaction}: expected one NFT and one datatoken, found {len(nfts)} and {len(datatokens)}")
    nft, datatoken = Address(nfts[0][1]["newTokenAddress"]), Address(datatokens[0][1]["newTokenAddress"])
    if is_free:
        return nft, datatoken, None
    exchanges = events("FixedRateExchange", "ExchangeCreated", mined.logs, network.fixed_rate)
    if len(exchanges) != 1 or exchanges[0][1]["datatoken"] != datatoken:
        raise Refused(f"{mined.transaction}: expected one fixed rate for {datatoken}, found {len(exchanges)}")
    return nft, datatoken, Bytes32("0x" + exchanges[0][1]["exchangeId"].hex())


def create_log_action(network: Network, owner: Address, name: str, symbol: str) -> Action:
    """A data NFT alone: a log is anchored on it and never sold."""
    arguments = [name, symbol, TEMPLATE, ZERO_ADDRESS, ZERO_ADDRESS, "", True, owner]
    return Action(network.factory, call_data("ERC721Factory", "deployERC721Contract", arguments))


def created_log(network: Network, mined: Mined) -> Address:
    nfts = events("ERC721Factory", "NFTCreated", mined.logs, network.factory)
    if len(nfts) != 1:
        raise Refused(f"{mined.transaction}: expected one NFT, found {len(nfts)}")
    return Address(nfts[0][1]["newTokenAddress"])


def metadata_action(nft: Address, document: bytes, clear_hash: Bytes32, endpoint: str, decryptor: Address) -> Action:
    arguments = [ACTIVE, endpoint, decryptor, DDO_FLAGS, document, bytes.fromhex(clear_hash[2:]), []]
    return Action(nft, call_data("ERC721Template", "setMetaData", arguments))


def read(rpc: Rpc, contract: str, address: Address, function: str, *arguments: Any, gas: int | None = None) -> tuple[Any, ...]:
    """Call a view function. Raises NotFound when there is no such contract at the address, or it fails at the question.

    gas: the most that it may use; for contracts that nobody has vouched for, `STRANGERS_GAS`."""
    try:
        return results(contract, function, rpc.call(address, call_data(contract, function, arguments), gas=gas))
    except (ValueError, Refused) as error:
        raise NotFound(f"{address}: expected a contract with {contract}.{function}, found none") from error


def is_from_factory(rpc: Rpc, network: Network, nft: Address, datatoken: Address | None) -> bool:
    """Ocean's factory made the NFT, and the NFT made the datatoken. Asks the factory first: nobody else's word counts."""
    (listed,) = read(rpc, "ERC721Factory", network.factory, "erc721List", nft)
    if listed != nft:
        return False
    return datatoken is None or bool(read(rpc, "ERC721Template", nft, "isDeployed", datatoken)[0])


def asset(rpc: Rpc, network: Network, nft: Address) -> AssetFacts:
    """An NFT without datatokens (a log's) has the zero address as its datatoken, and is judged by the factory alone."""
    is_made = is_from_factory(rpc, network, nft, None)

    def told(function: str, *arguments: Any) -> tuple[Any, ...]:
        return read(rpc, "ERC721Template", nft, function, *arguments, gas=None if is_made else STRANGERS_GAS)

    def data(key: Bytes32) -> bytes:
        return bytes(told("getData", bytes.fromhex(key[2:]))[0])

    (owner,) = told("ownerOf", NFT_ID)
    datatokens: Sequence[str] = told("getTokensList")[0]
    datatoken = Address(datatokens[0]) if datatokens else None
    _, _, state, has_metadata = told("getMetaData")
    kept = None if datatoken is None else Custody.from_value(data(custody_key(datatoken)))

    def recorded(label: str) -> bytes:
        return data(data_key(label)) or (b"" if kept is None else kept.part(label))

    digest, log = recorded(MODEL_LABEL), recorded(OPERATOR_LABEL)
    return AssetFacts(
        did=did_of(nft, network.chain_id),
        nft=nft,
        datatoken=datatoken or ZERO_ADDRESS,
        owner=Address(owner),
        is_from_factory=is_made and (datatoken is None or bool(told("isDeployed", datatoken)[0])),
        model_digest=Bytes32("0x" + digest.hex()) if len(digest) == 32 else None,
        log=parse_address("0x" + log.hex()) if len(log) == 20 else None,
        state=int(state),
        has_metadata=bool(has_metadata),
        parent=Parent.from_value(recorded(PARENT_LABEL)),
    )


def sale(rpc: Rpc, network: Network, datatoken: Address, exchange: Bytes32 | None) -> Sale:
    fee_to, fee_token, fee = read(rpc, "ERC20Template", datatoken, "getPublishingMarketFee")
    (collector,) = read(rpc, "ERC20Template", datatoken, "getPaymentCollector")
    rate, price, base_token, sold, owner = 0, 0, None, None, None
    if exchange is None:
        is_active, *_ = read(rpc, "Dispenser", network.dispenser, "status", datatoken)
    else:
        identity = bytes.fromhex(exchange[2:])
        found = read(rpc, "FixedRateExchange", network.fixed_rate, "getExchange", identity)
        owner, sold, _, base_token, _, rate, is_active, *_ = found
        if owner == ZERO_ADDRESS:
            raise NotFound(f"{exchange}: expected a fixed rate at {network.fixed_rate}, found none")
        price, *_ = read(rpc, "FixedRateExchange", network.fixed_rate, "calcBaseInGivenOutDT", identity, ONE_DATATOKEN, 0)
    return Sale(
        rate=TokenWei(rate),
        price=TokenWei(price),
        base_token=Address(base_token) if base_token else None,
        publish_fee=TokenWei(fee),
        publish_fee_token=Address(fee_token),
        publish_fee_to=Address(fee_to),
        exchange_datatoken=Address(sold) if sold else None,
        is_active=bool(is_active),
        exchange_owner=Address(owner) if owner else None,
        collector=Address(collector),
    )


def document(rpc: Rpc, network: Network, nft: Address) -> bytes | None:
    kinds = [topic("ERC721Template", name) for name in ("MetadataCreated", "MetadataUpdated")]
    logs = rpc.logs(nft, [kinds], network.start_block, rpc.head().number)
    written = [
        (log.block, values)
        for name in ("MetadataCreated", "MetadataUpdated")
        for log, values in events("ERC721Template", name, logs, nft)
    ]
    return bytes(max(written, key=lambda each: each[0])[1]["data"]) if written else None
