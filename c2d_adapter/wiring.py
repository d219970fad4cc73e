"""Builds what a worker needs from settings; the only place of this package that does.

In: `Settings`. Out: a worker, and the parts of its jobs. This module must never load PyTorch or Ray, nor build a part before there
is a job for it: the worker is started with the stack, and most stacks have no job.

Files below the state folder, beside those of `control_plane/wiring.py`:

    jobs/<job id>/      a job's folder while it is under way
    ray/                what Ray writes, of a Ray that is started here
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from c2d_adapter.carry import Report
from c2d_adapter.engine import Engine, Outcome, Progress, Resources
from c2d_adapter.meters import JobMeters
from c2d_adapter.steps import Derive, Parts
from c2d_adapter.worker import Hands
from control_plane.database import open_database
from control_plane.did import Bytes32, Did
from control_plane.errors import BadInput
from control_plane.jobs.job import Job
from control_plane.jobs.states import Kind
from control_plane.jobs.store import JobStore
from control_plane.migrations.migrate import migrate
from control_plane.serving.listing import Listing
from control_plane.settings import Settings
from control_plane.web.shared_metrics import share


def jobs_folder(settings: Settings) -> Path:
    return settings.home / "jobs"


@dataclass(frozen=True)
class Opened:
    """close: ends the engine. Again: nothing more happens."""

    hands: Hands
    close: Callable[[], None]


def open_hands(settings: Settings, report: Report, alive: Path | None) -> Opened:
    """A worker of this market. alive: see `Hands`. Raises Unavailable when the database cannot be opened."""
    database = open_database(settings.database_url)
    migrate(database)
    share(settings.metrics_folder)
    engine = open_engine(settings)
    hands = Hands(
        JobStore(database),
        _Once(lambda: build_parts(settings, engine, report)),
        workers=settings.workers_folder,
        jobs=jobs_folder(settings),
        alive=alive,
        at_once=settings.jobs.at_once,
        warm=partial(_warm, settings, engine) if settings.jobs.warm_after_s else None,
        warm_after_s=settings.jobs.warm_after_s,
        report=report,
        observe=JobMeters().observe,
    )
    return Opened(hands, engine.close)


def open_engine(settings: Settings) -> Engine:
    """Nothing is started before it is asked."""
    jobs = settings.jobs
    return Engine(
        settings.home,
        os.environ,
        address=jobs.ray_address or None,
        cpus=None if jobs.ray_address else jobs.cpus * jobs.at_once,
        sharding=jobs.sharding,
        wait_s=jobs.wait_s,
    )


def build_parts(settings: Settings, engine: Engine, report: Report) -> Parts:
    """What jobs are done with. Raises BadInput or NotFound before `posthuman up` made the log and the keys."""
    from c2d_adapter.market import open_store
    from c2d_adapter.ocean_texts import OceanTexts
    from control_plane.flows.job_receipts import leave_receipt
    from control_plane.receipts.keys import read_receipt_key
    from control_plane.receipts.signing import ReceiptSigner
    from control_plane.wiring import build_services, receipt_key_file

    if settings.log_nft is None:
        raise BadInput("POSTHUMAN_LOG_NFT", "the address of the operator's log, which `posthuman up` makes", "nothing")
    services, store = build_services(settings), open_store(settings)
    return Parts(
        jobs=jobs_folder(settings),
        weights=settings.weights,
        wikitext=settings.jobs.wikitext,
        catalogue=services.catalogue,
        objects=store,
        texts_of=OceanTexts(services),
        train=_training(settings, engine),
        server=services.server,
        signer=ReceiptSigner(read_receipt_key(receipt_key_file(settings)), settings.chain_id, settings.log_nft),
        derive=_deriving(services, store, report),
        publish=services.evaluations.publish,
        leave_receipt=partial(leave_receipt, services.store),
        clock=services.clock,
    )


def _share(settings: Settings, most_workers: int) -> tuple[int, Resources]:
    """How many workers a training has here, and what each gets."""
    jobs = settings.jobs
    workers = min(jobs.workers, most_workers)
    limit = None if jobs.ram_limit_gb is None else (jobs.ram_limit_gb << 30) // workers
    return workers, Resources(jobs.cpus / workers, jobs.gpus / workers, limit)


def _warm(settings: Settings, engine: Engine) -> None:
    """Have ready what a usual training needs."""
    engine.warm(*_share(settings, settings.jobs.workers))


def _training(settings: Settings, engine: Engine) -> Any:
    def train(
        folder: Path,
        most_workers: int,
        timeout_s: float,
        on_progress: Callable[[Progress], None],
        is_stopped: Callable[[], bool],
        on_run: Callable[[bool], None],
    ) -> Outcome:
        workers, each = _share(settings, most_workers)
        return engine.run(folder, Kind.TRAIN.value, workers, each, timeout_s, on_progress, is_stopped, on_run)

    return train


def _deriving(services: Any, store: Any, report: Report) -> Derive:
    from c2d_adapter.market import open_market
    from control_plane.flows.derivation import Derivation
    from control_plane.flows.derive import Trained, derive

    doing = threading.local()  # several jobs may be converted at once, each in its own thread

    def converted(stage: str, seconds: float) -> None:
        report({"job": doing.job, "convert": stage, "seconds": seconds})

    market = open_market(services, store, converted)

    def derived(job: Job, parent: Listing, parent_weights: Bytes32, weights: Path) -> Did:
        parameters = json.loads(job.parameters)
        assert job.weights_digest is not None  # noqa: S101  # no job derives without
        derivation = Derivation(
            job=job.job_id,
            trainer=job.owner,
            chain_id=parent.chain_id,
            parent_nft=parent.nft,
            parent_digest=job.model_digest,
            parent_weights=parent_weights,
            dataset=str(parameters["dataset"]),
            algorithm=job.algorithm_did,
            parameters=parameters,
            weights_digest=job.weights_digest,
        )

        doing.job = job.job_id

        def told(step: str, detail: Mapping[str, Any] | None) -> None:
            if detail is not None:
                report({"job": job.job_id, "derive": step, "seconds": detail.get("seconds")})

        return derive(market, services.operator, Trained(derivation, weights), told).listing.did

    return derived


class _Once:
    """Parts that several threads ask for, made by the first one; when that fails, by the next."""

    def __init__(self, make: Callable[[], Parts]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._made: Parts | None = None

    def __call__(self) -> Parts:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made
