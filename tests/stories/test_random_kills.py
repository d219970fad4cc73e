"""Fifty processes die, each by kill -9 at a random moment of a training job: every job ends, and each leaves one asset.

The whole stack of real parts runs: chain, object storage, Triton, web, keeper, the jobs' worker, Ray. `POSTHUMAN_KILL_SEED` chooses
another plan; what happened stands in `.posthuman/reliability/kills.json`, from which `docs/reliability.md` has its figures.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from bench.report import machine
from control_plane.chain.contracts import events, topic
from control_plane.chain.ledger import Rights
from control_plane.chain.ocean import open_ledger
from control_plane.chain.rpc import Rpc
from control_plane.database import open_database
from control_plane.did import Address, Did, TransactionHash, parse_did
from control_plane.errors import OutcomeUnknown, PosthumanError
from control_plane.jobs.environments import PAID
from control_plane.jobs.job import Job
from control_plane.jobs.states import FAILURES, State
from control_plane.jobs.store import JobStore
from control_plane.receipts.receipt import Issued
from control_plane.wiring import open_catalogue
from deploy.buyer import BuyerFiles
from deploy.job_trading import Wanted, order_job
from deploy.local.chain import local_account
from deploy.local.control import read_status
from deploy.market import Market
from deploy.trading import buy, call
from tests.converters.tiny_models import tiny_model
from tests.fixtures_outsider import Outsider
from tests.fixtures_stack import REPOSITORY, LiveStack, running_stack
from tests.half_failures.test_publish_writes import created_nfts
from tests.killing import CONVERTING, ORDERING, OVER, PUBLISHING, Kill, Killed, Stand, plan

pytestmark = [pytest.mark.live, pytest.mark.long]

SEED = int(os.environ.get("POSTHUMAN_KILL_SEED", "20261128"))
FIGURES = REPOSITORY / ".posthuman" / "reliability" / "kills.json"
ENDS_WITHIN_S = 180.0
"""A job is over so long after the last kill at most, or it is stuck."""
HEALED_WITHIN_S = 90.0
"""Every component is ready again, and the market answers, so long after a job's end at most."""
_AIM_EVERY_S = 0.3
MINTED = 200 * 10**18
TRAINING = {"dataset": "wikitext-2", "steps": 600, "batch_size": 4, "learning_rate": 1e-3, "sequence_length": 32}
_MOMENTS = ("queued", "provisioning", "running", "storing", CONVERTING, PUBLISHING)
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """Nobody else's: what is killed here would disturb others."""
    home = tmp_path_factory.mktemp("killed") / "home"
    home.mkdir()
    with running_stack(home, POSTHUMAN_JOB_CPUS="1") as one:  # on a busy machine two threads of a tiny model wait for each other
        yield one


class Trader:
    """Somebody with a wallet, who tries again what he is told to try again."""

    def __init__(self, stack: LiveStack, name: str) -> None:
        settings = stack.settings
        self.wallet, self.chain_id = local_account(name), settings.chain_id
        self.market = Market(settings.public_url, timeout_s=30)
        self.files = BuyerFiles(stack.home, self.wallet.address)
        self.ledger = open_ledger(settings.rpc_url, settings.chain_id, self.files.folder / "outbox", settings.confirmations)

    def order_job(self, did: Did, parameters: dict[str, Any], order: TransactionHash | None) -> str:
        wanted = Wanted("train", did, parameters, PAID, 600, order)
        return str(persist(lambda: order_job(self.market, self.ledger, self.wallet, self.files, wanted))["job_id"])

    def buy_and_call(self, did: Did) -> tuple[TransactionHash, Issued]:
        bought = persist(lambda: buy(self.market, self.ledger, self.wallet, self.files, did))
        body = {"model": did, "prompt": "The market", "max_tokens": 4, "temperature": 0}
        answered, _ = persist(lambda: call(self.market, self.wallet, self.files, did, self.chain_id, body))
        return bought.sent.transaction, Issued.from_json(answered.receipt)


def persist(act: Callable[[], Result]) -> Result:
    """Do it, again while the market or the node says that it may work later."""
    until = time.monotonic() + HEALED_WITHIN_S
    while True:
        try:
            return act()
        except PosthumanError as error:
            if not isinstance(error, OutcomeUnknown) and error.retry_after_s is None:
                raise
            assert time.monotonic() < until, f"not healed: {error.code} {error.message}"
            time.sleep(0.3)


