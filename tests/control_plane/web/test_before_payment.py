"""What a job would be refused for after it is paid, a stock client hears when it asks what the job costs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from control_plane.chain.compute import compute_object
from control_plane.chain.ddo import build_ddo
from control_plane.did import Address, Did
from control_plane.errors import BadInput, Conflict
from control_plane.jobs.architectures import UNTRAINABLE
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.job import Job, Reason
from control_plane.jobs.states import Kind, State
from control_plane.web import create_app
from tests.control_plane.jobs.asking import a_job, anyone
from tests.control_plane.web.test_provider_jobs import ABOUT, Shop, put, refused, shop
from tests.ocean_assets import document_of, index, publish, write

__all__ = ["shop"]

WORKER = "e" * 32


def under_way(shop: Shop, environment: str, owner: Address) -> Job:
    return shop.market.services.jobs.add(a_job(environment=environment, owner=owner), anyone)


def narrowed(shop: Shop, environment: str, **changes: int) -> None:
    """The environment takes fewer jobs from now on."""
    services = shop.market.services
    offered = tuple(replace(each, **changes) if each.id == environment else each for each in services.environments)
    shop.market.services = replace(services, environments=offered)
    shop.market.client = create_app(shop.market.services, shop.market.journal).test_client()


def assert_oceans(answer: Any) -> None:
    assert isinstance(answer.get_json()["error"], str)


def test_a_full_environment_is_told_before_anything_is_paid_and_a_payment_stays_good(shop: Shop) -> None:
    order = shop.order()
    narrowed(shop, PAID, max_jobs=1)
    job = under_way(shop, PAID, shop.market.wallet("carol").address)
    answer = shop.price()
    refused(answer, "environment_full", 429)
    assert_oceans(answer)
    assert answer.headers["Retry-After"] == "60"
    assert shop.price(order=order).get_json()["datasets"] == [{"validOrder": order}]  # nothing is to be paid
    assert shop.price(FREE, 60).status_code == 200
    shop.market.services.jobs.request_stop(job.job_id)
    assert shop.price().status_code == 200


def test_who_has_as_many_jobs_as_one_may_have_is_told_before_he_pays(shop: Shop) -> None:
    job = under_way(shop, FREE, shop.market.wallet("bob").address)
    answer = shop.price(FREE, 60)
    refused(answer, "too_many_jobs", 429)
    assert_oceans(answer)
    assert shop.market.wallet("bob").address not in answer.text  # whoever asks need not be him
    assert shop.price(FREE, 60, name="carol").status_code == 200
    shop.market.services.jobs.request_stop(job.job_id)
    assert shop.price(FREE, 60).status_code == 200


def test_an_algorithm_that_may_not_run_is_told_before_anything_is_paid(shop: Shop) -> None:
    market, operator = shop.market, shop.market.wallet("operator")
    other = publish(market, name="Trojan")
    index(market)
    refused(shop.price(algorithm={"documentId": other.did, "serviceId": "0"}), "not_trusted_algo")
    gpt, url, trusted = market.gpt, market.services.settings.public_url, (market.services.algorithms[Kind.INFER],)
    put(market, "alice", gpt.nft, build_ddo(gpt.nft, gpt.datatoken, 8996, ABOUT, url, operator.public_key, 3600, trusted))
    index(market)
    refused(shop.price(), "algorithm_not_trusted")
    infer = {"documentId": shop.algorithms[Kind.INFER][0], "serviceId": "0"}
    assert shop.price(algorithm=infer).status_code == 200


def test_a_model_that_is_not_for_such_jobs_is_told_before_anything_is_paid(shop: Shop) -> None:
    market, model, operator = shop.market, shop.market.embedder, shop.market.wallet("operator")
    url, trusted = market.services.settings.public_url, tuple(market.services.algorithms.values())
    put(market, "alice", model.nft, build_ddo(model.nft, model.datatoken, 8996, ABOUT, url, operator.public_key, 3600, trusted))
    index(market)
    refused(shop.price(datasets=[{"documentId": model.did, "serviceId": "1"}]), "wrong_task")


def test_an_architecture_that_is_not_trained_is_told_before_anything_is_paid(shop: Shop) -> None:
    """Also of a model that was published when that was not known, and trusts the algorithm."""
    market, operator = shop.market, shop.market.wallet("operator")
    model, url = market.publish("text-generation", "griffin", architecture="RecurrentGemmaForCausalLM"), "https://market.example"
    trusted = tuple(market.services.algorithms.values())
    put(market, "alice", model.nft, build_ddo(model.nft, model.datatoken, 8996, ABOUT, url, operator.public_key, 3600, trusted))
    index(market)
    asked = {"datasets": [{"documentId": model.did, "serviceId": "1"}]}
    refusing = shop.price(**asked, algorithm={"documentId": shop.algorithms[Kind.TRAIN][0], "serviceId": "0"})
    refused(refusing, "unsupported_model")
    assert "no RecurrentGemmaForCausalLM, " + UNTRAINABLE["RecurrentGemmaForCausalLM"] in refusing.get_json()["error"]
    assert shop.price(**asked).status_code == 200  # an evaluation


def test_that_no_more_models_may_be_derived_is_told_before_anything_is_paid(shop: Shop) -> None:
    market, bob = shop.market, shop.market.wallet("bob").address
    settings = market.services.settings
    market.services = replace(market.services, settings=replace(settings, jobs=replace(settings.jobs, derived_of_owner=1)))
    market.client = create_app(market.services, market.journal).test_client()
    training = {"documentId": shop.algorithms[Kind.TRAIN][0], "serviceId": "0"}
    offered = {"kind": "train", "consumer": bob, "environment": PAID, "duration_s": 600, "parameters": {"steps": 20}}
    assert shop.price(algorithm=training).status_code == 200
    job = under_way(shop, PAID, bob)
    answer = shop.price(algorithm=training)
    refused(answer, "too_many_derived")
    assert_oceans(answer)
    ours = market.client.post(f"/v1/offers/{market.gpt.did}/jobs", json=offered)
    assert (ours.status_code, ours.get_json()["error"]["code"]) == (409, "too_many_derived"), ours.text
    assert shop.price().status_code == shop.price(algorithm=training, name="carol").status_code == 200
    market.services.jobs.request_stop(job.job_id)
    assert shop.price(algorithm=training).status_code == 200
    assert market.client.post(f"/v1/offers/{market.gpt.did}/jobs", json=offered).status_code == 200


@pytest.mark.parametrize("place", ["algocustomdata", "userdata"])
def test_parameters_that_a_job_would_be_refused_for_are_told_where_the_client_sends_them(
    shop: Shop, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(did: Did, evaluator: Address, _beside: object) -> None:
        assert (did, evaluator) == (shop.market.gpt.did, shop.market.wallet("bob").address)
        raise Conflict("as many as there may be", code="too_many_evaluations")

    def priced(**told: Any) -> Any:
        return shop.price(algorithm={"documentId": shop.algorithms[Kind.EVALUATE][0], "serviceId": "0", place: told})

    monkeypatch.setattr(shop.market.services.evaluations, "check_room", full)
    refused(priced(texts=["one"], publish=True), "too_many_evaluations")
    assert priced(texts=["one"], publish=False).status_code == 200
    assert priced(texts=["one"]).status_code == shop.price().status_code == 200
    refused(priced(texts=["one"], steps=5), "unknown_parameter")
    refused(priced(texts="one"), "bad_input")
    assert priced(dataset_order="0x" + "1" * 64).status_code == 200  # beside the parameters, and none of them


def test_what_was_told_with_the_price_need_not_be_told_again(shop: Shop) -> None:
    told = {"documentId": shop.algorithms[Kind.EVALUATE][0], "serviceId": "0", "userdata": {"texts": ["a whale"]}}
    (job,) = shop.start(shop.order(algorithm=told), algorithm=told).get_json()
    assert '"texts":["a whale"]' in shop.market.services.jobs.get(job["jobId"]).parameters


def test_datasets_that_no_job_may_read_are_told_before_anything_is_paid(shop: Shop) -> None:
    market, gpt = shop.market, shop.market.gpt
    words, model = publish(market, name="Words"), {"documentId": gpt.did, "serviceId": "1"}
    shut = {**words.document["services"][0], "type": "compute", "id": "1"}
    shut["compute"] = {"allowRawAlgorithm": False, "allowNetworkAccess": False, "publisherTrustedAlgorithms": []}
    put(market, "alice", words.nft, {**words.document, "services": [*words.document["services"], shut]})
    index(market)
    read = {"documentId": words.did, "serviceId": "1"}
    refused(shop.price(datasets=[model, read]), "algorithm_not_trusted")
    refused(shop.price(datasets=[model, read, read]), "too_many_datasets")


def test_a_dataset_is_priced_by_the_service_that_jobs_are_ordered_of_alone(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order of its access would be refused as one of the wrong service."""
    market, looked = shop.market, []
    words, model = publish(market, name="Words"), {"documentId": market.gpt.did, "serviceId": "1"}
    sold = {**words.document["services"][0], "type": "compute", "id": "1"}
    sold["compute"] = compute_object([market.services.algorithms[Kind.EVALUATE]])
    put(market, "alice", words.nft, {**words.document, "services": [*words.document["services"], sold]})
    index(market)
    monkeypatch.setattr(market.services.provider.files, "open", looked.append)
    refused(shop.price(datasets=[model, {"documentId": words.did, "serviceId": "0"}]), "dataset_wrong_service")
    assert not looked  # not for an answer that is no anyway
    monkeypatch.setattr(market.services.provider.files, "open", lambda _file: SimpleNamespace(close=lambda: None))
    answer = shop.price(datasets=[model, {"documentId": words.did, "serviceId": "1"}])
    assert answer.status_code == 200, answer.text
    assert [each["datatoken"] for each in answer.get_json()["datasets"]] == [market.gpt.datatoken, words.datatoken]


