"""Ocean's events and views about anybody's assets, read from a node.

In: blocks, transactions, addresses. Out: the facts of `published.py`. This module must never open a document, and never take an
emitter for one of Ocean's contracts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from control_plane.chain.assets import NFT_ID, STRANGERS_GAS, is_from_factory, read
from control_plane.chain.contracts import events, topic
from control_plane.chain.ledger import Network
from control_plane.chain.orders import signed_fees
from control_plane.chain.published import DatatokenFacts, DocumentWritten, Happened, NftFacts, Ordered, Reuse
from control_plane.chain.rpc import AnswerTooLarge, Log, NodeFault, Rpc
from control_plane.did import Address, Bytes32, TransactionHash, UnixSeconds
from control_plane.errors import NotFound

_NFT, _DATATOKEN = "ERC721Template", "ERC20Template"
_WRITTEN = ("MetadataCreated", "MetadataUpdated")
_MOST_TEXT = 512
"""Letters of a name or symbol that are kept: whoever makes a contract chooses them."""
_MOST_URI = 1 << 14
"""Letters of an NFT's `tokenURI`; Ocean's own clients write a picture of 2,000."""
_MOST_RATES = 8
"""Exchanges of a datatoken that are asked for a price: its minters may add, and switch off, any number."""


def happened(rpc: Rpc, first: int, last: int) -> Happened:
    """Kind by kind where the events of one block are too many for an answer. A kind that still is, is named and left out: nobody
    can ask for less, and whoever fills a block would stop the index for ever."""
    kinds = {name: topic(_NFT, name) for name in (*_WRITTEN, "MetadataState")} | {"OrderStarted": topic(_DATATOKEN, "OrderStarted")}
    try:
        return _told(rpc.logs(None, [list(kinds.values())], first, last))
    except AnswerTooLarge:
        if first != last:
            raise
    parts: list[Happened] = []
    untold: list[str] = []
    for name, kind in kinds.items():  # an NFT's first document is `MetadataCreated`, so that an NFT's stay in order
        try:
            parts.append(_told(rpc.logs(None, [[kind]], first, last)))
        except AnswerTooLarge:
            untold.append(name)
    return Happened(
        documents=tuple(each for part in parts for each in part.documents),
        touched=tuple(each for part in parts for each in part.touched),
        ordered=tuple(each for part in parts for each in part.ordered),
        untold=tuple(untold),
    )


def _told(logs: Iterable[Log]) -> Happened:
    return Happened(
        documents=_written(logs),
        touched=tuple(log.address for log, _ in events(_NFT, "MetadataState", logs)),
        ordered=tuple(Ordered(log.address, log.block) for log, _ in events(_DATATOKEN, "OrderStarted", logs)),
    )


def documents_of(rpc: Rpc, transaction: TransactionHash) -> tuple[DocumentWritten, ...]:
    mined = rpc.receipt(transaction)
    return _written(mined.logs) if mined is not None and mined.status == 1 else ()


def _written(logs: Iterable[Log]) -> tuple[DocumentWritten, ...]:
    found = [(log, values) for log in logs for name in _WRITTEN for log, values in events(_NFT, name, [log])]
    return tuple(
        DocumentWritten(
            nft=log.address,
            flags=values["flags"][0] if values["flags"] else 0,
            data=bytes(values["data"]),
            clear_hash=bytes(values["metaDataHash"]),
            decryptor_url=str(values["decryptorUrl"]),
            by=Address(values["createdBy"] if "createdBy" in values else values["updatedBy"]),
            block=log.block,
            transaction=log.transaction,
            written_at=UnixSeconds(int(values["timestamp"])),
        )
        for log, values in found
    )


def nft_facts(rpc: Rpc, network: Network, nft: Address, named: Iterable[Address]) -> NftFacts:
    is_ours = is_from_factory(rpc, network, nft, None)
    if not is_ours:
        raise NotFound(f"{nft}: expected a data NFT of Ocean's factory, found none")
    _, _, state, _ = read(rpc, _NFT, nft, "getMetaData")
    made = [each for each in dict.fromkeys(named) if read(rpc, _NFT, nft, "isDeployed", each)[0]]
    return NftFacts(
        nft=nft,
        name=_text(rpc, _NFT, nft, "name"),
        symbol=_text(rpc, _NFT, nft, "symbol"),
        token_uri=_uri(rpc, nft),
        owner=Address(read(rpc, _NFT, nft, "ownerOf", NFT_ID)[0]),
        state=int(state),
        is_from_factory=is_ours,
        datatokens=tuple(_datatoken(rpc, network, each) for each in made),
    )


def datatoken_facts(rpc: Rpc, network: Network, nft: Address, datatoken: Address) -> DatatokenFacts | None:
    return _datatoken(rpc, network, datatoken) if is_from_factory(rpc, network, nft, datatoken) else None


def _datatoken(rpc: Rpc, network: Network, datatoken: Address) -> DatatokenFacts:
    price, base_token, exchange = _price(rpc, network, datatoken)
    return DatatokenFacts(
        address=datatoken,
        name=_text(rpc, _DATATOKEN, datatoken, "name"),
        symbol=_text(rpc, _DATATOKEN, datatoken, "symbol"),
        price=price,
        base_token=base_token,
        base_symbol=_symbol(rpc, base_token) if base_token else "",
        exchange=exchange,
    )


def _price(rpc: Rpc, network: Network, datatoken: Address) -> tuple[int | None, Address | None, Bytes32 | None]:
    """The rate of its first active exchange and that one's id, else 0 where it has a dispenser; only Ocean's own count."""
    made = read(rpc, _DATATOKEN, datatoken, "getFixedRates")[0]
    for identity in [each for exchange, each in made if exchange.lower() == network.fixed_rate.lower()][:_MOST_RATES]:
        _, _, _, base_token, _, rate, is_active, *_ = read(rpc, "FixedRateExchange", network.fixed_rate, "getExchange", identity)
        if is_active:
            return int(rate), Address(base_token), Bytes32("0x" + bytes(identity).hex())
    dispensers = [each.lower() for each in read(rpc, _DATATOKEN, datatoken, "getDispensers")[0]]
    return (0 if network.dispenser.lower() in dispensers else None), None, None


def _text(rpc: Rpc, contract: str, address: Address, function: str, gas: int | None = None) -> str:
    try:
        return str(read(rpc, contract, address, function, gas=gas)[0])[:_MOST_TEXT]
    except NotFound:  # a base token that has no symbol, or one of another kind
        return ""


def _uri(rpc: Rpc, nft: Address) -> str:
    """Blank where it is too long to be kept, or no text: half of one says nothing."""
    try:
        uri = str(read(rpc, _NFT, nft, "tokenURI", NFT_ID)[0])
    except NotFound:
        return ""
    return uri if len(uri) <= _MOST_URI else ""


def _symbol(rpc: Rpc, base_token: Address) -> str:
    """Blank where there is none. Whoever sells chooses the base token, so that it can be any contract.

    An error that nobody has heard of is no reason to know nothing of the asset: it may be this contract's doing."""
    try:
        return _text(rpc, _DATATOKEN, base_token, "symbol", STRANGERS_GAS)
    except NodeFault:
        return ""


def reuse_of(rpc: Rpc, transaction: TransactionHash, datatoken: Address) -> Reuse | None:
    mined = rpc.receipt(transaction)
    if mined is None or mined.status != 1:
        return None
    return _reuse(rpc.head().number, datatoken, mined.logs)


def reuses(rpc: Rpc, original: TransactionHash, datatoken: Address, first: int) -> tuple[Reuse, ...]:
    head = rpc.head().number
    by_transaction: dict[TransactionHash, list[Log]] = {}
    for log in rpc.logs(datatoken, [[topic(_DATATOKEN, name) for name in ("OrderReused", "ProviderFee")]], first, head):
        by_transaction.setdefault(log.transaction, []).append(log)
    found = (_reuse(head, datatoken, logs) for logs in by_transaction.values())
    return tuple(each for each in found if each is not None and each.original == original)


def _reuse(head: int, datatoken: Address, logs: Sequence[Log]) -> Reuse | None:
    """The first one in the events of a transaction: one transaction, one payment."""
    for log, values in events(_DATATOKEN, "OrderReused", logs, datatoken):
        original = TransactionHash("0x" + bytes(values["orderTxId"]).hex())
        return Reuse(original, max(head - log.block + 1, 0), signed_fees(logs, datatoken))
    return None
