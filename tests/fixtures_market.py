"""A market to call: a fixture `market` with models on sale, wallets, and the web application, on simulators.

The chain and the inference server are simulators that the contract tests hold to the real ones
(`tests/control_plane/chain`, `tests/control_plane/serving/test_inference_contract.py`); the whole path on real parts is told in
`tests/stories`.
"""

from __future__ import annotations

import hashlib
import io
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask.testing import FlaskClient
from sqlalchemy import Engine

from control_plane.chain.ledger import MODEL_LABEL, Terms, data_key
from control_plane.chain.wallet import LocalWallet
from control_plane.database import open_database
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, did_of
from control_plane.flows.offer import make_offer
from control_plane.flows.services import Services
from control_plane.flows.sign_in import compose_message
from control_plane.jobs.algorithms import known
from control_plane.jobs.environments import offered
from control_plane.jobs.store import JobStore
from control_plane.migrations.migrate import migrate
from control_plane.receipts.checkpoint import NoteSigner, origin_of
from control_plane.receipts.evaluations import Evaluations
from control_plane.receipts.log import Log
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import Issued, ReceiptStore
from control_plane.receipts.workers import Worker
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.listing import Listing
from control_plane.serving.prompts import Prompts
from control_plane.serving.sessions import Sessions
from control_plane.serving.token_counter import TokenCounters
from control_plane.settings import Settings, read_settings
from control_plane.web import create_app
from control_plane.wiring import open_limits, open_provider
from converters.entry import Entry, ModelDigest, model_digest, triton_name, write_entry
from converters.tasks import TASKS, outputs_of
from tests.simulators.inference import SimulatedServer
from tests.simulators.ledger import SimulatedLedger

ONE = 10**18
LOG_NFT = Address("0x" + "10" * 20)
CONTEXT_LENGTH = 64
DIMENSIONS = 8
PROMPT_CANARY = "canary-7f3a-prompt"


@dataclass
class Clock:
    """Seconds since 1970 that move only when told."""

    now: float

    def __call__(self) -> float:
        return self.now


def wallet_of(name: str) -> LocalWallet:
    return LocalWallet(hashlib.sha256(f"wallet of {name}".encode()).digest())


def write_tokenizer(path: Path) -> None:
    """A token a word, as the simulated server counts."""
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(path))


def make_entry(models: Path, task: str, name: str, **stated: Any) -> tuple[str, ModelDigest]:
    """A small entry under its digest's name; its weights are bytes that no runtime reads. stated: fields that differ."""
    part = models / f"part-{name}"
    (part / "1").mkdir(parents=True)
    (part / "1" / "model.onnx").write_bytes(hashlib.shake_256(name.encode()).digest(5000))
    write_tokenizer(part / "1" / "tokenizer.json")
    kind = TASKS[task]
    entry = Entry(
        name=name,
        task=task,
        backend=kind.backend,
        architecture="Simulated",
        precision="fp32",
        inputs=kind.inputs,
        outputs=outputs_of(kind, {"dimensions": DIMENSIONS, "graph_outputs": []}),
        details={"context_length": CONTEXT_LENGTH, "tokenizer": "1/tokenizer.json", "add_special_tokens": False},
    )
    write_entry(part, replace(entry, **stated))
    digest = model_digest(part)
    part.rename(models / triton_name(digest))
    return triton_name(digest), digest


