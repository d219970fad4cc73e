"""A worker and its jobs: each ends finished, stopped or failed with its reason, whatever breaks on the way, and derives once."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from c2d_adapter import carry
from c2d_adapter.engine import Outcome
from c2d_adapter.steps import clear
from control_plane.did import parse_address
from control_plane.errors import Refused, Unavailable
from control_plane.jobs.states import Kind, State
from control_plane.receipts.evaluation import SignedEvaluation
from control_plane.receipts.evaluations import Evaluations
from control_plane.receipts.receipt import request_hash, response_hash
from control_plane.receipts.workers import is_alive
from tests.control_plane.jobs.asking import held_by
from tests.fixtures_workers import BATCH, EVALUATION, TRAINING, done, market, ordered, wait, worker_process, working
from tests.simulators.jobs import LOG, STEPS, JobMarket

__all__ = ["market"]


def test_a_training_becomes_an_asset_and_leaves_its_weights_in_the_storage(market: JobMarket) -> None:
    found = done(market, ordered(market))
    assert (found.state, found.attempts, found.holds_payment) == (State.FINISHED, 1, True)
    assert found.result is not None and json.loads(found.result)["steps"] == STEPS
    assert found.progress is not None and found.progress.step == STEPS
    assert found.weights_digest is not None and found.weights_digest != market.models.listing.weights_digest
    assert (market.home / "objects" / "weights" / found.weights_digest[2:]).is_dir()
    assert market.assets.mintings() == [f"{found.job_id} {found.owner} 200 {found.weights_digest}"]
    assert found.derived_did is not None
    assert market.program.most_workers == 8  # as many as sequences in a batch


def test_an_evaluation_asks_the_served_model_and_is_signed(market: JobMarket) -> None:
    found = done(market, ordered(market, EVALUATION, Kind.EVALUATE))
    assert found.state is State.FINISHED and found.result is not None, found.reason
    statement = json.loads(json.loads(found.result)["statement"])
    assert statement["log"] == LOG and statement["evaluation"]["did"] == found.did
    assert set(market.server.callers) == {"jobs"} and market.assets.mintings() == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_found_is_published_once_if_that_was_asked_whatever_breaks(market: JobMarket, when: str) -> None:
    publish, broken, shown = market.parts.publish, [True], Evaluations(market.engine, time.time)

    def breaking(signed: SignedEvaluation) -> object:
        if broken and when == "before":
            broken.clear()
            raise Unavailable("the database does not answer")
        found = publish(signed)
        if broken:
            broken.clear()
            raise Unavailable("the database does not answer")
        return found

    market.parts = replace(market.parts, publish=breaking)
    quiet = done(market, ordered(market, EVALUATION, Kind.EVALUATE))
    assert quiet.state is State.FINISHED and shown.of_asset(quiet.did, 10) == []
    found = done(market, ordered(market, {**EVALUATION, "samples": 4, "publish": True}, Kind.EVALUATE))
    assert found.state is State.FINISHED and found.result is not None and not broken
    (published,) = shown.of_asset(found.did, 10)
    assert published.signed == SignedEvaluation.from_json(json.loads(json.loads(found.result)["statement"]))
    assert published.signed.evaluation.evaluator.lower() == found.owner


def test_a_batch_is_answered_by_the_served_model_and_leaves_one_receipt(market: JobMarket) -> None:
    found = done(market, ordered(market, BATCH, Kind.INFER))
    assert found.state is State.FINISHED and found.result is not None, found.reason
    result = json.loads(found.result)
    assert len(json.loads(result["answers"])) == 2
    (issued,) = market.receipts.receipts_of(order=found.payment)
    said, owner = issued.signed.receipt, parse_address(found.owner)
    assert (said.did, said.model_digest, said.consumer, said.sequence) == (found.did, found.model_digest, owner, 0)
    assert said.request_hash == request_hash(issued.salt, found.parameters.encode())
    assert said.response_hash == response_hash(issued.salt, found.result.encode())
    assert (said.units_in, said.units_out) == (result["prompt_tokens"], result["tokens"])
    assert found.begun_at is not None and said.started_at == int(found.begun_at * 1000)
    assert market.receipts.receipt_of_call(found.job_id) == issued


def test_jobs_of_other_kinds_leave_no_receipt(market: JobMarket) -> None:
    for parameters, kind in ((TRAINING, Kind.TRAIN), (EVALUATION, Kind.EVALUATE)):
        found = done(market, ordered(market, parameters, kind))
        assert found.state is State.FINISHED and market.receipts.receipts_of(order=found.payment) == ()


def test_several_jobs_are_done_at_once_up_to_the_setting(market: JobMarket) -> None:
    market.program.pause_s = 0.05
    jobs = [ordered(market) for _ in range(3)]
    with working(market, at_once=2) as (hands, lines):
        wait(lambda: len(held_by(market.store, hands.name)) == 2, lambda: lines)
        assert market.store.get(jobs[2].job_id).state is State.QUEUED
        wait(lambda: all(market.store.get(job.job_id).is_over for job in jobs), lambda: lines)
    assert len(market.assets.mintings()) == 3


def test_a_job_s_lines_hold_no_text_and_no_parameter(market: JobMarket) -> None:
    job = ordered(market, BATCH, Kind.INFER)
    with working(market) as (_, lines):
        wait(lambda: market.store.get(job.job_id).is_over, lambda: lines)
    assert [line["state"] for line in lines if line.get("job") == job.job_id] == ["provisioning", "running", "finished"]
    assert "the market" not in json.dumps(lines)


def test_a_stop_is_obeyed_while_the_program_runs_and_the_job_stays_paid(market: JobMarket) -> None:
    market.program.pause_s = 0.2
    job = ordered(market)
    with working(market) as (_, lines):
        wait(lambda: market.store.get(job.job_id).progress is not None, lambda: lines)
        market.store.request_stop(job.job_id)
        wait(lambda: market.store.get(job.job_id).is_over, lambda: lines)
    stopped = market.store.get(job.job_id)
    assert (stopped.state, stopped.holds_payment) == (State.STOPPED, True) and market.assets.mintings() == []


def test_a_worker_that_is_told_to_end_gives_its_job_to_the_next_which_goes_on(market: JobMarket) -> None:
    market.program.pause_s = 0.1
    job = ordered(market)
    with working(market) as (hands, lines):
        wait(lambda: market.store.get(job.job_id).progress is not None, lambda: lines)
    left = market.store.get(job.job_id)
    assert (left.state, left.worker, left.attempts) == (State.QUEUED, None, 0)
    assert not is_alive(market.home / "run" / "workers", hands.name)
    market.program.pause_s = 0.0
    assert done(market, job).state is State.FINISHED


def test_what_was_computed_counts_against_what_was_paid_over_all_workers(market: JobMarket) -> None:
    market.program.pause_s = 0.1
    job = ordered(market, paid_s=1)
    with working(market) as (_, lines):
        wait(lambda: market.store.get(job.job_id).progress is not None, lambda: lines)
        time.sleep(0.3)
    spent = float((market.parts.folder(job.job_id).path / "spent").read_text())
    assert 0.2 < spent < 1.0
    found = done(market, job)
    assert found.reason is not None and found.reason.code == "timed_out"
    assert found.state is State.FAILED and found.holds_payment


def test_an_engine_that_does_not_start_takes_nothing_of_the_paid_time(market: JobMarket) -> None:
    tries: list[float] = []

    def slow_to_fail(folder: Path, most_workers: int, timeout_s: float, *more: Any) -> Outcome:
        tries.append(timeout_s)
        if len(tries) == 1:
            time.sleep(0.6)
            raise Unavailable("Ray does not start")
        return market.program.run(folder, most_workers, timeout_s, *more)

    market.parts = replace(market.parts, train=slow_to_fail)
    assert done(market, ordered(market, paid_s=1)).state is State.FINISHED
    assert len(tries) == 2 and tries[1] > 0.9


def test_waiting_for_a_machine_takes_nothing_of_the_paid_time(market: JobMarket) -> None:
    market.program.wait_s = 1.2
    assert done(market, ordered(market, paid_s=1)).state is State.FINISHED


def test_time_that_a_program_waits_is_not_written_down_as_spent(market: JobMarket) -> None:
    market.program.wait_s, market.program.pause_s = 0.4, 0.02
    job = ordered(market)
    with working(market) as (_, lines):
        wait(lambda: market.store.get(job.job_id).progress is not None, lambda: lines)
    assert float((market.parts.folder(job.job_id).path / "spent").read_text()) < 0.4


@pytest.mark.parametrize("method", ["derive", "put"])
def test_a_step_that_is_slow_to_fail_is_not_tried_for_ever(method: str, market: JobMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion takes minutes until it says no."""

    def refuses(*_arguments: Any) -> Any:
        time.sleep(0.02)
        raise Refused("it does not answer as PyTorch does", code="parity_failed")

    monkeypatch.setattr(carry, "_CALM_S", 0.01)
    if method == "put":
        market.objects.put = refuses  # type: ignore[method-assign]
    else:
        market.parts = replace(market.parts, derive=refuses)
    found = done(market, ordered(market))
    assert (found.state, found.holds_payment) == (State.FAILED, False)


