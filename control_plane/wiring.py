"""Builds the real services from settings; the only place that does.

In: `Settings`. Out: `Services`, the web application, the log keeper's steps. This module must never speak to a node or a server
while building: each part connects at its first question, so the web starts, and known sessions go on, while the node is down.

Files below the state folder:

    keys/operator.json      the operator's wallet: 64 hex digits, or an encrypted keystore with its passphrase in
                            `operator.json.passphrase`; where POSTHUMAN_OPERATOR_KEY_FILE says otherwise, there
    keys/receipt.key        signs receipts; keys/checkpoint.pem signs checkpoints, and only the log keeper opens it
    keys/nonce.key          what the workers' nonces prove themselves with; made when it is missing
    guard/checkpoint        the last checkpoint ever signed
    run/workers/            one lock a worker
    run/limits/             the workers' common count of calls under way, and how fast they come
    run/metrics/            what the workers count together
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask
from sqlalchemy import Engine

from control_plane.chain.networks import network as network_of
from control_plane.chain.ocean import OceanLedger
from control_plane.chain.outbox import Outbox
from control_plane.chain.rpc import Rpc
from control_plane.chain.wallet import LocalWallet, load_keystore
from control_plane.database import open_database
from control_plane.did import Address
from control_plane.errors import BadInput, NotFound
from control_plane.flows.index_assets import index_assets
from control_plane.flows.keep import keeper_steps
from control_plane.flows.services import Services
from control_plane.flows.watch import revoke_undone_orders, withdraw_changed_listings
from control_plane.jobs.algorithms import known
from control_plane.jobs.environments import offered
from control_plane.jobs.store import JobStore
from control_plane.migrations.migrate import migrate
from control_plane.provider.asset_index import AssetIndex
from control_plane.provider.fetch import Fetcher
from control_plane.provider.nonces import UserNonces
from control_plane.provider.provider import Provider
from control_plane.provider.tokens import AuthTokens
from control_plane.receipts.checkpoint import NoteSigner, origin_of
from control_plane.receipts.evaluations import Evaluations
from control_plane.receipts.keeper import Step
from control_plane.receipts.keys import read_checkpoint_key, read_private, read_receipt_key
from control_plane.receipts.log import Log
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import ReceiptStore
from control_plane.receipts.workers import Worker, is_alive
from control_plane.serving.catalogue import Catalogue
from control_plane.serving.limits import Allowed, CallLimits
from control_plane.serving.nonces import open_nonce_key
from control_plane.serving.prompts import Prompts
from control_plane.serving.sessions import Sessions
from control_plane.serving.token_counter import TokenCounters
from control_plane.serving.triton import Triton
from control_plane.settings import Settings, read_settings
from control_plane.web import create_app
from control_plane.web.shared_metrics import share
from converters.pbtxt import Hardware

_GARBAGE_AFTER = 20_000
"""New objects after which Python looks for circles among them; its own number is 700."""


def receipt_key_file(settings: Settings) -> Path:
    return settings.home / "keys" / "receipt.key"


def nonce_key_file(settings: Settings) -> Path:
    return settings.home / "keys" / "nonce.key"


def guard_file(settings: Settings) -> Path:
    return settings.home / "guard" / "checkpoint"


def operator_wallet(settings: Settings) -> LocalWallet:
    """The operator's wallet. Raises NotFound or BadInput for a file that is missing or holds no key.

    A bare key, and the passphrase of a keystore, must be readable by their owner alone; a keystore is encrypted and may be read.
    """
    path = settings.operator_key_file
    try:
        is_keystore = path.read_bytes()[:1] == b"{"
    except OSError:
        is_keystore = False
    if not is_keystore:
        return LocalWallet(read_receipt_key(path))
    passphrase = path.with_name(path.name + ".passphrase")
    try:
        return load_keystore(path, read_private(passphrase).decode("utf-8").rstrip("\n"))
    except (OSError, UnicodeDecodeError, NotFound) as error:
        raise BadInput(str(passphrase), "a readable file with the keystore's passphrase", type(error).__name__) from error


def open_ledger(settings: Settings) -> OceanLedger:
    """The chain of the settings, for reading and writing; what is sent is remembered in `<home>/outbox`."""
    network = network_of(settings.chain_id, settings.confirmations)
    rpc = Rpc(settings.rpc_url, settings.chain_id)
    return OceanLedger(rpc, network, Outbox(settings.home / "outbox", rpc, network.confirmations))


def open_catalogue(settings: Settings) -> Catalogue:
    """The catalogue, its tables brought up to date."""
    engine = open_database(settings.database_url)
    migrate(engine)
    return Catalogue(engine, settings.models, hardware=hardware_of(settings))


def open_triton(settings: Settings) -> Triton:
    return Triton(settings.triton_url, settings.triton_key, timeout_s=settings.call_timeout_s, queue_s=settings.queue_timeout_s)


def open_limits(settings: Settings, clock: Callable[[], float]) -> CallLimits:
    allowed = Allowed(settings.session_concurrency, settings.buyer_concurrency, settings.session_rate)
    return CallLimits(settings.home / "run" / "limits", allowed, clock)


def open_provider(settings: Settings, engine: Engine, key: LocalWallet, clock: Callable[[], float]) -> Provider:
    public = urlsplit(settings.public_url)  # its algorithms' files lie there, which it shows to everybody, wherever it runs
    own = f"{(public.hostname or '').removesuffix('.')}:{public.port or (443 if public.scheme == 'https' else 80)}"
    files = Fetcher(settings.internal_files, settings.max_file_bytes, own=own)
    return Provider(key, UserNonces(engine), AuthTokens(engine, clock), AssetIndex(engine), files)


def build_services(settings: Settings) -> Services:
    """Everything a worker needs; make it once a process, after forking.

    Raises BadInput or NotFound when the market was not set up (no log, no keys), Unavailable when the database cannot be opened.
    """
    log_nft = _log_nft(settings)
    engine = open_database(settings.database_url)
    migrate(engine)
    catalogue = Catalogue(engine, settings.models, hardware=hardware_of(settings))
    network, operator = network_of(settings.chain_id, settings.confirmations), operator_wallet(settings)
    return Services(
        settings=settings,
        network=network,
        ledger=open_ledger(settings),
        server=open_triton(settings),
        catalogue=catalogue,
        sessions=Sessions(engine, open_nonce_key(nonce_key_file(settings))),
        store=ReceiptStore(
            engine,
            ReceiptSigner(read_receipt_key(receipt_key_file(settings)), settings.chain_id, log_nft),
            worker=Worker(settings.workers_folder).name,
            merge_delay_s=settings.merge_delay_s,
        ),
        limits=open_limits(settings, time.time),
        prompts=Prompts(catalogue, TokenCounters(), settings.max_prompt_tokens),
        operator=operator,
        jobs=JobStore(engine),
        evaluations=Evaluations(engine, time.time),
        environments=offered(settings.jobs, network.ocean, operator.address),
        algorithms=known(settings.algorithms, settings.chain_id),
        provider=open_provider(settings, engine, operator, time.time),
        clock=time.time,
    )


def application() -> Flask:
    """The web application of one worker, for a WSGI server: each worker calls this after it was forked."""
    settings = read_settings()
    share(settings.metrics_folder)
    app = create_app(build_services(settings), metrics_folder=settings.metrics_folder)
    # What is imported stays: looking through it for garbage, every few hundred objects, was a tenth of a call's processor time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER, 10, 10)
    return app


def keeper_steps_of(settings: Settings) -> tuple[Step, ...]:
    """The log keeper's steps on the real parts."""
    services = build_services(settings)
    log_nft = _log_nft(settings)
    engine = open_database(settings.database_url)
    signer = NoteSigner(origin_of(settings.chain_id, log_nft), read_checkpoint_key(settings.checkpoint_key_file))

    def watch() -> Mapping[str, object] | None:
        done = services.catalogue.reconcile(services.server, services.ledger)
        record = {name: list(each) for name, each in asdict(done).items() if each}
        return record or None

    def watch_chain() -> Mapping[str, object] | None:
        undone = revoke_undone_orders(services.sessions, services.catalogue, services.ledger)
        return {"undone_orders": list(undone)} if undone else None

    def watch_listings() -> Mapping[str, object] | None:
        looked = withdraw_changed_listings(services.catalogue, services.ledger, log_nft)
        return {name: list(each) for name, each in asdict(looked).items() if each} or None

    def index() -> Mapping[str, object] | None:
        provider = services.provider
        return index_assets(provider.assets, services.ledger, provider.key, settings.public_url, time.time)

    return keeper_steps(
        store=services.store,
        is_alive=lambda name: is_alive(settings.workers_folder, name),
        log=Log(settings.log_folder, engine, signer, guard_file(settings)),
        ledger=services.ledger,
        wallet=services.operator,
        log_nft=log_nft,
        run_folder=settings.home / "run",
        checkpoint_interval_s=settings.checkpoint_interval_s,
        anchor_interval_s=settings.anchor_interval_s,
        anchor_receipts=settings.anchor_receipts,
        watch=watch,
        watch_chain=watch_chain,
        watch_listings=watch_listings,
        index=index,
        clock=time.time,
    )


def _log_nft(settings: Settings) -> Address:
    if settings.log_nft is None:
        raise BadInput("POSTHUMAN_LOG_NFT", "the address of the operator's log, which `posthuman up` makes", "nothing")
    return settings.log_nft


def hardware_of(settings: Settings) -> Hardware:
    """What the settings say the server's entries run on."""
    return Hardware(providers=settings.providers, engine_cache=settings.engine_cache)
