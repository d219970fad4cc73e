"""What jobs are run with, as files: a program that counts, weights that are bytes, an object storage that is a folder, assets that
are made once.

Each part does what the real one does and can be interrupted where the real one can: `Interrupted` stops the process at a named
point, for a test to kill it there (`python -m tests.simulators.jobs HOME POINT`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from c2d_adapter.carry import Patience
from c2d_adapter.engine import Outcome, Progress
from c2d_adapter.job_io import Folder
from c2d_adapter.steps import Parts
from c2d_adapter.storage import Kind
from c2d_adapter.worker import Hands, report
from control_plane.database import open_database
from control_plane.did import Address, Bytes32, Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import IntegrityBroken, NotFound
from control_plane.flows.job_receipts import leave_receipt
from control_plane.jobs.job import Job
from control_plane.jobs.states import State
from control_plane.jobs.store import JobStore
from control_plane.migrations.migrate import migrate
from control_plane.receipts.evaluations import Evaluations
from control_plane.receipts.receipt import Issued
from control_plane.receipts.signing import ReceiptSigner
from control_plane.receipts.store import ReceiptStore
from control_plane.serving.catalogue import write_config
from control_plane.serving.listing import Listing
from converters.weights_folder import weights_digest, weights_name
from tests.control_plane.jobs.asking import MODEL
from tests.fixtures_market import make_entry
from tests.simulators.inference import SimulatedServer

NFT = Address("0x" + "44" * 20)
LOG = Address("0x" + "10" * 20)
TEXT = "\n".join(
    f"{number} the market stands by the harbour and sells " + "what it has to whom it may " * 7 for number in range(30)
)
QUICK = Patience(for_s=dict.fromkeys((State.PROVISIONING, State.RUNNING, State.STORING, State.DERIVING), 0.6), first_pause_s=0.02)
STEPS = 20

Point = Callable[[str], None]


def anywhere(_point: str) -> None:
    """Interrupts nothing."""


def make_weights(folder: Path, seed: bytes) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (folder / "model.safetensors").write_bytes(hashlib.shake_256(seed).digest(4000))
    return weights_digest(folder)


def no_assets(did: Did, order: TransactionHash | None, into: Path, _is_over: Callable[[], bool]) -> None:
    """A `TextsOf` that knows none."""
    raise NotFound(f"{did} for {order}, into {into}", code="dataset_unknown")


class Models:
    """A catalogue of one model."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.is_tampered = False

    def find(self, did: Did) -> Listing:
        if did != self.listing.did:
            raise NotFound.named("model", "a DID that is published here", did, code="model_unknown")
        return self.listing

    def verify(self, listing: Listing) -> None:
        if self.is_tampered:
            raise IntegrityBroken(f"{listing.did}: changed", code="model_tampered")


class FolderObjects:
    """An object storage: each content once, under its digest."""

    def __init__(self, folder: Path, at: Point = anywhere) -> None:
        self.folder, self._at = folder, at

    def put(self, kind: Kind, folder: Path, digest: str) -> int:
        self._at("put")
        assert kind.digest_of(kind.manifest(folder)) == digest
        target = self.folder / kind.prefix / digest[2:]
        if not target.is_dir():
            shutil.copytree(folder, target)
        self._at("stored")
        return 1

    def get(self, kind: Kind, digest: str, into: Path) -> Path:
        try:
            if kind.digest_of(kind.manifest(into)) == digest:
                return into
        except kind.broken:
            pass
        found = self.folder / kind.prefix / digest[2:]
        if not found.is_dir():
            raise NotFound(f"no {kind.name} with digest {digest}")
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(found, into)
        return into


class Counting:
    """A training program: counts to its number of steps, keeps where it is, and turns the weights into others."""

    def __init__(self, at: Point = anywhere) -> None:
        self._at = at
        self.wait_s = 0.0
        """Until there is a machine with room."""
        self.pause_s = 0.0
        self.result: dict[str, Any] = {}
        """What the result has beside or instead of the usual."""
        self.ended: Outcome | None = None
        """How it ends without doing anything."""
        self.most_workers = 0

    def run(
        self,
        folder: Path,
        most_workers: int,
        timeout_s: float,
        on_progress: Callable[[Progress], None],
        is_stopped: Callable[[], bool],
        on_run: Callable[[bool], None],
    ) -> Outcome:
        self.most_workers = most_workers
        if self.ended is not None:
            return self.ended
        room_at = time.monotonic() + self.wait_s
        while time.monotonic() < room_at:
            if is_stopped():
                return Outcome("stopped", 1)
            time.sleep(0.01)
        on_run(True)
        try:
            return self._count(Folder(folder), time.monotonic() + timeout_s, on_progress, is_stopped)
        finally:
            on_run(False)

    def _count(self, job: Folder, until: float, on_progress: Callable[[Progress], None], is_stopped: Callable[[], bool]) -> Outcome:
        steps = int(job.parameters("train")["steps"])
        job.checkpoints.mkdir(exist_ok=True)
        kept = job.checkpoints / "count"
        begun = int(kept.read_text()) if kept.exists() else 0
        letters = sum(map(len, job.texts()))
        for step in range(begun, steps):
            time.sleep(self.pause_s)
            if is_stopped():
                return Outcome("stopped", 1)
            if time.monotonic() > until:
                return Outcome("timed_out", 1)
            kept.write_text(str(step + 1))
            job.write_progress(step + 1, steps, 4.0 - step / steps, 10.0)
            on_progress(json.loads((job.path / "progress.json").read_text()))
            if step == steps // 2:
                self._at("train")
        shutil.rmtree(job.out, ignore_errors=True)
        shutil.copytree(job.weights, job.out, copy_function=shutil.copyfile)
        model = job.out / "model.safetensors"
        model.write_bytes(hashlib.shake_256(model.read_bytes() + f"{steps} {letters}".encode()).digest(4000))
        result = {"steps": steps, "first_loss": 4.0, "last_loss": 3.1, "tokens": 640, "rounds_over_texts": 1.0, "seconds": 0.5}
        result |= {
            "objective": "next_token",
            "steps_per_second": 10.0,
            "parameters": 1000,
            "trained_parameters": 1000,
            "workers": 1,
        }
        (job.path / "result.json").write_text(json.dumps(result | self.result))
        self._at("trained")
        return Outcome("finished", 1)


