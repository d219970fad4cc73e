"""A job's owner follows it with a stock client's requests; nobody else learns that there is one."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from control_plane.flows.job_receipts import leave_receipt
from control_plane.jobs.job import Job, Progress
from control_plane.jobs.states import Kind, State
from control_plane.receipts.receipt import Issued, response_hash
from tests.control_plane.jobs.asking import ALGORITHM, MODEL, ONE_WORKER, OTHER_MODEL, bring
from tests.control_plane.web.ocean_client import signed
from tests.fixtures_market import Market

COMPUTE, RESULT = "/api/services/compute", "/api/services/computeResult"


def bobs(market: Market, state: State, kind: Kind = Kind.EVALUATE) -> Job:
    return bring(market.services.jobs, kind, state, owner=market.wallet("bob").address)


def ask(market: Market, method: str, job_id: str, name: str = "bob", did: str = MODEL, **changes: Any) -> Any:
    address = market.wallet(name).address
    told = {"consumerAddress": address, "documentId": did, "jobId": job_id, **signed(market, name, f"{address}{job_id}{did}")}
    return market.client.open(COMPUTE, method=method, query_string=told | changes)


def result(market: Market, job_id: str, index: object = 0, name: str = "bob") -> Any:
    address = market.wallet(name).address
    told = {"consumerAddress": address, "jobId": job_id, "index": index, **signed(market, name, f"{address}{job_id}{index}")}
    return market.client.get(RESULT, query_string=told)


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (State.QUEUED, 1),
        (State.PROVISIONING, 20),
        (State.RUNNING, 40),
        (State.STORING, 50),
        (State.FINISHED, 70),
        (State.FAILED, 41),
    ],
)
def test_an_owner_sees_his_job_in_oceans_words(market: Market, state: State, code: int) -> None:
    job = bobs(market, state)
    (told,) = ask(market, "GET", job.job_id).get_json()
    assert (told["jobId"], told["owner"], told["status"]) == (job.job_id, market.wallet("bob").address, code)
    assert (told["agreementId"], told["algoDID"], told["inputDID"]) == (job.payment, ALGORITHM, [MODEL])
    assert bool(told["results"]) == (state in (State.FINISHED, State.FAILED))
    assert (told["dateFinished"] is not None) == (state in (State.FINISHED, State.FAILED))


def test_all_jobs_of_an_owner_are_listed_and_no_others(market: Market) -> None:
    mine = [bobs(market, State.QUEUED).job_id, bobs(market, State.QUEUED).job_id]
    bring(market.services.jobs, Kind.EVALUATE, State.QUEUED, owner=market.wallet("carol").address)
    address = market.wallet("bob").address
    told = {"consumerAddress": address, **signed(market, "bob", address)}
    assert [each["jobId"] for each in market.client.get(COMPUTE, query_string=told).get_json()] == mine[::-1]
    other = {"consumerAddress": address, "documentId": OTHER_MODEL, **signed(market, "bob", f"{address}{OTHER_MODEL}")}
    assert market.client.get(COMPUTE, query_string=other).get_json() == []


def test_the_place_in_the_queue_and_the_progress_are_told(market: Market) -> None:
    bobs(market, State.QUEUED)
    second = bobs(market, State.QUEUED)
    assert ask(market, "GET", second.job_id).get_json()[0]["statusText"] == "Warming up: number 2 in the queue"
    running = bobs_running(market)
    market.services.jobs.progress(running.job_id, ONE_WORKER, Progress(3, 10, 2.5))
    told = ask(market, "GET", running.job_id).get_json()[0]["posthuman"]["progress"]
    assert (told["step"], told["steps"], told["loss"]) == (3, 10, 2.5)


def bobs_running(market: Market) -> Job:
    for job in market.services.jobs.jobs_of(market.wallet("bob").address):
        market.services.jobs.request_stop(job.job_id)
    return bobs(market, State.RUNNING)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_nobody_else_learns_that_there_is_a_job(market: Market, method: str) -> None:
    job = bobs(market, State.RUNNING)
    foreign, unknown = ask(market, method, job.job_id, "mallory"), ask(market, method, "0" * 32, "mallory")
    assert foreign.status_code == unknown.status_code == 400
    assert foreign.get_json() == unknown.get_json()
    assert market.services.jobs.get(job.job_id).stop_requested_at is None
    assert result(market, job.job_id, name="mallory").status_code == 400


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_request_that_the_owner_did_not_sign_is_refused(market: Market, method: str) -> None:
    job = bobs(market, State.RUNNING)
    mallorys = signed(market, "mallory", f"{market.wallet('bob').address}{job.job_id}{MODEL}", 5)
    answer = ask(market, method, job.job_id, **mallorys)
    assert answer.get_json()["errors"] == {"signature": ["Invalid signature provided."]}
    unsigned = ask(market, method, job.job_id, signature="")
    assert unsigned.status_code == 400
    assert market.services.jobs.get(job.job_id).stop_requested_at is None


def test_a_request_is_good_once(market: Market) -> None:
    job, address = bobs(market, State.RUNNING), market.wallet("bob").address
    told = signed(market, "bob", f"{address}{job.job_id}{MODEL}")
    assert ask(market, "GET", job.job_id, **told).status_code == 200
    assert ask(market, "GET", job.job_id, **told).get_json()["code"] == "nonce_used"


def test_a_job_is_stopped_by_its_owner(market: Market) -> None:
    queued, running = bobs(market, State.QUEUED), None
    (told,) = ask(market, "PUT", queued.job_id).get_json()
    assert (told["status"], told["statusText"], told["stopreq"]) == (70, "Job stopped", 1)
    running = bobs(market, State.RUNNING)
    assert ask(market, "PUT", running.job_id).get_json()[0]["stopreq"] == 1
    assert market.services.jobs.get(running.job_id).stop_requested_at is not None


def test_the_receipt_of_a_batch_is_beside_its_result(market: Market) -> None:
    address = market.wallet("bob").address
    running, store = bring(market.services.jobs, Kind.INFER, State.RUNNING, owner=address), market.services.jobs
    assert store.begin(running.job_id, ONE_WORKER)
    along, answers = partial(leave_receipt, market.services.store), {"answers": "[]", "prompt_tokens": 3, "tokens": 2}
    job = store.advance(running.job_id, State.RUNNING, State.FINISHED, worker=ONE_WORKER, result=answers, along=along)
    (told,) = ask(market, "GET", job.job_id).get_json()
    assert [(each["filename"], each["type"]) for each in told["results"]] == [("result.json", "output"), ("receipt.json", "output")]
    issued = Issued.from_json(result(market, job.job_id, 1).get_json(force=True))
    assert issued.signed.receipt.response_hash == response_hash(issued.salt, result(market, job.job_id, 0).data)
    assert told["results"][1]["filesize"] == len(result(market, job.job_id, 1).data)


def test_a_job_that_is_over_is_not_stopped_and_says_so(market: Market) -> None:
    job = bobs(market, State.FINISHED)
    answer = ask(market, "PUT", job.job_id)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "job_over")
    assert ask(market, "DELETE", job.job_id).get_json()[0]["status"] == 70
    assert market.services.jobs.get(job.job_id).state is State.FINISHED


def test_deleting_a_running_job_stops_it_and_keeps_its_record(market: Market) -> None:
    job = bobs(market, State.RUNNING)
    assert ask(market, "DELETE", job.job_id).get_json()[0]["stopreq"] == 1
    assert market.services.jobs.get(job.job_id).stop_requested_at is not None


def test_a_result_is_read_by_its_owner_as_it_was_written(market: Market) -> None:
    job = bobs(market, State.FINISHED)
    (told,) = ask(market, "GET", job.job_id).get_json()
    (listed,) = told["results"]
    answer = result(market, job.job_id)
    assert json.loads(answer.data) == {"loss": 3.25}
    assert (listed["filename"], listed["type"], listed["filesize"]) == ("result.json", "output", len(answer.data))
    assert answer.headers["Content-Disposition"] == "attachment;filename=result.json"
    for index in (1, -1, "x"):
        assert result(market, job.job_id, index).status_code == 400


def test_a_failure_has_its_sentence_for_a_log(market: Market) -> None:
    job = bobs(market, State.FAILED)
    (told,) = ask(market, "GET", job.job_id).get_json()
    assert told["statusText"].startswith("Algorithm failed: the model did not fit")
    assert told["results"][0]["type"] == "algorithmLog"
    assert result(market, job.job_id).data.startswith(b"out_of_memory: the model did not fit")


def test_a_job_that_runs_has_no_result_yet(market: Market) -> None:
    assert result(market, bobs(market, State.RUNNING).job_id).status_code == 400


def test_a_document_that_is_not_the_jobs_is_refused(market: Market) -> None:
    job = bobs(market, State.RUNNING)
    assert ask(market, "GET", job.job_id, did=OTHER_MODEL).get_json()["code"] == "job_unknown"
