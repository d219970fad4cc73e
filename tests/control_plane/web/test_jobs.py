"""Jobs over our own surface: an order that pays for jobs pays for no calls, and only its owner sees what came of it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from control_plane.chain.fees import compute_time, sign_provider_fee
from control_plane.did import Did, TokenWei, TransactionHash, UnixSeconds
from control_plane.errors import Conflict
from control_plane.flows.offer import Offer
from control_plane.jobs.architectures import UNTRAINABLE
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.job import Progress, Reason
from control_plane.jobs.states import State
from tests.fixtures_jobs import index, jobs_market, offered, pay
from tests.fixtures_market import ONE, PROMPT_CANARY, Market

__all__ = ["jobs_market"]

WORKER = "e" * 32


def sign_in(market: Market, name: str, order: TransactionHash) -> str:
    return market.sign_in(name, market.gpt, order)


def ask(market: Market, token: str, **fields: Any) -> Any:
    body = {"kind": "train", "parameters": {"steps": 20}, "environment": PAID, **fields}
    return market.client.post("/v1/jobs", json=body, headers=market.bearer(token))


def get(market: Market, token: str, path: str = "/v1/jobs") -> Any:
    return market.client.get(path, headers=market.bearer(token))


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.get_json()["error"]["code"]


def ordered(market: Market, name: str = "bob", **fields: Any) -> tuple[str, dict[str, Any]]:
    token = sign_in(market, name, pay(market, name))
    answer = ask(market, token, **fields)
    assert answer.status_code == 200, answer.get_json()
    return token, answer.get_json()


def test_a_paid_order_puts_a_job_into_the_queue_and_repeating_gives_the_same_job(jobs_market: Market) -> None:
    token, job = ordered(jobs_market)
    assert (job["state"], job["status"], job["queue_position"], job["paid_s"]) == ("queued", 1, 1, 600)
    assert (job["owner"], job["did"]) == (jobs_market.wallet("bob").address, jobs_market.gpt.did)
    assert job["parameters"]["steps"] == 20 and job["parameters"]["batch_size"] == 8
    assert job["algorithm_did"] == jobs_market.client.get("/v1/algorithms").get_json()["algorithms"][0]["did"]
    assert ask(jobs_market, token).get_json()["job_id"] == job["job_id"]
    assert [each["job_id"] for each in get(jobs_market, token).get_json()["jobs"]] == [job["job_id"]]


def test_one_payment_pays_for_one_job(jobs_market: Market) -> None:
    token, _ = ordered(jobs_market)
    assert code_of(ask(jobs_market, token, parameters={"steps": 21})) == (409, "payment_used")


def test_an_order_of_jobs_pays_for_no_call_and_an_order_of_calls_for_no_job(jobs_market: Market) -> None:
    for_jobs = sign_in(jobs_market, "bob", pay(jobs_market, "bob"))
    assert code_of(jobs_market.complete(for_jobs)) == (403, "order_for_jobs")
    for_calls = jobs_market.sign_in("bob", jobs_market.gpt)
    assert jobs_market.complete(for_calls).status_code == 200
    for answer in (ask(jobs_market, for_calls), get(jobs_market, for_calls)):
        assert code_of(answer) == (403, "order_for_calls")


def test_a_job_is_shown_to_its_owner_alone(jobs_market: Market) -> None:
    bobs, job = ordered(jobs_market)
    carols = sign_in(jobs_market, "carol", pay(jobs_market, "carol"))
    path = f"/v1/jobs/{job['job_id']}"
    assert get(jobs_market, bobs, path).get_json()["job_id"] == job["job_id"]
    assert get(jobs_market, carols).get_json() == {"jobs": []}
    assert code_of(get(jobs_market, carols, path)) == (404, "job_unknown")
    assert code_of(jobs_market.client.post(f"{path}/stop", headers=jobs_market.bearer(carols))) == (404, "job_unknown")
    assert jobs_market.client.get(path).status_code == 401


def test_nobody_signs_in_with_the_order_of_another(jobs_market: Market) -> None:
    text = jobs_market.message("carol", jobs_market.gpt.did, pay(jobs_market, "bob"))
    assert code_of(jobs_market.hand_in(text, jobs_market.sign("carol", text))) == (403, "order_not_yours")


def test_a_job_is_followed_also_when_its_order_has_ended(jobs_market: Market) -> None:
    order = pay(jobs_market, "bob", duration_s=60)
    job = ask(jobs_market, sign_in(jobs_market, "bob", order)).get_json()
    jobs_market.clock.now += 3000
    token = sign_in(jobs_market, "bob", order)
    assert get(jobs_market, token, f"/v1/jobs/{job['job_id']}").status_code == 200


def test_an_ended_order_starts_no_job(jobs_market: Market) -> None:
    order = pay(jobs_market, "bob", duration_s=60)
    jobs_market.clock.now += 61
    assert code_of(ask(jobs_market, sign_in(jobs_market, "bob", order))) == (403, "order_expired")


def test_progress_and_reason_are_shown(jobs_market: Market) -> None:
    token, job = ordered(jobs_market)
    store, path = jobs_market.services.jobs, f"/v1/jobs/{job['job_id']}"
    assert store.claim(WORKER) is not None
    store.advance(job["job_id"], State.PROVISIONING, State.RUNNING, worker=WORKER)
    store.progress(job["job_id"], WORKER, Progress(5, 20, 3.5, 2.0))
    shown = get(jobs_market, token, path).get_json()
    assert (shown["status"], shown["queue_position"]) == (40, None)
    assert shown["progress"] == {"step": 5, "steps": 20, "loss": 3.5, "steps_per_second": 2.0}
    store.advance(job["job_id"], State.RUNNING, State.FAILED, worker=WORKER, reason=Reason("out_of_memory", "too large a batch"))
    shown = get(jobs_market, token, path).get_json()
    assert (shown["status"], shown["reason"]["code"], shown["is_payment_given_back"]) == (41, "out_of_memory", True)
    again = ask(jobs_market, token, parameters={"steps": 20, "batch_size": 1}).get_json()
    assert again["job_id"] != job["job_id"] and again["payment"] == job["payment"]


def test_a_queued_job_is_stopped_at_once_and_its_payment_is_good_again(jobs_market: Market) -> None:
    token, job = ordered(jobs_market)
    stop = f"/v1/jobs/{job['job_id']}/stop"
    stopped = jobs_market.client.post(stop, headers=jobs_market.bearer(token)).get_json()
    assert (stopped["state"], stopped["is_payment_given_back"], stopped["status_text"]) == ("stopped", True, "Job stopped")
    assert ask(jobs_market, token, parameters={"steps": 3}).status_code == 200


def test_an_offer_says_what_the_time_costs_and_its_fee_is_for_that_environment(jobs_market: Market) -> None:
    answer = offered(jobs_market, "bob", duration_s=90).get_json()
    offer = Offer.from_json(answer["offer"])
    time = compute_time(offer.provider_fee)
    assert time is not None and (time.environment, time.seconds) == (PAID, 90)
    assert offer.provider_fee.amount == jobs_market.services.settings.jobs.price * 90 // 60
    assert offer.service_index == 1 and answer["parameters"]["steps"] == 20
    free = Offer.from_json(offered(jobs_market, "bob", environment=FREE, duration_s=90).get_json()["offer"])
    assert free.provider_fee.amount == 0


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"parameters": {"steps": 0}}, 400, "bad_input"),
        ({"parameters": {"steps": 10**9}}, 400, "bad_input"),
        ({"parameters": {"code": "import os"}}, 400, "unknown_parameter"),
        ({"parameters": []}, 400, "bad_input"),
        ({"kind": "steal"}, 400, "bad_input"),
        ({"environment": "moon"}, 404, "environment_unknown"),
        ({"duration_s": 0}, 400, "bad_input"),
        ({"duration_s": 10**8}, 400, "bad_input"),
        ({"kind": "infer", "parameters": {"prompts": ["a " * 200]}}, 422, "prompt_too_long"),
        ({"kind": "evaluate", "parameters": {"texts": [PROMPT_CANARY * 10_000]}}, 413, "body_too_large"),
        ({"consumer": "0x12"}, 400, "bad_input"),
        ({"more": 1}, 400, "unknown_parameter"),
    ],
    ids=str,
)
def test_what_would_be_refused_after_the_payment_is_refused_before(
    jobs_market: Market, fields: dict[str, Any], status: int, code: str
) -> None:
    answer = offered(jobs_market, "bob", **fields)
    assert code_of(answer) == (status, code)
    assert PROMPT_CANARY not in answer.get_data(as_text=True)


def test_parameters_are_checked_again_after_the_payment_and_a_refusal_costs_nothing(jobs_market: Market) -> None:
    token = sign_in(jobs_market, "bob", pay(jobs_market, "bob"))
    assert code_of(ask(jobs_market, token, parameters={"steps": 0})) == (400, "bad_input")
    assert ask(jobs_market, token).status_code == 200


def test_a_model_without_a_compute_service_sells_no_jobs(jobs_market: Market) -> None:
    order = pay(jobs_market, "bob")
    index(jobs_market, jobs_market.gpt, sells_jobs=False)
    assert code_of(offered(jobs_market, "bob")) == (400, "sells_no_jobs")
    text = jobs_market.message("bob", jobs_market.gpt.did, order)
    assert code_of(jobs_market.hand_in(text, jobs_market.sign("bob", text))) == (403, "order_wrong_service")
    assert jobs_market.complete(jobs_market.sign_in("bob", jobs_market.gpt)).status_code == 200


@pytest.mark.parametrize(
    ("task", "kind", "expected"),
    [
        ("feature-extraction", "train", "text-generation or text2text-generation or fill-mask"),
        ("image-classification", "train", "text-generation or text2text-generation or fill-mask"),
        ("automatic-speech-recognition", "train", "text-generation or text2text-generation or fill-mask"),
        ("fill-mask", "evaluate", "a model for text-generation, which"),
        ("text2text-generation", "evaluate", "a model for text-generation, which"),
        ("fill-mask", "infer", "text-generation or text2text-generation"),
    ],
)
def test_a_job_that_a_model_is_not_for_is_refused_before_it_is_paid(
    jobs_market: Market, task: str, kind: str, expected: str
) -> None:
    model = jobs_market.publish(task, f"of {task}")
    index(jobs_market, model)
    asked = {"prompts": ["a"]} if kind == "infer" else {}
    answer = offered(jobs_market, "bob", model, kind=kind, parameters=asked)
    assert code_of(answer) == (400, "wrong_task")
    assert expected in answer.get_json()["error"]["message"] and task in answer.get_json()["error"]["message"]


@pytest.mark.parametrize("architecture", UNTRAINABLE)
def test_an_architecture_that_is_not_trained_is_told_before_anything_is_paid(jobs_market: Market, architecture: str) -> None:
    model = jobs_market.publish("text-generation", "griffin", architecture=architecture)
    index(jobs_market, model)  # its document trusts the algorithm
    answer = offered(jobs_market, "bob", model)
    assert code_of(answer) == (400, "unsupported_model")
    assert f"no {architecture}, {UNTRAINABLE[architecture]}" in answer.get_json()["error"]["message"]
    assert offered(jobs_market, "bob", model, kind="infer", parameters={"prompts": ["a"]}).status_code == 200


@pytest.mark.parametrize("task", ["fill-mask", "text2text-generation"])
def test_models_that_hide_words_or_write_texts_sell_trainings(jobs_market: Market, task: str) -> None:
    model = jobs_market.publish(task, f"of {task}")
    index(jobs_market, model)
    order = pay(jobs_market, "bob", model)
    job = ask(jobs_market, jobs_market.sign_in("bob", model, order))
    assert job.status_code == 200 and job.get_json()["did"] == model.did


def test_a_training_is_no_longer_than_the_decoder_can_write(jobs_market: Market) -> None:
    """An LED reads 16,384 tokens and writes 1,024: half of a sequence is read, the other half written."""
    stated = {"context_length": 64, "decoder_length": 10, "tokenizer": "1/tokenizer.json", "add_special_tokens": False}
    model = jobs_market.publish("text2text-generation", "long reader", details=stated)
    index(jobs_market, model)
    answer = offered(jobs_market, "bob", model, parameters={"steps": 20, "sequence_length": 21})
    assert code_of(answer) == (400, "bad_input")
    assert "8 to 20" in answer.get_json()["error"]["message"]
    assert offered(jobs_market, "bob", model, parameters={"steps": 20, "sequence_length": 20}).status_code == 200
    assert offered(jobs_market, "bob", model).get_json()["parameters"]["sequence_length"] == 20


def test_an_owner_who_trusts_no_algorithm_any_more_has_no_jobs_near(jobs_market: Market) -> None:
    token = sign_in(jobs_market, "bob", pay(jobs_market, "bob"))
    nobody = {"allowRawAlgorithm": False, "allowNetworkAccess": False, "publisherTrustedAlgorithms": []}
    index(jobs_market, jobs_market.gpt, compute=nobody)
    assert code_of(offered(jobs_market, "bob")) == (403, "algorithm_not_trusted")
    assert code_of(ask(jobs_market, token)) == (403, "algorithm_not_trusted")


def test_an_algorithm_with_another_checksum_is_not_the_one_that_is_trusted(jobs_market: Market) -> None:
    document = index(jobs_market, jobs_market.gpt)
    compute = document["services"][1]["compute"]
    for trusted in compute["publisherTrustedAlgorithms"]:
        trusted["filesChecksum"] = "0" * 64
    index(jobs_market, jobs_market.gpt, compute=compute)
    assert code_of(offered(jobs_market, "bob")) == (403, "algorithm_not_trusted")


def test_a_model_whose_document_was_not_read_yet_is_to_be_asked_again(jobs_market: Market) -> None:
    fresh = jobs_market.publish("text-generation", "fresh")
    assert code_of(offered(jobs_market, "bob", fresh)) == (503, "not_indexed")


def test_a_full_environment_sells_nothing_until_there_is_room(jobs_market: Market) -> None:
    most = jobs_market.services.settings.jobs.free_queue
    for number in range(most):
        name = f"buyer {number}"
        order = pay(jobs_market, name, environment=FREE, duration_s=60)
        assert ask(jobs_market, sign_in(jobs_market, name, order), environment=FREE).status_code == 200
    answer = offered(jobs_market, "bob", environment=FREE, duration_s=60)
    assert code_of(answer) == (429, "environment_full")
    shown = {each["id"]: each for each in jobs_market.client.get("/v1/environments").get_json()["environments"]}
    assert (shown[FREE]["under_way"], shown[FREE]["price_per_minute"]) == (most, "0")


def test_time_that_was_paid_in_one_environment_is_not_used_in_another(jobs_market: Market) -> None:
    token = sign_in(jobs_market, "bob", pay(jobs_market, "bob", environment=FREE, duration_s=60))
    assert code_of(ask(jobs_market, token, environment=PAID)) == (403, "environment_not_paid")


def test_a_fee_that_the_operator_did_not_sign_pays_for_nothing(jobs_market: Market) -> None:
    ledger, bob, gpt = jobs_market.ledger, jobs_market.wallet("bob"), jobs_market.gpt
    until = UnixSeconds(int(jobs_market.clock.now) + 600)
    fee = sign_provider_fee(bob, gpt.datatoken, 1, gpt.base_token, TokenWei(0), until, jobs_market.clock, PAID)
    ledger.mint(gpt.base_token, bob.address, 10 * ONE)
    ledger.buy_datatoken(bob, "own buy", gpt.datatoken, gpt.exchange, TokenWei(5 * ONE))
    order = ledger.start_order(bob, "own order", gpt.datatoken, bob.address, 1, fee).transaction
    text = jobs_market.message("bob", gpt.did, order)
    assert code_of(jobs_market.hand_in(text, jobs_market.sign("bob", text))) == (403, "order_without_provider_fee")


def test_a_dataset_is_to_be_ordered_and_is_not_where_none_is_needed(jobs_market: Market) -> None:
    token = sign_in(jobs_market, "bob", pay(jobs_market, "bob"))
    dataset = Did("did:op:" + "b" * 64)
    asked = {"steps": 20, "dataset": dataset}
    assert code_of(ask(jobs_market, token, parameters=asked)) == (403, "dataset_not_ordered")
    some = "0x" + "2" * 64
    assert code_of(ask(jobs_market, token, parameters=asked, dataset_order=some)) == (404, "dataset_unknown")
    assert code_of(ask(jobs_market, token, dataset_order=some)) == (400, "bad_input")


def test_an_order_of_the_dataset_goes_with_the_job(jobs_market: Market) -> None:
    """Any asset whose document is on chain; here one that the fixture has on sale."""
    token, dataset = sign_in(jobs_market, "bob", pay(jobs_market, "bob")), jobs_market.other_gpt
    order = pay(jobs_market, "bob", dataset)
    job = ask(jobs_market, token, parameters={"steps": 20, "dataset": dataset.did}, dataset_order=order).get_json()
    assert (job["dataset_did"], job["dataset_order"]) == (dataset.did, order)


def test_a_dataset_s_owner_says_which_algorithms_come_near_it_and_who(jobs_market: Market) -> None:
    """What was trained on a text can tell it again."""
    token, dataset = sign_in(jobs_market, "bob", pay(jobs_market, "bob")), jobs_market.other_gpt
    asked = {"parameters": {"steps": 20, "dataset": dataset.did}, "dataset_order": pay(jobs_market, "bob", dataset)}
    index(jobs_market, dataset, compute={"publisherTrustedAlgorithms": []})
    assert code_of(ask(jobs_market, token, **asked)) == (403, "algorithm_not_trusted")
    index(jobs_market, dataset)
    jobs_market.ledger.set_state(dataset.nft, 3)
    assert code_of(ask(jobs_market, token, **asked)) == (403, "asset_not_consumable")
    jobs_market.ledger.set_state(dataset.nft, 0)
    assert ask(jobs_market, token, **asked).status_code == 200


def test_another_order_than_the_tokens_is_refused(jobs_market: Market) -> None:
    first, second = pay(jobs_market, "bob"), pay(jobs_market, "bob")
    token = sign_in(jobs_market, "bob", first)
    assert code_of(ask(jobs_market, token, order=second)) == (403, "token_of_another_order")
    assert ask(jobs_market, token, order=first).status_code == 200


def test_the_list_is_of_one_model_where_that_is_asked(jobs_market: Market) -> None:
    token, job = ordered(jobs_market)
    assert get(jobs_market, token, f"/v1/jobs?did={jobs_market.other_gpt.did}").get_json() == {"jobs": []}
    assert len(get(jobs_market, token, f"/v1/jobs?did={job['did']}&limit=1").get_json()["jobs"]) == 1
    assert code_of(get(jobs_market, token, "/v1/jobs?limit=0")) == (400, "bad_input")
    assert code_of(get(jobs_market, token, "/v1/jobs?owner=me")) == (400, "unknown_parameter")


def test_an_algorithms_file_is_the_one_that_its_checksum_is_of(jobs_market: Market) -> None:
    for listed in jobs_market.client.get("/v1/algorithms").get_json()["algorithms"]:
        file = jobs_market.client.get(f"/v1/algorithms/{listed['kind']}")
        assert hashlib.sha256(file.data).hexdigest() == listed["files_checksum"]
        assert json.loads(file.data)["kind"] == listed["kind"]
    assert code_of(jobs_market.client.get("/v1/algorithms/steal")) == (404, "algorithm_unknown")


def test_what_nobody_wants_published_or_is_no_evaluation_is_not(jobs_market: Market) -> None:
    token, job = ordered(jobs_market, kind="evaluate", parameters={"texts": ["one"]})
    assert "publish" not in job["parameters"]
    publish = f"/v1/jobs/{job['job_id']}/publish"
    assert code_of(jobs_market.client.post(publish, headers=jobs_market.bearer(token))) == (400, "no_evaluation")
    mallory, _ = ordered(jobs_market, "mallory")
    assert code_of(jobs_market.client.post(publish, headers=jobs_market.bearer(mallory))) == (404, "job_unknown")
    assert jobs_market.client.post(publish).status_code == 401
    evaluations = f"/v1/models/{jobs_market.gpt.did}/evaluations"
    assert jobs_market.client.get(evaluations).get_json() == {"evaluations": []}
    assert code_of(jobs_market.client.get(evaluations + "?all=1")) == (400, "unknown_parameter")
    assert code_of(jobs_market.client.get(evaluations + "?limit=0")) == (400, "bad_input")
    unknown = jobs_market.client.get(f"{evaluations}?before=0x{'0' * 64}")
    assert code_of(unknown) == (404, "evaluation_unknown")
    for wrong in ("before=1", "evaluator=bob"):
        assert code_of(jobs_market.client.get(f"{evaluations}?{wrong}")) == (400, "bad_input")
    assert jobs_market.client.get(f"/v1/models/did:op:{'0' * 64}/evaluations").status_code == 404


def test_no_more_is_published_by_one_evaluator_than_there_may_be(jobs_market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise Conflict("as many as there may be", code="too_many_evaluations")

    token = sign_in(jobs_market, "bob", pay(jobs_market, "bob", kind="evaluate", parameters={"texts": ["one"]}))
    monkeypatch.setattr(jobs_market.services.evaluations, "check_room", full)
    asked = {"kind": "evaluate", "parameters": {"texts": ["one"], "publish": True}}
    assert code_of(offered(jobs_market, "bob", **asked)) == (409, "too_many_evaluations"), "told before the payment"
    assert code_of(ask(jobs_market, token, **asked)) == (409, "too_many_evaluations")
    asked["parameters"] = {"texts": ["one"], "publish": False}
    assert ask(jobs_market, token, **asked).status_code == 200


def test_a_job_that_is_queued_is_found_again_also_when_another_evaluation_took_the_last_room(
    jobs_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sign_in(jobs_market, "bob", pay(jobs_market, "bob", kind="evaluate", parameters={"texts": ["one"]}))
    asked = {"kind": "evaluate", "parameters": {"texts": ["one"], "publish": True}}
    queued = ask(jobs_market, token, **asked)

    def full(*_: Any) -> None:
        raise Conflict("as many as there may be", code="too_many_evaluations")

    monkeypatch.setattr(jobs_market.services.evaluations, "check_room", full)
    again = ask(jobs_market, token, **asked)
    assert (queued.status_code, again.status_code) == (200, 200)
    assert again.get_json()["job_id"] == queued.get_json()["job_id"]