def test_what_was_stored_is_derived_though_the_job_s_folder_is_gone(market: JobMarket) -> None:
    def lose(point: str) -> None:
        if point == "stored":
            clear(market.parts, job.job_id)

    market.objects._at = lose
    job = ordered(market)
    found = done(market, job)
    assert found.state is State.FINISHED, found.reason
    assert market.assets.mintings() == [f"{found.job_id} {found.owner} 200 {found.weights_digest}"]


@pytest.mark.slow
@pytest.mark.parametrize("point", ["train", "trained", "put", "stored", "derive", "derived"])
def test_a_worker_killed_in_any_step_is_followed_by_one_that_ends_the_job(point: str, market: JobMarket) -> None:
    job, mark = ordered(market), market.home / "interrupted"
    with worker_process(market.home, point) as process:
        wait(mark.exists, (market.home / "lines").read_text)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    held = market.store.get(job.job_id)
    assert not held.is_over and held.worker is not None
    found = done(market, job)
    assert (found.state, found.attempts) == (State.FINISHED, 2)
    assert market.assets.mintings() == [f"{found.job_id} {found.owner} 200 {found.weights_digest}"]


def test_a_job_that_kills_its_worker_each_time_fails_in_the_end(market: JobMarket) -> None:
    job = ordered(market)
    for _ in range(5):
        market.store.reclaim(lambda _worker: False)
        assert market.store.claim("d" * 32) is not None
    found = done(market, job)
    assert found.state is State.FAILED and found.reason is not None and found.reason.code == "worker_lost"