class Life:
    """One job from its order to its end, and who dies meanwhile."""

    def __init__(self, stack: LiveStack, stand: Stand, store: JobStore) -> None:
        self.stack, self.stand, self.store = stack, stand, store
        self.killed: list[Killed] = []
        self.job_id: str | None = None

    def ordered(self, order: Callable[[], str], kills: list[Kill]) -> None:
        timers = [threading.Timer(kill.after_s, self._kill, (kill,)) for kill in kills if kill.moment == ORDERING]
        for timer in timers:
            timer.start()
        self.job_id = order()
        for timer in timers:
            timer.join()

    def lived(self, kills: list[Kill]) -> Job:
        """The job when it is over. A moment that passed unseen, or comes no more, is met with the next one."""
        coming = [kill for kill in kills if kill.moment not in (ORDERING, OVER)]
        until, aimed, look_at = time.monotonic() + ENDS_WITHIN_S, None, 0.0
        while True:
            job, begun = self._job(), self._begun()
            if coming and (job.is_over or begun >= _MOMENTS.index(coming[0].moment)):
                kill = coming.pop(0)
                time.sleep(kill.after_s if not job.is_over and begun == _MOMENTS.index(kill.moment) else 0.0)
                self._kill(kill, aimed)
                until, aimed, look_at = time.monotonic() + ENDS_WITHIN_S, None, 0.0
            elif coming and time.monotonic() > look_at:
                aimed, look_at = self.stand.aim(coming[0]), time.monotonic() + _AIM_EVERY_S
            elif job.is_over:
                return job
            assert time.monotonic() < until, f"stuck: {job}, after {self.killed}\n{self._log('worker')}\n{self._log('supervisor')}"
            time.sleep(0.002)

    def _begun(self) -> int:
        """The moment that the job has come to: its state, and in the last one whether the entry is there."""
        state = self._job().state
        if state is not State.DERIVING:
            return _MOMENTS.index(state.value) if state.value in _MOMENTS else 0
        is_converted = f'"job": "{self.job_id}", "derive": "install"' in self._log("worker")
        return _MOMENTS.index(PUBLISHING if is_converted else CONVERTING)

    def outlived(self, kills: list[Kill]) -> None:
        for kill in kills:
            if kill.moment == OVER:
                time.sleep(kill.after_s)
                self._kill(kill)

    def _kill(self, kill: Kill, aimed: psutil.Process | None = None) -> None:
        self.killed.append(self.stand.kill(kill, lambda: ORDERING if self.job_id is None else self._job().state.value, aimed))

    def _job(self) -> Job:
        assert self.job_id is not None
        return self.store.get(self.job_id)

    def _log(self, name: str) -> str:
        return (self.stack.home / "logs" / f"{name}.log").read_text(errors="replace")[-3000:]


def _is_alive(part: Mapping[str, Any]) -> bool:
    """The supervisor may not have looked yet."""
    try:
        return psutil.Process(part["pid"]).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_ready(stack: LiveStack) -> None:
    until = time.monotonic() + HEALED_WITHIN_S
    while (status := read_status(stack.home))["state"] != "ready" or not all(map(_is_alive, status["components"])):
        assert time.monotonic() < until, [(part["name"], part["state"], part["reason"]) for part in status["components"]]
        time.sleep(0.1)


def await_log(outsider: Outsider, bought: tuple[TransactionHash, Issued]) -> None:
    """The first call was answered: its receipt is in the log a second later."""
    outsider.receipts.append(bought[1])
    until = time.monotonic() + HEALED_WITHIN_S
    while outsider.log().read("checkpoint") is None:
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.1)


def orders_of(stack: LiveStack, datatoken: Address, payer: Address) -> int:
    """How often somebody paid, as the chain has it."""
    rpc = Rpc(stack.settings.rpc_url, stack.settings.chain_id)
    logs = rpc.logs(datatoken, [topic("ERC20Template", "OrderStarted")], 0, rpc.head().number)
    return sum(values["payer"] == payer for _, values in events("ERC20Template", "OrderStarted", logs, datatoken))


