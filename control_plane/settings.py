"""Settings, read once from the environment; the only file of this package that reads it.

In: environment variables. Out: a frozen `Settings`. This module must never open a connection or make a key.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from control_plane.did import Address, TokenWei, parse_address
from control_plane.errors import BadInput
from converters.pbtxt import PROVIDERS

MOST_CONCURRENCY = 4096
"""Places that the gate can tell apart for one session or one buyer (`serving/slots.py`)."""
MOST_SWAP_FEE = 5 * 10**17
"""Of an exchange, in 10**-18: Ocean's contract refuses more than half of the price."""
_MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
ALGORITHMS = ("train", "evaluate", "infer")
"""Kinds of job. `POSTHUMAN_ALGORITHM_TRAIN` and so on name the data NFT of each one's algorithm."""
PRECISIONS = ("fp32", "bf16", "fp16")
DEEPSPEED = ("deepspeed-zero2", "deepspeed-zero3")
SHARDINGS = ("ddp", "fsdp", *DEEPSPEED)
"""How processes share a training: each holds the model; each a part of it; the same by DeepSpeed, without and with the weights."""
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class JobSettings:
    """What Compute-to-Data jobs run on, and what their time costs.

    price: wei of OCEAN a minute; 0: both environments are free. max_s: seconds that one order may pay for. queue: jobs under way at
    once, waiting ones among them. free_s, free_queue: the same of the free environment; free_s 0: there is none. derived,
    derived_of_owner: models made by trainings that may be on sale, of all and of one trainer. kept_s: how long a
    result is kept at least. What it runs on is asked of Ray for each job, and told to buyers.
    warm_after_s: seconds without a training after which a worker starts Ray and a program's process for the first one; 0: that one
    does. wait_s: seconds that a training waits for a machine with room until it fails. at_once: jobs that a worker does at a time.
    workers: processes that share a training. sharding: how, one of SHARDINGS.
    ram_limit_gb: of a training, where the operator named a size; None: no limit, and Ray is not asked for memory.
    wikitext: the folder with WikiText-2, see `c2d_adapter/texts.py`. ray_address: of a cluster; blank: a Ray is started here.
    """

    price: TokenWei
    max_s: int
    queue: int
    free_s: int
    free_queue: int
    derived: int
    derived_of_owner: int
    kept_s: int
    cpus: int
    cpu_type: str
    gpus: int
    gpu_type: str
    ram_gb: int
    disk_gb: int
    warm_after_s: int
    wait_s: int
    at_once: int
    workers: int
    sharding: str
    ram_limit_gb: int | None
    wikitext: Path | None
    ray_address: str

    @property
    def precisions(self) -> tuple[str, ...]:
        """That a training's arithmetic may have. DeepSpeed's own way with fp16 was not tried, so it is not sold."""
        return PRECISIONS[:2] if self.workers > 1 and self.sharding in DEEPSPEED else PRECISIONS


