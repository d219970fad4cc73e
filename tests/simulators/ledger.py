"""A ledger in memory: same interface, same outcomes as the real contracts, and it really hashes and checks signatures.

`fail_next` breaks one write: before it is done, or after (done, and the caller never hears of it). `is_down` is a node that does
not answer. The tests of `test_ledger_contract.py` run on it and on anvil, so that the two cannot drift apart.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from eth_utils.crypto import keccak

from control_plane.chain.fees import is_signed, names
from control_plane.chain.ledger import (
    MODEL_LABEL,
    OPERATOR_LABEL,
    PARENT_LABEL,
    AssetFacts,
    Block,
    Created,
    CreatedLog,
    DataRecord,
    FeePaid,
    Network,
    OrderFacts,
    ProviderFee,
    Purchase,
    Sale,
    Sent,
    Terms,
    Wallet,
)
from control_plane.chain.lineage import Parent
from control_plane.did import (
    ZERO_ADDRESS,
    Address,
    Bytes32,
    Did,
    TokenWei,
    TransactionHash,
    UnixSeconds,
    did_of,
    parse_address,
)
from control_plane.errors import BadInput, Conflict, NotFound, OutcomeUnknown, Refused, Unavailable
from tests.simulators.assets import COMMUNITY, COMMUNITY_ORDER_FEE, COMMUNITY_SWAP_FEE, ONE, Datatoken, Nft
from tests.simulators.custody import Result, SimulatedCustody
from tests.simulators.network import SIMULATED, address_of
from tests.simulators.published import Events, Published


class SimulatedLedger(SimulatedCustody, Published):
    """Implements `Ledger`. Each transaction is a block of its own, one second after the one before, as on a quiet anvil."""

    def __init__(self, network: Network = SIMULATED, starts_at: int = 1_700_000_000) -> None:
        self._network = network
        self.is_down = False
        self.balances: dict[tuple[Address, Address], int] = defaultdict(int)
        self._blocks = [Block(0, self._hash("block 0"), UnixSeconds(starts_at))]
        self._nfts: dict[Address, Nft] = {}
        self._datatokens: dict[Address, Datatoken] = {}
        self._done: dict[str, tuple[Any, Any]] = {}
        self._orders: dict[TransactionHash, OrderFacts] = {}
        self._failures: dict[str, list[str]] = defaultdict(list)
        self.writes: list[tuple[str, str]] = []
        """Method and key of every write that was done, in order."""
        self.events = Events()
        self.unreadable = {}
        self.facts_read = []

    # what tests do to it

    def fail_next(self, method: str, when: str = "before") -> None:
        """The next call of a writing method fails: `before` it is done (Unavailable) or `after` (OutcomeUnknown)."""
        assert when in ("before", "after")
        self._failures[method].append(when)

    def mint(self, token: Address, holder: Address, amount: int) -> None:
        self.balances[token, holder] += amount

    def advance_blocks(self, count: int) -> None:
        for _ in range(count):
            self._mine()

    def advance_time(self, seconds: int) -> None:
        """The next block is that much later."""
        last = self._blocks[-1]
        self._blocks[-1] = replace(last, timestamp=UnixSeconds(last.timestamp + seconds))

    def forget(self, transaction: TransactionHash) -> None:
        """A reorganisation: the transaction is in no block any more, and its block is another one."""
        facts = self._orders.pop(transaction, None)
        if facts is not None and facts.block < len(self._blocks):
            other = Bytes32("0x" + hashlib.sha256(f"another {facts.block_hash}".encode()).hexdigest())
            self._blocks[facts.block] = replace(self._blocks[facts.block], hash=other)

    def add_order(self, facts: OrderFacts) -> None:
        """An order as it could only stand on a real chain: reverted, or emitted by a foreign contract."""
        self._orders[facts.transaction] = facts

    def now(self) -> float:
        return float(self._blocks[-1].timestamp)

    # LedgerReader

    @property
    def network(self) -> Network:
        return self._network

    def head(self) -> Block:
        self._reach()
        return self._blocks[-1]

    def block(self, number: int) -> Block:
        self._reach()
        if number >= len(self._blocks):
            raise Unavailable(f"block {number} is not there yet")
        return self._blocks[number]

    def balance(self, token: Address, holder: Address) -> TokenWei:
        self._reach()
        return TokenWei(self.balances[token, holder])

    def asset(self, nft: Address) -> AssetFacts:
        self._reach()
        if nft in self.unreadable:
            raise self.unreadable[nft]
        found = self._nft(nft)
        digest = found.newest(MODEL_LABEL)
        log = found.newest(OPERATOR_LABEL)
        return AssetFacts(
            did=did_of(nft, self._network.chain_id),
            nft=nft,
            datatoken=found.datatoken or ZERO_ADDRESS,
            owner=found.owner,
            is_from_factory=True,
            model_digest=Bytes32("0x" + digest.hex()) if len(digest) == 32 else None,
            log=parse_address("0x" + log.hex()) if len(log) == 20 else None,
            state=found.state,
            has_metadata=bool(found.documents),
            parent=Parent.from_value(found.newest(PARENT_LABEL)),
        )

    def find_asset(self, did: Did, nft: Address) -> AssetFacts:
        expected = did_of(nft, self._network.chain_id)
        if did != expected:
            raise BadInput("did", expected, did)
        return self.asset(nft)

    def sale(self, datatoken: Address, exchange: Bytes32 | None) -> Sale:
        self._reach()
        found = self._datatoken(datatoken)
        sold = None
        if exchange is not None:
            sold = next((each for each, made in self._datatokens.items() if made.exchange == exchange), None)
            if sold is None:
                raise NotFound(f"{exchange}: no such fixed rate")
        terms = self._datatokens[sold].terms if sold else found.terms
        fees = terms.rate * (terms.swap_fee + COMMUNITY_SWAP_FEE) // ONE
        return Sale(
            rate=TokenWei(terms.rate if exchange else 0),
            price=TokenWei(terms.rate + fees if exchange else 0),
            base_token=terms.base_token if exchange else None,
            publish_fee=found.terms.publish_fee,
            publish_fee_token=found.terms.base_token,
            publish_fee_to=found.terms.marketplace_owner,
            exchange_datatoken=sold,
            is_active=exchange is not None or found.exchange is None,
            exchange_owner=self._datatokens[sold].exchange_owner if sold else None,
            collector=found.collector or self._nfts[found.nft].owner,
        )

    def order_facts(self, transaction: TransactionHash, datatoken: Address | None = None) -> OrderFacts:
        self._reach()
        facts = self._orders.get(transaction)
        if facts is None:
            return OrderFacts(transaction, self._network.chain_id, found=False)
        confirmations = max(len(self._blocks) - facts.block, 0)
        is_asked = facts.emitter is not None and facts.emitter == datatoken
        if not is_asked and not (datatoken is None and facts.is_from_factory):
            return OrderFacts(
                transaction,
                self._network.chain_id,
                found=True,
                status=facts.status,
                block=facts.block,
                block_hash=facts.block_hash,
                confirmations=confirmations,
            )
        return replace(facts, confirmations=confirmations)

    def data_history(self, nft: Address, key: Bytes32, from_block: int = 0) -> tuple[DataRecord, ...]:
        self._reach()
        records = self._nfts[nft].data[key] if nft in self._nfts else []
        return tuple(
            replace(record, confirmations=len(self._blocks) - record.block) for record in records if record.block >= from_block
        )

    # Ledger

    def is_begun(self, key: str) -> bool:
        self._reach()
        return key in self._done

    def create_asset(self, wallet: Wallet, key: str, name: str, symbol: str, terms: Terms) -> Created:
        def do() -> Created:
            sent = self._send(key, 1_548_399)
            nft, datatoken = address_of(f"{key} nft {sent.block}"), address_of(f"{key} datatoken {sent.block}")
            exchange = self._hash(f"{key} exchange") if terms.rate else None
            self._nfts[nft] = Nft(wallet.address, datatoken, name=name, symbol=symbol)
            owner = wallet.address
            sold_by = None if exchange is None else owner
            self._datatokens[datatoken] = Datatoken(nft, terms, exchange, {owner}, owner, sold_by)
            return Created(sent, nft, datatoken, exchange)

        return self._write("create_asset", key, (wallet.address, name, symbol, terms), do)

    def create_log_nft(self, wallet: Wallet, key: str, name: str, symbol: str) -> CreatedLog:
        def do() -> CreatedLog:
            sent = self._send(key, 568_208)
            nft = address_of(f"{key} nft {sent.block}")
            self._nfts[nft] = Nft(wallet.address)
            return CreatedLog(sent, nft)

        return self._write("create_log_nft", key, (wallet.address, name, symbol), do)

    def record_data(self, wallet: Wallet, key: str, nft: Address, data_key: Bytes32, value: bytes) -> Sent:
        def do() -> Sent:
            if self._nft(nft).owner != wallet.address:
                raise Refused("the contract refused: ERC721Template: NOT STORE UPDATER", code="reverted")
            sent = self._send(key, 43_406)
            self._record(nft, data_key, value, sent)
            return sent

        return self._write("record_data", key, (wallet.address, nft, data_key, value), do)

    def record_metadata(
        self, wallet: Wallet, key: str, nft: Address, document: bytes, clear_hash: Bytes32, endpoint: str, decryptor: Address
    ) -> Sent:
        def do() -> Sent:
            if wallet.address not in {self._nft(nft).owner, *self._nft(nft).describers}:
                raise Refused("the contract refused: ERC721Template: NOT METADATA_ROLE", code="reverted")
            self._nfts[nft].documents.append(document)
            sent = self._send(key, 169_820)
            self._document_event(wallet, nft, 3, document, bytes.fromhex(clear_hash[2:]), endpoint, sent)
            return sent

        return self._write("record_metadata", key, (wallet.address, nft, document, clear_hash, endpoint, decryptor), do)

    def buy_datatoken(self, wallet: Wallet, key: str, datatoken: Address, exchange: Bytes32 | None, max_paid: TokenWei) -> Purchase:
        def do() -> Purchase:
            sale = self.sale(datatoken, exchange)
            if exchange is not None and sale.exchange_datatoken != datatoken:
                raise BadInput("exchange", f"one that sells {datatoken}", sale.exchange_datatoken)
            if sale.price > max_paid:
                raise Refused(f"{datatoken}: one costs {sale.price} wei, at most {max_paid} were offered", code="too_expensive")
            if exchange is None and self.balances[datatoken, wallet.address] >= ONE:
                raise Refused("the contract refused: Caller balance too high", code="reverted")
            found = self._datatoken(datatoken)
            self._pay(found.terms.base_token, wallet.address, found.exchange_owner or self._nfts[found.nft].owner, sale.price)
            self.balances[datatoken, wallet.address] += ONE
            found.mints.append((wallet.address, ONE, wallet.address))
            return Purchase(self._send(key, 228_404), sale.price)

        return self._write("buy_datatoken", key, (wallet.address, datatoken, exchange), do)

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
        def do() -> Sent:
            found = self._datatoken(datatoken)
            terms, collector = found.terms, found.collector or self._nfts[found.nft].owner
            if most is not None and terms.publish_fee > 0 and terms.base_token != fee.token:
                raise Refused(f"{datatoken}: each order pays in {terms.base_token}, expected {fee.token}", code="too_expensive")
            if most is not None and (asked := terms.publish_fee + fee.amount) > most:
                raise Refused(f"{datatoken}: an order's fees are {asked} wei, at most {most} were offered", code="too_expensive")
            if not is_signed(fee):
                raise Refused("the contract refused: Invalid provider fee", code="reverted")
            if self.balances[datatoken, wallet.address] < ONE:
                raise Refused("the contract refused: Not enough datatokens to start Order", code="reverted")
            costs: dict[Address, int] = defaultdict(int)
            costs[terms.base_token] += terms.publish_fee
            costs[fee.token] += fee.amount
            if any(self.balances[token, wallet.address] < cost for token, cost in costs.items()):
                raise Refused("the contract refused: ERC20: transfer amount exceeds balance", code="reverted")
            self._pay(terms.base_token, wallet.address, terms.marketplace_owner, terms.publish_fee)
            self._pay(fee.token, wallet.address, fee.provider, fee.amount)
            self._pay(datatoken, wallet.address, COMMUNITY, COMMUNITY_ORDER_FEE)
            self._pay(datatoken, wallet.address, collector, ONE - COMMUNITY_ORDER_FEE)
            sent = self._send(key, 158_812)
            self._orders[sent.transaction] = self._order(sent, found, datatoken, wallet.address, consumer, service_index, fee)
            self.events.ordered.append((sent.block, datatoken))
            return sent

        return self._write("start_order", key, (wallet.address, datatoken, consumer, service_index), do)

    # how it works

    def _order(
        self,
        sent: Sent,
        found: Datatoken,
        datatoken: Address,
        payer: Address,
        consumer: Address,
        service_index: int,
        fee: ProviderFee,
    ) -> OrderFacts:
        publish = (FeePaid("publish", found.terms.marketplace_owner, found.terms.base_token, found.terms.publish_fee),)
        block = self._blocks[sent.block]
        return OrderFacts(
            transaction=sent.transaction,
            chain_id=self._network.chain_id,
            found=True,
            status=1,
            emitter=datatoken,
            nft=found.nft,
            is_from_factory=True,
            consumer=consumer,
            payer=payer,
            amount=TokenWei(ONE),
            service_index=service_index,
            block=sent.block,
            block_hash=block.hash,
            ordered_at=block.timestamp,
            fees=(publish if found.terms.publish_fee else ())
            + (FeePaid("provider", fee.provider, fee.token, fee.amount, fee.valid_until),),
            provider_fee=fee if names(fee, datatoken, service_index) else None,
            signed_fees=(fee,),
        )

    def _write(self, method: str, key: str, identity: tuple[Any, ...], do: Callable[[], Result]) -> Result:
        failure = self._failures[method].pop(0) if self._failures[method] else None
        self._reach()
        if failure == "before":
            raise Unavailable(f"{method}: the node did not answer")
        if key in self._done:
            before, result = self._done[key]
            if before != identity:
                raise Conflict(f"{key}: this key already stands for something else")
        else:
            result = do()
            self._done[key] = (identity, result)
            self.writes.append((method, key))
        if failure == "after":
            raise OutcomeUnknown(f"{method}: sent, and the node's answer was lost")
        found: Result = result
        return found

    def _record(self, nft: Address, key: Bytes32, value: bytes, sent: Sent) -> None:
        written_at = self._blocks[sent.block].timestamp
        self._nfts[nft].data[key].append(DataRecord(nft, key, value, sent.block, sent.transaction, written_at, 1))

    def _send(self, key: str, gas_used: int) -> Sent:
        block = self._mine()
        return Sent(TransactionHash(self._hash(f"transaction {key} {block.number}")), block.number, gas_used)

    def _mine(self) -> Block:
        last = self._blocks[-1]
        number = last.number + 1
        block = Block(number, self._hash(f"block {number} {last.hash}{self.branch}"), UnixSeconds(last.timestamp + 1))
        self._blocks.append(block)
        return block

    def _pay(self, token: Address, payer: Address, to: Address, amount: int) -> None:
        if self.balances[token, payer] < amount:
            raise Refused("the contract refused: ERC20: transfer amount exceeds balance", code="reverted")
        self.balances[token, payer] -= amount
        self.balances[token, to] += amount

    def _reach(self) -> None:
        if self.is_down:
            raise Unavailable("the node does not answer")

    def _nft(self, nft: Address) -> Nft:
        if nft not in self._nfts:
            raise NotFound(f"{nft}: no data NFT there")
        return self._nfts[nft]

    def _datatoken(self, datatoken: Address) -> Datatoken:
        if datatoken not in self._datatokens:
            raise NotFound(f"{datatoken}: no datatoken there")
        return self._datatokens[datatoken]

    @staticmethod
    def _hash(text: str) -> Bytes32:
        return Bytes32("0x" + bytes(keccak(text=text)).hex())