def test_a_model_is_no_dataset_and_a_batch_of_prompts_reads_none(shop: Shop) -> None:
    market = shop.market
    words, model = publish(market, name="Words"), {"documentId": market.gpt.did, "serviceId": "1"}
    index(market)
    for service in ("0", "1"):
        refused(shop.price(datasets=[model, {"documentId": market.gpt.did, "serviceId": service}]), "is_a_model")
    infer = {"documentId": shop.algorithms[Kind.INFER][0], "serviceId": "0"}
    refused(shop.price(algorithm=infer, datasets=[model, {"documentId": words.did, "serviceId": "0"}]), "dataset_not_ordered")


def test_a_dataset_whose_document_names_a_models_datatoken_gets_no_fee(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    market = shop.market
    made = publish(market, publisher="mallory", name="Own")
    write(market, "mallory", made.nft, document_of(market, made.nft, market.gpt.datatoken, "https://words.example/words.txt"))
    index(market)
    monkeypatch.setattr(market.services.provider.files, "open", lambda _file: SimpleNamespace(close=lambda: None))
    model, read = {"documentId": market.gpt.did, "serviceId": "1"}, {"documentId": made.did, "serviceId": "0"}
    train = {"documentId": shop.algorithms[Kind.TRAIN][0], "serviceId": "0"}
    answer = shop.price(algorithm=train, datasets=[model, read])
    refused(answer, "datatoken_foreign")
    asked = {"kind": "train", "environment": PAID, "parameters": {"steps": 20, "dataset": made.did}}
    body = {**asked, "consumer": market.wallet("mallory").address}
    offer = market.client.post(f"/v1/offers/{market.gpt.did}/jobs", json=body)
    assert (offer.status_code, offer.get_json()["error"]["code"]) == (403, "datatoken_foreign")
    assert "fee" not in answer.text.lower() and "provider_fee" not in offer.text


@pytest.mark.parametrize("environment", [PAID, FREE])
@pytest.mark.parametrize("swapped", [True, False])
def test_a_model_whose_owner_names_its_calls_as_its_jobs_gets_no_fee(shop: Shop, swapped: bool, environment: str) -> None:
    """The free environment's fee of nothing would name the calls' service. swapped: by its place; otherwise by its id alone."""
    market, gpt = shop.market, shop.market.gpt
    operator, url = market.wallet("operator").public_key, market.services.settings.public_url
    document = build_ddo(gpt.nft, gpt.datatoken, 8996, ABOUT, url, operator, 3600, tuple(market.services.algorithms.values()))
    calls, jobs = document["services"]
    jobs, calls = {**jobs, "id": "0"}, {**calls, "id": "1"}
    put(market, "alice", gpt.nft, {**document, "services": [jobs, calls] if swapped else [calls, jobs]})
    index(market)
    answer = shop.price(environment, 60, datasets=[{"documentId": gpt.did, "serviceId": "0"}])
    refused(answer, "document_damaged")
    body = {"kind": "evaluate", "environment": environment, "parameters": {"texts": ["a whale"]}}
    offer = market.client.post(f"/v1/offers/{gpt.did}/jobs", json={**body, "consumer": market.wallet("bob").address})
    assert (offer.status_code, offer.get_json()["error"]["code"]) == (422, "document_damaged")


def test_nobody_is_to_pay_for_a_dataset_whose_file_is_not_there(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    market, answers = shop.market, [BadInput("files", "a file", "none", code="file_unreachable")]
    words, model = publish(market, name="Words"), {"documentId": market.gpt.did, "serviceId": "1"}
    index(market)

    def opened(_file: Any) -> Any:
        if answers:
            raise answers.pop()
        return SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(market.services.provider.files, "open", opened)
    read = {"documentId": words.did, "serviceId": "0"}
    refused(shop.price(datasets=[model, read]), "file_unreachable")
    assert shop.price(datasets=[model, read]).status_code == 200


def test_a_payment_that_was_given_back_is_not_to_be_paid_again_though_its_order_has_ended(shop: Shop) -> None:
    order, jobs = shop.order(seconds=60), shop.market.services.jobs
    (told,) = shop.start(order).get_json()
    claimed = jobs.claim(WORKER)
    assert claimed is not None and claimed.job_id == told["jobId"]
    jobs.advance(told["jobId"], State.PROVISIONING, State.FAILED_DATA, worker=WORKER, reason=Reason("texts_unavailable", "gone"))
    shop.market.clock.now += 120
    assert shop.price(order=order).get_json()["datasets"] == [{"validOrder": order}]
    assert shop.start(order).status_code == 200


def test_an_order_that_is_not_final_yet_is_not_to_be_paid_twice(shop: Shop) -> None:
    order, services = shop.order(), shop.market.services
    deep = replace(services, network=replace(services.network, confirmations=50))
    shop.market.client = create_app(deep, shop.market.journal).test_client()
    answer = shop.price(order=order)
    refused(answer, "order_not_final")
    assert_oceans(answer)
    assert answer.headers["Retry-After"]
    assert "providerFee" not in answer.text
    shop.market.ledger.advance_blocks(50)
    assert shop.price(order=order).get_json()["datasets"] == [{"validOrder": order}]