@dataclass(frozen=True)
class Settings:
    """Everything a deployment may choose. Defaults are the embedded stack's.

    home: the state folder; nothing is written outside it. models: the folder Triton reads, one entry a subfolder.
    log_nft: the data NFT that anchors this operator's log; None before `posthuman up` has made it. algorithms: kind of job to the
    data NFT of its algorithm; empty before `posthuman up` has published them.
    swap_fee: share of each purchase that goes to the operator, in 10**-18, of assets that are published from now on.
    s3_encryption: how the object storage shall encrypt what it keeps (`AES256`, `aws:kms`, `aws:kms:<key id>`); blank: as it likes.
    providers: ONNX Runtime's providers for every entry, the preferred first. engine_cache: where TensorRT engines are kept.
    internal_files: `host:port` of servers inside the network that assets' files may lie on; max_file_bytes: of one such file.
    max_prompt_tokens: of one text; None: as many as its model can read.
    session_concurrency, buyer_concurrency: calls under way at once. session_rate: calls a minute; 0: any number.
    confirmations: blocks an order, a key or an anchor needs, its own included, before it counts; None: the chain's default.
    """

    home: Path
    rpc_url: str
    chain_id: int
    confirmations: int | None
    public_url: str
    triton_url: str
    triton_key: str
    database_url: str
    s3_url: str
    s3_bucket: str
    s3_key_id: str
    s3_secret: str
    s3_encryption: str
    operator_key_file: Path
    checkpoint_key_file: Path
    log_nft: Address | None
    provider_fee: TokenWei
    publish_fee: TokenWei
    swap_fee: int
    order_timeout_s: int
    session_ttl_s: int
    session_calls: int
    session_concurrency: int
    buyer_concurrency: int
    session_rate: int
    max_body_bytes: int
    max_new_tokens: int
    max_prompt_tokens: int | None
    call_timeout_s: float
    queue_timeout_s: float
    idempotency_kept_s: int
    idempotency_max_bytes: int
    merge_delay_s: int
    checkpoint_interval_s: float
    anchor_interval_s: float
    anchor_receipts: int
    web_port: int
    web_workers: int
    web_threads: int
    jobs: JobSettings
    providers: tuple[str, ...] = ("cpu",)
    engine_cache: Path | None = None
    algorithms: Mapping[str, Address] = field(default_factory=dict)
    internal_files: frozenset[str] = frozenset()
    max_file_bytes: int = 1 << 28

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def weights(self) -> Path:
        """Trainable forms of what is on sale; never served."""
        return self.home / "weights"

    @property
    def workers_folder(self) -> Path:
        """One lock for each process that answers calls or runs jobs."""
        return self.home / "run" / "workers"

    @property
    def metrics_folder(self) -> Path:
        """What those processes count together."""
        return self.home / "run" / "metrics"

    @property
    def log_folder(self) -> Path:
        return self.home / "log"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read `POSTHUMAN_*`; the supervisor writes `<home>/environment.json` with the ports it chose, which fills what is unset.

    Raises BadInput naming the variable when a value is not what it should be.
    """
    from control_plane.state import read_environment_file  # the file's own format; kept apart from the choices made here

    given = dict(os.environ if environ is None else environ)
    home = Path(given.get("POSTHUMAN_HOME") or REPOSITORY / ".posthuman").resolve()
    given = {**read_environment_file(home), **given}

    def text(name: str, default: str) -> str:
        return given.get(f"POSTHUMAN_{name}") or default

    def whole(name: str, default: int, low: int = 0, high: int = 2**256 - 1) -> int:
        found = text(name, str(default))
        if not (found.isascii() and found.isdigit() and len(found) <= 78) or not low <= int(found) <= high:
            expected = f"a whole number from {low}" + ("" if high == 2**256 - 1 else f" to {high}")
            raise BadInput(f"POSTHUMAN_{name}", expected, found)
        return int(found)

    def seconds(name: str, default: float) -> float:
        found = text(name, str(default))
        try:
            value = float(found)
        except ValueError:
            value = -1.0
        if not value > 0:
            raise BadInput(f"POSTHUMAN_{name}", "a number of seconds above 0", found)
        return value

    nft = text("LOG_NFT", "")
    deep = text("CONFIRMATIONS", "")
    return Settings(
        home=home,
        rpc_url=text("RPC_URL", "http://127.0.0.1:8545"),
        chain_id=whole("CHAIN_ID", 8996, 1),
        confirmations=whole("CONFIRMATIONS", 1, 1) if deep else None,
        public_url=text("PUBLIC_URL", "http://127.0.0.1:8030").rstrip("/"),
        triton_url=text("TRITON_URL", "http://127.0.0.1:8000").rstrip("/"),
        triton_key=text("TRITON_KEY", ""),
        database_url=text("DATABASE_URL", f"sqlite:///{home / 'posthuman.db'}"),
        s3_url=text("S3_URL", ""),
        s3_bucket=text("S3_BUCKET", "posthuman"),
        s3_key_id=text("S3_KEY_ID", ""),
        s3_secret=text("S3_SECRET", ""),
        s3_encryption=text("S3_ENCRYPTION", ""),
        operator_key_file=Path(text("OPERATOR_KEY_FILE", str(home / "keys" / "operator.json"))),
        checkpoint_key_file=Path(text("CHECKPOINT_KEY_FILE", str(home / "keys" / "checkpoint.pem"))),
        log_nft=parse_address(nft, "POSTHUMAN_LOG_NFT") if nft else None,
        provider_fee=TokenWei(whole("PROVIDER_FEE_WEI", 10**16)),
        publish_fee=TokenWei(whole("PUBLISH_FEE_WEI", 5 * 10**16)),
        swap_fee=whole("SWAP_FEE", 0, 0, MOST_SWAP_FEE),
        order_timeout_s=whole("ORDER_TIMEOUT_S", 30 * 24 * 3600, 1),
        session_ttl_s=whole("SESSION_TTL_S", 12 * 3600, 1),
        session_calls=whole("SESSION_CALLS", 100_000, 1),
        session_concurrency=whole("SESSION_CONCURRENCY", 64, 1, MOST_CONCURRENCY),
        buyer_concurrency=whole("BUYER_CONCURRENCY", 128, 1, MOST_CONCURRENCY),
        session_rate=whole("SESSION_RATE", 0, 0, 10**9),
        max_body_bytes=whole("MAX_BODY_BYTES", 4 << 20, 1),
        max_new_tokens=whole("MAX_NEW_TOKENS", 4096, 1),
        max_prompt_tokens=whole("MAX_PROMPT_TOKENS", 1, 1) if text("MAX_PROMPT_TOKENS", "") else None,
        call_timeout_s=seconds("CALL_TIMEOUT_S", 120.0),
        queue_timeout_s=seconds("QUEUE_TIMEOUT_S", 30.0),
        idempotency_kept_s=whole("IDEMPOTENCY_KEPT_S", 24 * 3600, 1),
        idempotency_max_bytes=whole("IDEMPOTENCY_MAX_BYTES", 1 << 20, 0),
        merge_delay_s=whole("MERGE_DELAY_S", 3600, 1, 7 * 24 * 3600),  # `verify` takes no longer promise
        checkpoint_interval_s=seconds("CHECKPOINT_INTERVAL_S", 1.0),
        anchor_interval_s=seconds("ANCHOR_INTERVAL_S", 600.0),
        anchor_receipts=whole("ANCHOR_RECEIPTS", 10_000, 1),
        web_port=whole("WEB_PORT", 8030, 1),
        web_workers=whole("WEB_WORKERS", 2, 1),
        web_threads=whole("WEB_THREADS", 64, 1),
        jobs=JobSettings(
            price=TokenWei(whole("JOB_PRICE_WEI", 10**16)),
            max_s=whole("JOB_MAX_S", 7 * 24 * 3600, 1, 2**31 - 1),
            queue=whole("JOB_QUEUE", 100, 1, 2**31 - 1),
            free_s=whole("JOB_FREE_S", 600, 0, 2**31 - 1),
            free_queue=whole("JOB_FREE_QUEUE", 8, 1, 2**31 - 1),
            derived=whole("JOB_DERIVED", 200, 1, 2**31 - 1),
            derived_of_owner=whole("JOB_DERIVED_OF_OWNER", 25, 1, 2**31 - 1),
            kept_s=whole("JOB_KEPT_S", 30 * 24 * 3600, 1, 2**31 - 1),
            cpus=whole("JOB_CPUS", os.cpu_count() or 1, 1, 4096),
            cpu_type=text("JOB_CPU_TYPE", platform.machine() or "cpu"),
            gpus=whole("JOB_GPUS", 0, 0, 4096),
            gpu_type=text("JOB_GPU_TYPE", ""),
            ram_gb=whole("JOB_RAM_GB", max(_MEMORY_BYTES >> 30, 1), 1, 2**20),
            disk_gb=whole("JOB_DISK_GB", 10, 1, 2**20),
            warm_after_s=whole("JOB_WARM_AFTER_S", 300, 0, 2**31 - 1),
            wait_s=whole("JOB_WAIT_S", 3600, 1, 2**31 - 1),
            at_once=whole("JOB_AT_ONCE", 1, 1, 1024),
            workers=whole("JOB_WORKERS", 1, 1, 1024),
            sharding=_sharding(text("JOB_SHARDING", "ddp")),
            ram_limit_gb=whole("JOB_RAM_GB", 1, 1, 2**20) if text("JOB_RAM_GB", "") else None,
            wikitext=_folder("WIKITEXT", text("WIKITEXT", "")),
            ray_address=given.get("RAY_ADDRESS", ""),  # by Ray's own name, as its users have it set
        ),
        providers=_providers(text("PROVIDERS", "cpu")),
        engine_cache=Path(text("ENGINE_CACHE", str(home / "cache" / "engines"))),
        algorithms={
            kind: parse_address(found, name)
            for kind in ALGORITHMS
            if (found := given.get(name := f"POSTHUMAN_ALGORITHM_{kind.upper()}"))
        },
        internal_files=_places(text("INTERNAL_FILES", "")),
        max_file_bytes=whole("MAX_FILE_BYTES", 1 << 28, 1),
    )


def _sharding(text: str) -> str:
    if text not in SHARDINGS:
        raise BadInput("POSTHUMAN_JOB_SHARDING", f"one of {', '.join(SHARDINGS)}", text)
    if text in DEEPSPEED and find_spec("deepspeed") is None:
        command = ".venv/bin/pip install -c constraints/main.txt -e '.[deepspeed]'"
        raise BadInput("POSTHUMAN_JOB_SHARDING", f"ddp or fsdp, or DeepSpeed installed first ({command})", text)
    return text


def _folder(name: str, text: str) -> Path | None:
    if text and not Path(text).is_dir():
        raise BadInput(f"POSTHUMAN_{name}", "a folder", text)
    return Path(text).resolve() if text else None


def _providers(text: str) -> tuple[str, ...]:
    """As they are listed; `cpu` last, as the one that has every operator."""
    found = tuple(text.split(","))
    if found != tuple(provider for provider in PROVIDERS if provider in found) or "cpu" not in found:
        raise BadInput("POSTHUMAN_PROVIDERS", f"some of {','.join(PROVIDERS)} in this order, cpu among them", text)
    return found


def _places(text: str) -> frozenset[str]:
    """`host:port`, separated by commas."""
    found = frozenset(each.strip() for each in text.split(",") if each.strip())
    if not all(re.fullmatch(r"[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}", each) for each in found):
        raise BadInput("POSTHUMAN_INTERNAL_FILES", "host:port, separated by commas", text)
    return found
