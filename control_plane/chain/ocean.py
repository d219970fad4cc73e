"""The ledger on Ocean's real contracts.

In: a node, a network, an outbox. Out: `OceanReader`, which anyone can open with an RPC URL alone, and `OceanLedger`, which also
writes. This module must never send past the outbox.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from control_plane.chain import anchors, assets, custody, metadata, orders
from control_plane.chain.ledger import (
    AssetFacts,
    Block,
    Created,
    CreatedLog,
    DataRecord,
    Network,
    OrderFacts,
    ProviderFee,
    Purchase,
    Rights,
    Sale,
    Sent,
    Terms,
    Wallet,
)
from control_plane.chain.networks import network as network_of
from control_plane.chain.outbox import Outbox
from control_plane.chain.published import DatatokenFacts, DocumentWritten, Happened, NftFacts, Reuse
from control_plane.chain.rpc import Mined, Rpc
from control_plane.chain.transaction import Action
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, did_of
from control_plane.errors import BadInput, ChangedByOwner, Conflict, Refused

MAX_APPROVALS = 8


class OceanReader:
    """Implements `LedgerReader`."""

    def __init__(self, rpc: Rpc, network: Network) -> None:
        if rpc.chain_id != network.chain_id:
            raise BadInput("chain_id", f"{network.chain_id}, the network's", rpc.chain_id)
        self._rpc, self._network = rpc, network

    @property
    def network(self) -> Network:
        return self._network

    def head(self) -> Block:
        return self._rpc.head()

    def block(self, number: int) -> Block:
        return self._rpc.block(number)

    def balance(self, token: Address, holder: Address) -> TokenWei:
        return TokenWei(assets.read(self._rpc, "ERC20Template", token, "balanceOf", holder)[0])

    def asset(self, nft: Address) -> AssetFacts:
        return assets.asset(self._rpc, self._network, nft)

    def find_asset(self, did: Did, nft: Address) -> AssetFacts:
        return _checked_did(self, did, nft)

    def sale(self, datatoken: Address, exchange: Bytes32 | None) -> Sale:
        return assets.sale(self._rpc, self._network, datatoken, exchange)

    def rights(self, nft: Address, datatoken: Address, account: Address) -> Rights:
        return custody.rights(self._rpc, nft, datatoken, account)

    def minted(self, datatoken: Address, to: Address, by: Address | None = None) -> tuple[TokenWei, ...]:
        return custody.minted(self._rpc, self._network, datatoken, to, by)

    def document(self, nft: Address) -> bytes | None:
        return assets.document(self._rpc, self._network, nft)

    def order_facts(self, transaction: TransactionHash, datatoken: Address | None = None) -> OrderFacts:
        return orders.order_facts(self._rpc, self._network, transaction, datatoken)

    def data_history(self, nft: Address, key: Bytes32, from_block: int = 0) -> tuple[DataRecord, ...]:
        return anchors.data_history(self._rpc, self._network, nft, key, from_block)

    def happened(self, first: int, last: int) -> Happened:
        return metadata.happened(self._rpc, first, last)

    def documents_of(self, transaction: TransactionHash) -> tuple[DocumentWritten, ...]:
        return metadata.documents_of(self._rpc, transaction)

    def nft_facts(self, nft: Address, named: Iterable[Address]) -> NftFacts:
        return metadata.nft_facts(self._rpc, self._network, nft, named)

    def datatoken_facts(self, nft: Address, datatoken: Address) -> DatatokenFacts | None:
        return metadata.datatoken_facts(self._rpc, self._network, nft, datatoken)

    def has_made(self, nft: Address, datatoken: Address) -> bool:
        return assets.is_from_factory(self._rpc, self._network, nft, datatoken)

    def reuse_of(self, transaction: TransactionHash, datatoken: Address) -> Reuse | None:
        return metadata.reuse_of(self._rpc, transaction, datatoken)

    def reuses(self, original: TransactionHash, datatoken: Address, first: int) -> tuple[Reuse, ...]:
        return metadata.reuses(self._rpc, original, datatoken, first)


class OceanLedger(OceanReader):
    """Implements `Ledger`."""

    def __init__(self, rpc: Rpc, network: Network, outbox: Outbox) -> None:
        super().__init__(rpc, network)
        self._outbox = outbox

    def is_begun(self, key: str) -> bool:
        return self._outbox.is_live(key)

    def create_asset(self, wallet: Wallet, key: str, name: str, symbol: str, terms: Terms) -> Created:
        action = assets.create_action(self._rpc, self._network, wallet.address, name, symbol, terms)
        mined = self._outbox.send(wallet, key, action)
        nft, datatoken, exchange = assets.created(self._network, mined, is_free=terms.rate == 0)
        return Created(_sent(mined), nft, datatoken, exchange)

    def create_asset_for(
        self, wallet: Wallet, key: str, owner: Address, name: str, symbol: str, terms: Terms, amount: TokenWei, record: bytes
    ) -> Created:
        if terms.rate == 0:
            raise BadInput("rate", "token wei above 0 for an asset that is made for somebody else", terms.rate)
        platform = wallet.address
        try:
            made = self._outbox.send(wallet, f"{key}/nft", custody.nft_action(self._network, platform, owner, name, symbol))
        except Refused as error:
            if error.code != "reverted" or not custody.is_refused_by(self._rpc, self._network, platform, owner, name, symbol):
                raise
            raise ChangedByOwner(f"{owner}: an account that takes no data NFT") from error
        nft = assets.created_log(self._network, made)

        def send(step: str, action: Action, datatoken: Address | None) -> Mined:
            try:
                return self._outbox.send(wallet, f"{key}/{step}", action)
            except Refused as error:
                did = custody.taken_by_owner(self._rpc, self._network, step, nft, datatoken, platform, amount)
                if did is None:
                    raise
                raise ChangedByOwner(f"{nft}: its owner {did} before it was finished") from error

        deployed = custody.datatoken_action(nft, platform, owner, name, symbol, terms)
        datatoken = custody.created_datatoken(self._network, send("datatoken", deployed, None))
        priced = custody.price_action(self._rpc, self._network, datatoken, owner, terms)
        exchange = custody.created_price(self._network, send("price", priced, datatoken), datatoken)
        custody.check_minted(send("mint", custody.mint_action(datatoken, owner, amount), datatoken), datatoken, owner, amount)
        if owner != platform:
            try:
                send("minter", custody.add_minter_action(datatoken, owner), datatoken)
            except ChangedByOwner:
                pass  # who owns the NFT can make himself a minter; whether there is more that lacks, the record tells
            except Refused:  # the contract adds nobody twice
                if not self.rights(nft, datatoken, owner).may_mint:
                    raise
        send("record", custody.record_action(datatoken, record), datatoken)
        return Created(_sent(made), nft, datatoken, exchange)

    def give_up(self, wallet: Wallet, key: str, nft: Address, datatoken: Address) -> tuple[Sent, ...]:
        held = self.rights(nft, datatoken, wallet.address)
        sent: dict[str, Sent] = {}
        if held.is_owner:
            return ()
        for right, action in custody.leave_actions(nft, datatoken, wallet.address):
            # the owner may have taken it away already: then the contract would refuse
            if not getattr(held, right) and not self._outbox.is_live(f"{key}/{right}"):
                continue
            try:
                sent[right] = _sent(self._outbox.send(wallet, f"{key}/{right}", action))
            except Refused as error:
                left = self.rights(nft, datatoken, wallet.address)
                if getattr(left, right) and left.may_deploy:
                    raise
                if getattr(left, right):
                    raise ChangedByOwner(f"{nft}: its owner keeps {wallet.address} from leaving: {left}") from error
        left = self.rights(nft, datatoken, wallet.address)
        kept = [right for right, _ in custody.leave_actions(nft, datatoken, wallet.address) if getattr(left, right)]
        if any(right not in sent for right in kept):
            raise Refused(f"{nft}: {wallet.address} is shown rights that it did not have before: {left}", code="rights_left")
        return tuple(sent.values())

    def create_log_nft(self, wallet: Wallet, key: str, name: str, symbol: str) -> CreatedLog:
        mined = self._outbox.send(wallet, key, assets.create_log_action(self._network, wallet.address, name, symbol))
        return CreatedLog(_sent(mined), assets.created_log(self._network, mined))

    def record_data(self, wallet: Wallet, key: str, nft: Address, data_key: Bytes32, value: bytes) -> Sent:
        return _sent(self._outbox.send(wallet, key, anchors.record_action(nft, data_key, value)))

    def record_metadata(
        self, wallet: Wallet, key: str, nft: Address, document: bytes, clear_hash: Bytes32, endpoint: str, decryptor: Address
    ) -> Sent:
        action = assets.metadata_action(nft, document, clear_hash, endpoint, decryptor)
        return _sent(self._outbox.send(wallet, key, action))

    def buy_datatoken(self, wallet: Wallet, key: str, datatoken: Address, exchange: Bytes32 | None, max_paid: TokenWei) -> Purchase:
        """Approves the price of now, not `max_paid`: nothing is left over for the exchange to take later."""
        if exchange is None:
            action = orders.dispense_action(self._network, datatoken, wallet.address)
            return Purchase(_sent(self._outbox.send(wallet, key, action)), TokenWei(0))
        if not self._outbox.is_live(key):
            sale = self.sale(datatoken, exchange)
            if sale.exchange_datatoken != datatoken:
                raise BadInput("exchange", f"one that sells {datatoken}", sale.exchange_datatoken)
            if sale.price > max_paid:
                raise Refused(f"{datatoken}: one costs {sale.price} wei, at most {max_paid} were offered", code="too_expensive")
            if sale.base_token is not None:
                self._allow(wallet, key, self._network.fixed_rate, {sale.base_token: sale.price})
        action = orders.buy_action(self._network, exchange, max_paid)
        mined = self._outbox.send(wallet, key, action, orders.BUY_IDENTITY)
        return Purchase(_sent(mined), orders.paid(self._network, mined, exchange))

    def start_order(
        self,
        wallet: Wallet,
        key: str,
        datatoken: Address,
        consumer: Address,
        service_index: int,
        fee: ProviderFee,
        most: TokenWei | None = None,
    ) -> Sent:
        if not self._outbox.is_live(key):
            _, token, amount = assets.read(self._rpc, "ERC20Template", datatoken, "getPublishingMarketFee")
            if most is not None:
                _check_fees(datatoken, Address(token), int(amount), fee, most)
            sums: dict[Address, int] = {}
            for each, wanted in ((Address(token), int(amount)), (fee.token, int(fee.amount))):
                if not wanted:  # Ocean's own clients name address 0 as the token of a fee of nothing
                    continue
                sums[each] = sums.get(each, 0) + wanted
            self._allow(wallet, key, datatoken, sums)
        action = orders.order_action(datatoken, consumer, service_index, fee)
        return _sent(self._outbox.send(wallet, key, action, orders.ORDER_IDENTITY))

    def _allow(self, wallet: Wallet, key: str, spender: Address, sums: dict[Address, int]) -> None:
        """Let `spender` take these sums. Another order of the same wallet may use an allowance up: then it is given again."""
        for token, amount in sums.items():
            for number in range(MAX_APPROVALS):
                if orders.allowance(self._rpc, token, wallet.address, spender) >= amount:
                    break
                approval = f"{key}/approve/{token}/{amount}/{number}"
                self._outbox.send(wallet, approval, orders.approve_action(token, spender, amount))
            else:
                raise Conflict(f"{key}: {MAX_APPROVALS} approvals of {token} were used up by other orders of this wallet")


def open_reader(rpc_url: str, chain_id: int, confirmations: int | None = None) -> OceanReader:
    """A ledger for who only reads: a verifier, an auditor. Opens no connection before the first question."""
    return OceanReader(Rpc(rpc_url, chain_id), network_of(chain_id, confirmations))


def open_ledger(rpc_url: str, chain_id: int, outbox: Path, confirmations: int | None = None) -> OceanLedger:
    """A ledger for who writes; `outbox` is the folder of sent transactions, shared by every process of this deployment."""
    found = network_of(chain_id, confirmations)
    rpc = Rpc(rpc_url, chain_id)
    return OceanLedger(rpc, found, Outbox(outbox, rpc, found.confirmations))


def _checked_did(reader: OceanReader, did: Did, nft: Address) -> AssetFacts:
    expected = did_of(nft, reader.network.chain_id)
    if did != expected:
        raise BadInput("did", f"{expected}, the DID of {nft} on chain {reader.network.chain_id}", did)
    return reader.asset(nft)


def _check_fees(datatoken: Address, token: Address, amount: int, fee: ProviderFee, most: TokenWei) -> None:
    if amount > 0 and token != fee.token:
        raise Refused(f"{datatoken}: each order pays {amount} wei of {token}, expected {fee.token}", code="too_expensive")
    if amount + fee.amount > most:
        raise Refused(
            f"{datatoken}: an order's fees are {amount + fee.amount} wei, at most {most} were offered", code="too_expensive"
        )


def _sent(mined: Mined) -> Sent:
    return Sent(mined.transaction, mined.block, mined.gas_used)
