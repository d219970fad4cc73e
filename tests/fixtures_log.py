"""A small market around a real log: a simulated chain with an asset, a log NFT and an order; a database, a store, a log on disk.

`LogMarket.issue` makes receipts as the gate would; everything signs and hashes for real.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, insert, select

from control_plane.chain.fees import sign_provider_fee
from control_plane.chain.ledger import KEYS_LABEL, MODEL_LABEL, OPERATOR_LABEL, Terms, data_key
from control_plane.chain.wallet import LocalWallet
from control_plane.database import open_database, sessions
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, UnixSeconds, did_of
from control_plane.flows.anchor import anchor
from control_plane.migrations import migrate
from control_plane.receipts.anchors import Anchor
from control_plane.receipts.checkpoint import NoteSigner, origin_of
from control_plane.receipts.log import Log
from control_plane.receipts.public_log import PublicLog
from control_plane.receipts.receipt import receipt_id, request_hash, response_hash
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import Issued, ReceiptStore, Reservation
from control_plane.receipts.tiles import TileFolder
from control_plane.receipts.verification import Verification
from control_plane.receipts.verify import verify
from tests.fixtures_chain import Chain
from tests.simulators.ledger import SimulatedLedger

DIGEST = Bytes32("0x" + "d1" * 32)
REQUEST, RESPONSE = b'{"prompt":"Hello"}', b'{"text":"world"}'
TOKEN = "a" * 64
WORKER = "b" * 32
ONE = 10**18


def open_session(
    engine: Engine,
    did: Did,
    wallet: Address,
    order: TransactionHash,
    *,
    token: str = TOKEN,
    limit: int = 100_000,
    expires_at: float = 4e9,
) -> None:
    with engine.begin() as connection:
        connection.execute(
            insert(sessions).values(
                token_hash=token,
                wallet=wallet,
                did=did,
                order_tx=order,
                order_block=1,
                order_block_hash="0x" + "00" * 32,
                expires_at=expires_at,
                calls_limit=limit,
                calls_used=0,
                revoked_why="",
            )
        )


def simulated() -> Chain:
    """A simulated chain with three wallets that have base tokens; the same one each time."""
    ledger = SimulatedLedger()
    wallets = {name: LocalWallet(bytes([number]) * 32) for number, name in enumerate(("operator", "alice", "bob"), 1)}
    for wallet in wallets.values():
        ledger.mint(ledger.network.ocean, wallet.address, 1000 * ONE)
    return Chain(ledger, wallets, ledger.advance_blocks, ledger.now, ledger.remember)


class LogMarket:
    """One time for calls and chain, so that receipts and anchors agree as they do with a right clock."""

    ledger: SimulatedLedger

    def __init__(self, folder: Path, chain: Chain | None = None, database_url: str | None = None) -> None:
        """chain: a simulated one when not given; on a real one, only what `Ledger` has may be done to `ledger`.

        database_url: of one that is migrated and empty; when not given, SQLite in the folder."""
        self.folder, self.chain = folder, chain or simulated()
        self.ledger = self.chain.ledger  # type: ignore[assignment]  # what tests do to a simulator, they do to it alone
        self.operator, self.alice, self.bob = (self.chain.wallets[name] for name in ("operator", "alice", "bob"))
        self.log_nft = self.ledger.create_log_nft(self.operator, "log", "log", "LOG").nft
        chain_id = self.ledger.network.chain_id
        self.signer = ReceiptSigner(bytes([9]) * 32, chain_id, self.log_nft)
        self.notes = NoteSigner(origin_of(chain_id, self.log_nft), Ed25519PrivateKey.from_private_bytes(bytes([8]) * 32))
        self.record_keys(self.signer.address, self.notes.public_key)
        self._exchanges: dict[Address, Bytes32 | None] = {}
        self.nft, self.datatoken, self.did = self.publish("asset")
        self.order = self.buy("order")
        self.engine = open_database(database_url or f"sqlite:///{folder / 'posthuman.db'}")
        migrate(self.engine)
        with self.engine.connect() as connection:
            is_filled = connection.execute(select(sessions.c.token_hash)).first() is not None
        if not is_filled:  # else this is a copy of a folder, or the same database, as a market like this one has left it
            open_session(self.engine, self.did, self.bob.address, self.order)
        self.store = ReceiptStore(self.engine, self.signer, worker=WORKER, merge_delay_s=3600, clock=self.chain.now)
        self.log = self.open_log()

    def record_keys(self, signer: Address, checkpoint_key: bytes) -> None:
        value = bytes.fromhex(signer[2:]) + checkpoint_key
        self.ledger.record_data(self.operator, f"keys {value.hex()}", self.log_nft, data_key(KEYS_LABEL), value)

    def publish(self, key: str, digest: Bytes32 = DIGEST) -> tuple[Address, Address, Did]:
        terms = Terms(TokenWei(ONE), self.ledger.network.ocean, TokenWei(0), self.operator.address)
        made = self.ledger.create_asset(self.alice, key, "model", "MODEL", terms)
        self._exchanges[made.datatoken] = made.exchange
        self.ledger.record_data(self.alice, f"{key} model", made.nft, data_key(MODEL_LABEL), bytes.fromhex(digest[2:]))
        log = bytes.fromhex(self.log_nft[2:])
        self.ledger.record_data(self.alice, f"{key} log", made.nft, data_key(OPERATOR_LABEL), log)
        return made.nft, made.datatoken, did_of(made.nft, self.ledger.network.chain_id)

    def buy(
        self,
        key: str,
        datatoken: Address | None = None,
        valid_for_s: int = 86_400,
        environment: str | None = None,
        consumer: Address | None = None,
    ) -> TransactionHash:
        """Bob buys one datatoken and orders with it: calls, or computing in an environment, for himself unless said otherwise."""
        token, ocean = datatoken or self.datatoken, self.ledger.network.ocean
        self.ledger.buy_datatoken(self.bob, f"{key} bought", token, self._exchanges[token], TokenWei(2 * ONE))
        valid_until = UnixSeconds(int(self.chain.now()) + valid_for_s)
        service = 0 if environment is None else 1
        fee = sign_provider_fee(self.operator, token, service, ocean, TokenWei(0), valid_until, self.chain.now, environment)
        return self.ledger.start_order(self.bob, key, token, consumer or self.bob.address, service, fee).transaction

    def open_log(self) -> Log:
        return Log(self.folder / "log", self.engine, self.notes, self.folder / "guard" / "checkpoint")

    def reserve(self, is_streaming: bool = False, token: str = TOKEN) -> Reservation:
        reservation = self.begin(is_streaming, token)
        self.store.reserve(reservation)
        return reservation

    def begin(self, is_streaming: bool = False, token: str = TOKEN) -> Reservation:
        salt = self.store.new_salt()
        return self.store.begin(
            token_hash=token,
            did=self.did,
            model_digest=DIGEST,
            consumer=self.bob.address,
            order=self.order,
            request_hash=request_hash(salt, REQUEST),
            salt=salt,
            is_streaming=is_streaming,
        )

    def issue(self, count: int = 1) -> list[Issued]:
        """Whole calls, answered with RESPONSE."""
        made = []
        for _ in range(count):
            reservation = self.begin()
            digest = response_hash(reservation.salt, RESPONSE)
            made.append(self.store.settle(reservation, response_hash=digest, units_in=2, units_out=1))
        return made

    def resign(self, issued: Issued, **changes: object) -> Issued:
        """What an operator who changes a receipt would do: sign the changed one."""
        signed = self.signer.sign(replace(issued.signed.receipt, **changes))  # type: ignore[arg-type]  # names of fields
        return Issued(signed, issued.salt, receipt_id(signed))

    def anchor(self) -> Anchor | None:
        return anchor(self.ledger, self.operator, self.log, self.log_nft, self.folder / "run" / "pending.json")

    def public(self) -> PublicLog:
        return PublicLog(TileFolder(self.folder / "log"))

    def verify(self, issued: Issued, **more: object) -> Verification:
        return verify(self.ledger, issued, log=self.public(), **more)  # type: ignore[arg-type]  # names of arguments


@pytest.fixture(name="market")
def market_on_either(tmp_path: Path, database_url: str) -> Iterator[LogMarket]:
    """Once on each kind of database."""
    made = LogMarket(tmp_path, database_url=database_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def market(tmp_path: Path) -> LogMarket:
    return LogMarket(tmp_path)
