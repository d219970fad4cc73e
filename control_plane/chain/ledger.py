"""The chain in our words: what the market needs of it, and nothing of how a node is spoken to.

In: addresses, DIDs, wallets and idempotency keys. Out: facts read back from the chain. This module must never import web3 or
ocean-lib; `ocean.py` implements it on real contracts, `tests/simulators/ledger.py` in memory, and the same tests run on both.

Every writing method takes a `key`. Calling it again with the same key finds the transaction sent the first time and returns its
outcome; it never sends a second one for a thing that may have been done. OutcomeUnknown means: sent, not yet seen; call again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from eth_utils.crypto import keccak

from control_plane.chain.lineage import MODEL_LABEL as MODEL_LABEL
from control_plane.chain.lineage import OPERATOR_LABEL as OPERATOR_LABEL
from control_plane.chain.lineage import PARENT_LABEL as PARENT_LABEL
from control_plane.chain.lineage import Parent
from control_plane.chain.published import PublishedReader
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, UnixSeconds

NO_AMOUNT = TokenWei(0)
NO_TIME = UnixSeconds(0)


@dataclass(frozen=True)
class Network:
    """Addresses of Ocean's contracts on one chain, and how many blocks an event needs, its own included, before it counts.

    start_block: no event of Ocean's contracts is older; where reading histories begins.
    """

    chain_id: int
    name: str
    factory: Address
    router: Address
    fixed_rate: Address
    dispenser: Address
    ocean: Address
    confirmations: int
    start_block: int = 0


@dataclass(frozen=True)
class Block:
    number: int
    hash: Bytes32
    timestamp: UnixSeconds


@dataclass(frozen=True)
class Sent:
    """A transaction that is on chain and did not revert."""

    transaction: TransactionHash
    block: int
    gas_used: int


@dataclass(frozen=True)
class Terms:
    """How a datatoken is sold.

    rate: base-token wei for one datatoken; 0 means a free dispenser.
    publish_fee: base-token wei that each order pays to the marketplace owner (`publishMarketFee` in Ocean's words).
    swap_fee: share of each purchase that the exchange keeps for the marketplace owner, in 10**-18 (10**16 = 1 %).
    """

    rate: TokenWei
    base_token: Address
    publish_fee: TokenWei
    marketplace_owner: Address
    swap_fee: int = 0


@dataclass(frozen=True)
class Created:
    """A new asset's contracts, made by one transaction. `exchange` is the fixed rate's id, None for a free dispenser."""

    sent: Sent
    nft: Address
    datatoken: Address
    exchange: Bytes32 | None


@dataclass(frozen=True)
class CreatedLog:
    """A new data NFT that will hold a log's keys and anchors; it has no datatoken."""

    sent: Sent
    nft: Address


@dataclass(frozen=True)
class Sale:
    """How a datatoken is sold, as its contracts say now.

    price: base-token wei that one datatoken costs, the exchange's fees inside; 0 from a dispenser.
    publish_fee: what each order pays to `publish_fee_to`, in wei of `publish_fee_token`.
    exchange_datatoken: the datatoken that the asked exchange sells; None for a dispenser.
    is_active: the exchange or the dispenser gives datatokens at all. exchange_owner: who may change the rate and is paid.
    collector: who gets the datatokens that orders pay.
    """

    rate: TokenWei
    price: TokenWei
    base_token: Address | None
    publish_fee: TokenWei
    publish_fee_token: Address
    publish_fee_to: Address
    exchange_datatoken: Address | None
    is_active: bool
    exchange_owner: Address | None
    collector: Address


@dataclass(frozen=True)
class Rights:
    """What one account may do with an asset: as the NFT's owner or manager, deploy datatokens, write metadata, record data; mint
    datatokens, and choose who collects what orders pay.
    """

    is_owner: bool = False
    is_manager: bool = False
    may_deploy: bool = False
    may_describe: bool = False
    may_store: bool = False
    may_mint: bool = False
    may_collect: bool = False


@dataclass(frozen=True)
class ProviderFee:
    """A fee the operator asks for one order, signed by the operator. Source: ERC20Template `_checkProviderFee`, Ocean Provider.

    amount: base-token wei. valid_until: the order lets its holder call until then; seconds since 1970.
    data: JSON bytes naming datatoken and service, as Ocean Provider writes them.
    """

    provider: Address
    token: Address
    amount: TokenWei
    valid_until: UnixSeconds
    data: bytes
    v: int
    r: Bytes32
    s: Bytes32


@dataclass(frozen=True)
class AssetFacts:
    """What the chain says of one asset, read at one moment.

    is_from_factory: the NFT is in Ocean's factory, and the NFT says that it deployed the datatoken.
    model_digest: value of `setNewData(keccak("posthuman.model.v1"))`, None before it is recorded.
    log: value of `setNewData(keccak("posthuman.operator.v1"))`: the log NFT in which calls of this asset are recorded.
    parent: what it was trained from, None for an asset that was published. All three may stand in the custody record instead, see
        lineage.py.
    state: Ocean's NFT state; 0 active, 1 end of life, 2 deprecated, 3 revoked, 4 disabled, 5 unlisted.
    """

    did: Did
    nft: Address
    datatoken: Address
    owner: Address
    is_from_factory: bool
    model_digest: Bytes32 | None
    log: Address | None
    state: int
    has_metadata: bool
    parent: Parent | None = None


@dataclass(frozen=True)
class FeePaid:
    """A payment that an order's transaction made, read from its events. kind: `publish`, `consume` or `provider`."""

    kind: str
    to: Address
    token: Address
    amount: TokenWei
    valid_until: UnixSeconds | None = None


@dataclass(frozen=True)
class OrderFacts:
    """What the chain says of one order. `access.py` decides; this only tells.

    found: the transaction has a receipt. status: 1 done, 0 reverted, None when not found.
    emitter: the contract that emitted `OrderStarted` (never taken from the event's own fields); None when there is no such event
        from the asked datatoken.
    nft: the NFT that `emitter` names; is_from_factory as in AssetFacts.
    confirmations: blocks from the order's to the head, counted so that a transaction in the head block has 1.
    orders: `OrderStarted` events in the transaction, whoever emitted them. Sessions, quota and receipts are named by the
        transaction, so one that holds several orders can stand for none.
    provider_fee: the fee event of this order, if its signature is by the provider it names and its data name this datatoken and
        service; who may be a provider, `access.py` decides.
    signed_fees: every fee event of the datatoken with such a signature, whatever service its data name.
    """

    transaction: TransactionHash
    chain_id: int
    found: bool
    status: int | None = None
    emitter: Address | None = None
    nft: Address | None = None
    is_from_factory: bool = False
    consumer: Address | None = None
    payer: Address | None = None
    amount: TokenWei = NO_AMOUNT
    service_index: int = -1
    block: int = 0
    block_hash: Bytes32 | None = None
    ordered_at: UnixSeconds = NO_TIME
    confirmations: int = 0
    fees: tuple[FeePaid, ...] = ()
    orders: int = 1
    provider_fee: ProviderFee | None = None
    signed_fees: tuple[ProviderFee, ...] = ()


@dataclass(frozen=True)
class DataRecord:
    """One `DataChanged` event: somebody with the store permission wrote `value` under a key of this NFT."""

    nft: Address
    key: Bytes32
    value: bytes
    block: int
    transaction: TransactionHash
    written_at: UnixSeconds
    confirmations: int


@dataclass(frozen=True)
class Purchase:
    """A datatoken bought. paid: base-token wei, swap fees inside."""

    sent: Sent
    paid: TokenWei


class Wallet(Protocol):
    """A key that signs. Holds the private key so that nobody else has to."""

    @property
    def address(self) -> Address: ...

    def sign_message(self, text: str) -> bytes:
        """EIP-191 personal signature of `text`: 65 bytes r, s, v with v 27 or 28."""

    def sign_digest(self, digest: bytes) -> bytes:
        """Low-s signature over a 32-byte digest: 65 bytes r, s, v with v 27 or 28."""


class LedgerReader(PublishedReader, Protocol):
    """What anyone can read with an RPC URL alone. Raises Unavailable when no node answers."""

    @property
    def network(self) -> Network: ...

    def head(self) -> Block: ...

    def block(self, number: int) -> Block: ...

    def balance(self, token: Address, holder: Address) -> TokenWei: ...

    def asset(self, nft: Address) -> AssetFacts:
        """Raises NotFound when the address holds no data NFT."""

    def order_facts(self, transaction: TransactionHash, datatoken: Address | None = None) -> OrderFacts:
        """Facts of an order; only `OrderStarted` events whose emitter is `datatoken` count.

        Without `datatoken` (a verifier that knows only the receipt): the emitter of the one `OrderStarted` event whose emitter
        is a datatoken of an NFT of Ocean's factory.
        """

    def sale(self, datatoken: Address, exchange: Bytes32 | None) -> Sale:
        """Raises NotFound when the address holds no datatoken, or the exchange does not exist."""

    def document(self, nft: Address) -> bytes | None:
        """The encrypted DDO as it was last written, from `MetadataCreated` and `MetadataUpdated` events; None before."""

    def data_history(self, nft: Address, key: Bytes32, from_block: int = 0) -> tuple[DataRecord, ...]:
        """Every value ever written under `key`, oldest first, from `DataChanged` events emitted by `nft`."""

    def rights(self, nft: Address, datatoken: Address, account: Address) -> Rights:
        """Raises NotFound when there is no such NFT or datatoken."""

    def minted(self, datatoken: Address, to: Address, by: Address | None = None) -> tuple[TokenWei, ...]:
        """Every amount of a datatoken that was minted to an account, oldest first. by: only in transactions that this account
        sent, among the first 256 that minted."""

    def find_asset(self, did: Did, nft: Address) -> AssetFacts:
        """`asset(nft)`, refused with BadInput unless `did` is the DID of `nft` on this chain."""


class Ledger(LedgerReader, Protocol):
    """What the market writes. Raises Refused for a revert, OutcomeUnknown when sent and not seen, Unavailable when not sent."""

    def is_begun(self, key: str) -> bool:
        """True when something was sent under `key` that is done, or may still be done: then only the same call may follow."""

    def create_asset(self, wallet: Wallet, key: str, name: str, symbol: str, terms: Terms) -> Created: ...

    def create_asset_for(
        self, wallet: Wallet, key: str, owner: Address, name: str, symbol: str, terms: Terms, amount: TokenWei, record: bytes
    ) -> Created:
        """An asset that `owner` owns, made by `wallet` without the owner's key: NFT, datatoken, a fixed rate, `amount` datatokens
        minted to the owner, the right to mint given to the owner, and `record` (a `Custody`) as the datatoken's value on the NFT.

        `wallet` can then still write metadata, until `give_up`. Raises BadInput for free terms: a dispenser would stay `wallet`'s;
        ChangedByOwner when the owner's account takes no NFT, or he, who has it from its first block, left no way to finish. That he
        became a minter himself, or minted, does no harm.
        Again: goes on behind the last transaction that was done; each has a key of its own below `key`.
        """

    def give_up(self, wallet: Wallet, key: str, nft: Address, datatoken: Address) -> tuple[Sent, ...]:
        """Take away from `wallet` every right that `create_asset_for` left it. Again: what is gone is let be, and so is what the
        owner gave back.

        Raises ChangedByOwner when he took the right that is needed for it, Refused with code rights_left when the chain shows a
        right that nobody was seen to give: ask again.
        """

    def create_log_nft(self, wallet: Wallet, key: str, name: str, symbol: str) -> CreatedLog: ...

    def record_data(self, wallet: Wallet, key: str, nft: Address, data_key: Bytes32, value: bytes) -> Sent: ...

    def record_metadata(
        self, wallet: Wallet, key: str, nft: Address, document: bytes, clear_hash: Bytes32, endpoint: str, decryptor: Address
    ) -> Sent:
        """Write an encrypted DDO: `document` as it goes on chain (compressed, then encrypted: Ocean's flags 3), `clear_hash` =
        SHA-256 of the clear text; who may read it asks `decryptor` at `endpoint`.
        """

    def buy_datatoken(self, wallet: Wallet, key: str, datatoken: Address, exchange: Bytes32 | None, max_paid: TokenWei) -> Purchase:
        """Buy one datatoken at the fixed rate, or take one from the dispenser when `exchange` is None."""

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
        """Order with one datatoken; approves the publish-market fee and the provider fee first, each for its exact amount.

        most: what both fees may cost together, in the provider fee's token; None: whatever they are. Raises Refused, with nothing
        approved, when they cost more or the publish-market fee is in another token.
        """


def data_key(label: str) -> Bytes32:
    """keccak256 of a label: the key under which `setNewData` stores it."""
    return Bytes32("0x" + keccak(text=label).hex())


LOG_LABEL = "posthuman.log.v1"
KEYS_LABEL = "posthuman.keys.v1"
"""MODEL: 32-byte model digest, on the asset's NFT. OPERATOR: 20-byte address of the log's NFT, on the asset's NFT.
PARENT: what an asset was trained from, see lineage.py.
LOG: uint64 size + 32-byte root, on the log's NFT. KEYS: 20-byte receipt signer + 32-byte Ed25519 key, on the log's NFT."""

CALLABLE_STATES: Sequence[int] = (0, 5)
"""Ocean's NFT states in which an asset may be used: active and unlisted."""