@dataclass
class Market:
    """What a test may do to a market, as buyer, publisher, operator or the weather."""

    services: Services
    ledger: SimulatedLedger
    server: SimulatedServer
    engine: Engine
    clock: Clock
    log: Log
    journal: io.StringIO
    client: FlaskClient
    gpt: Listing = field(init=False)
    other_gpt: Listing = field(init=False)
    embedder: Listing = field(init=False)

    def __post_init__(self) -> None:
        self.gpt = self.publish("text-generation", "gpt")
        self.other_gpt = self.publish("text-generation", "other-gpt")
        self.embedder = self.publish("feature-extraction", "embedder")

    def wallet(self, name: str) -> LocalWallet:
        return wallet_of(name)

    def publish(self, task: str, name: str, **stated: Any) -> Listing:
        models, alice = self.services.settings.models, self.wallet("alice")
        entry_name, digest = make_entry(models, task, name, **stated)
        terms = Terms(TokenWei(ONE), self.ledger.network.ocean, TokenWei(0), self.services.operator.address)
        created = self.ledger.create_asset(alice, f"asset {name}", name, name.upper(), terms)
        self.ledger.record_data(alice, f"digest {name}", created.nft, data_key(MODEL_LABEL), bytes.fromhex(digest[2:]))
        listing = Listing(
            did=did_of(created.nft, self.ledger.network.chain_id),
            name=name,
            task=task,
            entry_name=entry_name,
            model_digest=Bytes32(digest),
            chain_id=self.ledger.network.chain_id,
            nft=created.nft,
            datatoken=created.datatoken,
            exchange=created.exchange,
            publisher=alice.address,
            service_index=0,
            timeout_s=3600,
            rate=TokenWei(ONE),
            base_token=self.ledger.network.ocean,
            publish_fee=TokenWei(0),
            swap_fee=0,
            published_at=self.clock.now,
        )
        self.services.catalogue.load_verified(listing, self.server, self.ledger)
        self.services.catalogue.put_on_sale(listing)
        return listing

    def order(self, name: str, listing: Listing, valid_for_s: int = 3600, consumer: str | None = None) -> TransactionHash:
        """`name` pays for an order of which `consumer` (by default the same) may make use."""
        wallet = self.wallet(name)
        self.ledger.mint(listing.base_token, wallet.address, 10 * ONE)
        key = f"{name} {listing.did} {len(self.ledger.writes)}"
        offer = make_offer(listing, self.services.operator, self.services.settings.provider_fee, valid_for_s, self.clock)
        self.ledger.buy_datatoken(wallet, f"{key} buy", listing.datatoken, listing.exchange, TokenWei(5 * ONE))
        consuming = self.wallet(consumer or name).address
        return self.ledger.start_order(wallet, f"{key} order", listing.datatoken, consuming, 0, offer.provider_fee).transaction

    def nonce(self) -> str:
        return str(self.client.post("/v1/auth/nonce").get_json()["nonce"])

    def message(self, name: str, did: Did, order: TransactionHash, nonce: str | None = None) -> str:
        address = self.wallet(name).address
        return compose_message(self.services, address, did, order, nonce or self.nonce(), 3600).text()

    def hand_in(self, text: str, signature: object) -> Any:
        return self.client.post("/v1/auth/token", json={"message": text, "signature": signature})

    def sign(self, name: str, text: str) -> str:
        return "0x" + self.wallet(name).sign_message(text).hex()

    def sign_in(self, name: str, listing: Listing, order: TransactionHash | None = None) -> str:
        """A token; buys an order first when none is given."""
        text = self.message(name, listing.did, order or self.order(name, listing))
        answer = self.hand_in(text, self.sign(name, text))
        assert answer.status_code == 200, answer.get_json()
        return str(answer.get_json()["token"])

    def bearer(self, token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    def complete(self, token: str, did: Did | None = None, **fields: Any) -> Any:
        record = {"model": did or self.gpt.did, "prompt": PROMPT_CANARY, "max_tokens": 4, **fields}
        return self.post("/v1/completions", token, json.dumps(record).encode())

    def post(self, path: str, token: str, body: bytes, **headers: str) -> Any:
        """The answer, with the bytes that were sent as `answer.sent`."""
        named = {**self.bearer(token), **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer: Any = self.client.post(path, data=body, content_type="application/json", headers=named)
        answer.sent = body
        return answer

    def calls_used(self, order: TransactionHash) -> int:
        return self.services.sessions.calls_used_by(order)

    def tamper(self, listing: Listing) -> None:
        """Swap the weights on disk for others of the same size."""
        path = self.services.catalogue.folder(listing) / "1" / "model.onnx"
        path.write_bytes(bytes(len(path.read_bytes())))

    def new_worker(self) -> FlaskClient:
        """Another process's application over the same database."""
        return create_app(services_over(self.engine, self.services.settings, self.ledger, self.server, self.clock)).test_client()


def receipt_of(answer: Any) -> Issued:
    """The receipt in a whole answer's header."""
    header = answer.headers["X-Posthuman-Receipt"]
    return Issued.from_json(json.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4))))


def events_of(body: bytes) -> list[bytes]:
    """The server-sent events of a stream, each with its end."""
    return [part + b"\n\n" for part in body.split(b"\n\n") if part]


def record_of(event: bytes) -> Mapping[str, Any]:
    record: Mapping[str, Any] = json.loads(event.removeprefix(b"data: "))
    return record


def services_over(engine: Engine, settings: Settings, ledger: SimulatedLedger, server: SimulatedServer, clock: Clock) -> Services:
    key = hashlib.sha256(b"receipt key").digest()
    catalogue = Catalogue(engine, settings.models, cache_ttl_s=0.0)
    return Services(
        settings=settings,
        network=ledger.network,
        ledger=ledger,
        server=server,
        catalogue=catalogue,
        sessions=Sessions(engine, hashlib.sha256(b"nonce key").digest(), clock, cache_ttl_s=0.0),
        store=ReceiptStore(
            engine,
            ReceiptSigner(key, settings.chain_id, LOG_NFT),
            worker=Worker(settings.home / "run" / "workers").name,
            merge_delay_s=settings.merge_delay_s,
            clock=clock,
        ),
        limits=open_limits(settings, clock),
        prompts=Prompts(catalogue, TokenCounters(), settings.max_prompt_tokens),
        operator=wallet_of("operator"),
        jobs=JobStore(engine, clock),
        evaluations=Evaluations(engine, clock),
        environments=offered(settings.jobs, ledger.network.ocean, wallet_of("operator").address),
        algorithms=known(settings.algorithms, settings.chain_id),
        provider=open_provider(settings, engine, wallet_of("operator"), clock),
        clock=clock,
    )


def open_market(home: Path, **settings: str) -> Market:
    environ = {"POSTHUMAN_HOME": str(home), "POSTHUMAN_PUBLIC_URL": "https://market.example", **settings}
    chosen = read_settings({**environ, "POSTHUMAN_MAX_BODY_BYTES": environ.get("POSTHUMAN_MAX_BODY_BYTES", "100000")})
    engine = open_database(chosen.database_url)
    migrate(engine)
    chosen.models.mkdir(parents=True)
    ledger, server = SimulatedLedger(), SimulatedServer(chosen.models)
    clock = Clock(ledger.now() + 100.0)
    services = services_over(engine, chosen, ledger, server, clock)
    signer = NoteSigner(origin_of(chosen.chain_id, LOG_NFT), Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1"))
    log = Log(chosen.log_folder, engine, signer, home / "guard" / "checkpoint")
    journal = io.StringIO()
    client = create_app(services, journal).test_client()
    return Market(services, ledger, server, engine, clock, log, journal, client)


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    opened = open_market(tmp_path / "home")
    yield opened
    opened.engine.dispose()