def test_a_second_worker_s_sign_of_life_is_not_the_first_one_s(market: JobMarket) -> None:
    signs = [market.home / "run" / name for name in ("one", "other")]
    with working(market, alive=signs[0]):
        wait(signs[0].exists)
    left_at = signs[0].stat().st_mtime_ns
    with working(market, alive=signs[1]), working(market, alive=None):
        wait(signs[1].exists)
        touched_at = signs[1].stat().st_mtime_ns
        wait(lambda: signs[1].stat().st_mtime_ns > touched_at)
    assert signs[0].stat().st_mtime_ns == left_at
    assert {file.name for file in (market.home / "run").iterdir()} == {"one", "other", "workers"}


def test_a_worker_that_has_nothing_to_do_makes_ready_what_the_first_training_needs(market: JobMarket) -> None:
    warmed: list[float] = []
    began = time.monotonic()
    with working(market, warm=lambda: warmed.append(time.monotonic() - began), warm_after_s=0.3) as (hands, _):
        wait(lambda: bool(warmed))
        for _ in range(3):
            hands.tick()
    assert len(warmed) == 1 and warmed[0] >= 0.3


def test_what_cannot_be_made_ready_is_said_and_stops_nothing(market: JobMarket) -> None:
    def fail() -> None:
        raise Unavailable("Ray: expected processes for 1 workers within 120 s, found none")

    job = ordered(market, EVALUATION, Kind.EVALUATE)
    with working(market, warm=fail) as (_, lines):
        wait(lambda: any(line.get("step") == "warm" for line in lines) and market.store.get(job.job_id).is_over, lambda: lines)
    assert market.store.get(job.job_id).state is State.FINISHED


def test_after_a_training_nothing_is_made_ready_once_more(market: JobMarket) -> None:
    warmed: list[None] = []
    job = ordered(market)
    with working(market, warm=lambda: warmed.append(None)) as (hands, lines):
        wait(lambda: market.store.get(job.job_id).is_over, lambda: lines)
        wait(lambda: not hands._doing)
        hands.tick()
    assert warmed == []


def test_folders_of_jobs_that_are_over_are_removed_when_a_worker_begins(market: JobMarket) -> None:
    over, waiting = ordered(market), ordered(market)
    market.store.request_stop(over.job_id)
    for job in (over, waiting):
        market.parts.folder(job.job_id).path.mkdir(parents=True)
    (market.home / "jobs" / "not a job").mkdir()
    hands = market.hands(say=lambda _line: None)
    hands._sweep()
    assert sorted(path.name for path in (market.home / "jobs").iterdir()) == sorted([waiting.job_id, "not a job"])