class Assets:
    """Makes one asset a job, and counts its mintings."""

    def __init__(self, folder: Path, at: Point = anywhere) -> None:
        self.folder, self._at = folder, at

    def derive(self, job: Job, parent: Listing, parent_weights: Bytes32, weights: Path) -> Did:
        self._at("derive")
        assert (str(weights_digest(weights)), parent_weights) == (job.weights_digest, parent.weights_digest)
        self.folder.mkdir(parents=True, exist_ok=True)
        did = Did("did:op:" + hashlib.sha256(job.job_id.encode()).hexdigest())
        mark = self.folder / job.job_id
        if not mark.exists():
            with (self.folder / "mintings").open("a") as mintings:
                mintings.write(f"{job.job_id} {job.owner} 200 {job.weights_digest}\n")
            mark.touch()
        self._at("derived")
        return did

    def mintings(self) -> list[str]:
        return (self.folder / "mintings").read_text().splitlines() if (self.folder / "mintings").exists() else []


@dataclass
class JobMarket:
    """A folder in which jobs are run. Made again on the same folder, it is the same market."""

    home: Path
    at: Point = anywhere
    store: JobStore = field(init=False)
    models: Models = field(init=False)

    def __post_init__(self) -> None:
        self.engine = open_database(f"sqlite:///{self.home / 'posthuman.db'}")
        self.store = JobStore(self.engine)
        signer = ReceiptSigner(b"\x07" * 32, 8996, LOG)
        self.receipts = ReceiptStore(self.engine, signer, worker="a" * 32, merge_delay_s=3600)
        self.objects = FolderObjects(self.home / "objects", self.at)
        self.program = Counting(self.at)
        self.assets = Assets(self.home / "assets", self.at)
        if not (self.home / "wikitext").is_dir():
            migrate(self.engine)
            (self.home / "wikitext").mkdir(parents=True)
            for name in ("valid.txt", "test.txt"):
                (self.home / "wikitext" / name).write_text(TEXT)
            digest = make_weights(self.home / "weights" / "new", b"alice")
            (self.home / "weights" / "new").rename(self.kept(digest))
            name, model = make_entry(self.home / "models", "text-generation", "gpt")
            write_config(self.home / "models" / name, name, Bytes32(model))
            (self.home / "known.json").write_text(json.dumps([name, model, digest]))
        name, model, digest = json.loads((self.home / "known.json").read_text())
        self.server = SimulatedServer(self.home / "models")
        self.server.load(name)
        self.models = Models(listing_of(name, Bytes32(model), Bytes32(digest)))
        self.parts = Parts(
            jobs=self.home / "jobs",
            weights=self.home / "weights",
            wikitext=self.home / "wikitext",
            catalogue=self.models,
            objects=self.objects,
            texts_of=no_assets,
            train=self.program.run,
            server=self.server,
            signer=signer,
            derive=self.assets.derive,
            publish=Evaluations(self.engine, time.time).publish,
            leave_receipt=self.tell,
        )

    def tell(self, connection: Connection, job: Job) -> Issued:
        self.at("answered")
        issued = leave_receipt(self.receipts, connection, job)
        self.at("told")
        return issued

    def kept(self, digest: str) -> Path:
        return self.home / "weights" / weights_name(digest)  # type: ignore[arg-type]  # as it came from its file

    def hands(self, *, at_once: int = 1, say: Callable[..., None] = report, **more: Any) -> Hands:
        usual: dict[str, Any] = {"alive": self.home / "run" / "worker.alive", "patience": QUICK, "grace_s": 0.2}
        return Hands(
            self.store,
            lambda: self.parts,
            workers=self.home / "run" / "workers",
            jobs=self.home / "jobs",
            at_once=at_once,
            report=say,
            **{**usual, **more},
        )


def listing_of(entry_name: str, model: Bytes32, weights: Bytes32) -> Listing:
    return Listing(
        did=MODEL,
        name="GPT",
        task="text-generation",
        entry_name=entry_name,
        model_digest=model,
        chain_id=8996,
        nft=NFT,
        datatoken=NFT,
        exchange=Bytes32("0x" + "00" * 32),
        publisher=NFT,
        service_index=0,
        timeout_s=3600,
        rate=TokenWei(10**18),
        base_token=NFT,
        publish_fee=TokenWei(0),
        swap_fee=0,
        published_at=UnixSeconds(0),
        weights_digest=weights,
    )


@dataclass(frozen=True)
class Interrupted:
    """Stops the process at one point, and says so with a file."""

    home: Path
    point: str

    def __call__(self, point: str) -> None:
        if point == self.point:
            (self.home / "interrupted").touch()
            time.sleep(120)


if __name__ == "__main__":
    where = Path(sys.argv[1])
    JobMarket(where, Interrupted(where, sys.argv[2])).hands().work()