def test_fifty_random_kills_leave_one_asset_a_job_and_no_job_stuck(own_stack: LiveStack, tmp_path: Path) -> None:
    stack, settings = own_stack, own_stack.settings
    print(f"POSTHUMAN_KILL_SEED={SEED}")
    folder = tiny_model(tmp_path / "tiny-gpt2", "gpt2", "LMHeadModel")
    ran = stack.run("publish", str(folder), "--as", "alice", "--price", "1", "--name", "Tiny", "--licence", "apache-2.0", "--json")
    assert ran.code == 0, ran.out + ran.err
    model = parse_did(ran.json["did"])
    store = JobStore(open_database(settings.database_url))
    bob, derek = Trader(stack, "bob"), Trader(stack, "derek")
    outsider = Outsider(settings.public_url, settings.rpc_url, settings.chain_id)
    stand, began = Stand(stack.home, settings.rpc_url, settings.chain_id, SEED), time.monotonic()
    jobs, killed, payments = list[dict[str, Any]](), list[Killed](), set[str]()
    given_back: TransactionHash | None = None
    await_log(outsider, derek.buy_and_call(model))
    for number, kills in enumerate([[], *plan(SEED)]):  # the first job is left alone: it makes Ray warm, and shows what is usual
        life, ordered_at = Life(stack, stand, store), time.monotonic()
        parameters = {**TRAINING, "seed": number}
        life.ordered(lambda parameters=parameters, paid=given_back: bob.order_job(model, parameters, paid), kills)
        job = life.lived(kills)
        ended_at = time.monotonic()
        life.outlived(kills)
        killed += life.killed
        payments.add(job.payment)
        await_ready(stack)
        jobs.append({"state": job.state.value, "attempts": job.attempts, "seconds": round(ended_at - ordered_at, 1)})
        jobs[-1] |= {"reason": None if job.reason is None else job.reason.code, "kills": [asdict(each) for each in life.killed]}
        print(json.dumps(jobs[-1]))
        given_back = check_end(job, store)
        finished = sum(each["state"] == State.FINISHED for each in jobs)
        assert created_nfts(settings.rpc_url, bob.wallet.address, 0) == finished
        assert orders_of(stack, open_catalogue(settings).find(model).datatoken, bob.wallet.address) == len(payments)
        if job.derived_did is not None:
            check_asset(stack, job)
            order, receipt = derek.buy_and_call(job.derived_did)
            outsider.orders.append((order, job.derived_did))
            outsider.receipts.append(receipt)
        persist(outsider.check)
    assert len(killed) == sum(len(kills) for kills in plan(SEED)) == 50
    met = Counter(each.state for each in killed)
    assert all(met[state] for state in ("provisioning", "running", "storing", "deriving")), met
    record = {"seed": SEED, "machine": machine(), "seconds": round(time.monotonic() - began), "jobs": jobs}
    record |= {"ends_within_s": ENDS_WITHIN_S, "calls": len(outsider.receipts), "load": round(os.getloadavg()[2], 1)}
    FIGURES.parent.mkdir(parents=True, exist_ok=True)
    FIGURES.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def check_end(job: Job, store: JobStore) -> TransactionHash | None:
    """It ended as it may; a failure has its reason and gives its payment back, which is returned for another job."""
    job = store.get(job.job_id)
    assert job.state is State.FINISHED or (job.state in FAILURES and job.reason is not None), job
    assert job.holds_payment is (job.state is State.FINISHED), job
    return None if job.holds_payment else job.payment


def check_asset(stack: LiveStack, job: Job) -> None:
    """What the chain says of what was trained: Bob's, minted once, out of the platform's hands."""
    assert job.derived_did is not None
    settings, bob, operator = stack.settings, local_account("bob").address, local_account("operator").address
    listing = open_catalogue(settings).find(job.derived_did)
    ledger = open_ledger(settings.rpc_url, settings.chain_id, stack.home / "outbox", settings.confirmations)
    assert (listing.state, listing.publisher, listing.weights_digest) == ("on_sale", bob, job.weights_digest)
    assert ledger.asset(listing.nft).owner == bob
    assert ledger.minted(listing.datatoken, bob) == (MINTED,)
    assert ledger.rights(listing.nft, listing.datatoken, operator) == Rights()
    assert not (stack.home / "jobs" / job.job_id).exists()
