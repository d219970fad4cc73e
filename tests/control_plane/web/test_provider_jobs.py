"""A job is priced, ordered and started with a stock client's requests; what is not paid, trusted or right starts none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.ddo import Description, build_algorithm_ddo, build_ddo, seal
from control_plane.chain.ddo import clear_hash as hash_of
from control_plane.chain.fees import sign_fee
from control_plane.chain.ledger import Terms
from control_plane.did import Address, Bytes32, TokenWei, TransactionHash, UnixSeconds, did_of
from control_plane.jobs.algorithms import algorithm_of, section
from control_plane.jobs.environments import FREE, PAID
from control_plane.jobs.states import Kind, State
from control_plane.web import create_app
from tests.control_plane.web.asking import UNKNOWN_DID
from tests.control_plane.web.ocean_client import signed
from tests.control_plane.web.test_provider_files import fee_of, ordered
from tests.fixtures_market import ONE, Market, open_market
from tests.ocean_assets import index, publish

INITIALIZE, COMPUTE = "/api/services/initializeCompute", "/api/services/compute"
ABOUT = Description("Asset", "An asset", "Alice", "apache-2.0", UnixSeconds(1_700_000_000), {})


@dataclass
class Shop:
    market: Market
    algorithms: dict[Kind, tuple[str, Address]]

    def price(
        self, environment: str = PAID, seconds: int = 600, name: str = "bob", order: str | None = None, **changes: Any
    ) -> Any:
        model = {"documentId": self.market.gpt.did, "serviceId": "1", **({"transferTxId": order} if order else {})}
        told = {
            "datasets": [model],
            "algorithm": {"documentId": self.algorithms[Kind.EVALUATE][0], "serviceId": "0"},
            "compute": {"env": environment, "validUntil": int(self.market.clock.now) + seconds},
            "consumerAddress": self.market.wallet(name).address,
            **changes,
        }
        return self.market.client.post(INITIALIZE, json=told)

    def order(self, name: str = "bob", consumer: Address | None = None, service: int = 1, **asked: Any) -> TransactionHash:
        """An order of the model's jobs, paid with the fee that the market asks."""
        (priced,) = self.price(name=name, **asked).get_json()["datasets"]
        ledger, wallet, gpt = self.market.ledger, self.market.wallet(name), self.market.gpt
        ledger.mint(ledger.network.ocean, wallet.address, 10 * ONE)
        key = f"{name} {len(ledger.writes)}"
        ledger.buy_datatoken(wallet, f"buy {key}", gpt.datatoken, gpt.exchange, TokenWei(5 * ONE))
        fee = fee_of(priced["providerFee"])
        return ledger.start_order(wallet, f"order {key}", gpt.datatoken, consumer or wallet.address, service, fee).transaction

    def start(self, order: str, name: str = "bob", kind: Kind = Kind.EVALUATE, told: Any = None, **changes: Any) -> Any:
        address, did = self.market.wallet(name).address, self.market.gpt.did
        parameters = {"texts": ["a whale at sea"]} if told is None else told
        algorithm = {"documentId": self.algorithms[kind][0], "serviceId": "0", "algocustomdata": parameters}
        asked = {
            "dataset": {"documentId": did, "serviceId": "1", "transferTxId": order},
            "algorithm": algorithm,
            "environment": PAID,
            "consumerAddress": address,
            "additionalInputs": [],
            **signed(self.market, name, f"{address}{did}"),
            **changes,
        }
        return self.market.client.post(COMPUTE, json=asked)


def open_shop(home: Path) -> Shop:
    """Whoever opens it disposes of its market's engine."""
    opened = open_market(home)
    operator, ledger, url = opened.wallet("operator"), opened.ledger, opened.services.settings.public_url
    algorithms: dict[Kind, tuple[str, Address]] = {}
    for kind in Kind:
        terms = Terms(TokenWei(0), ledger.network.ocean, TokenWei(0), operator.address)
        made = ledger.create_asset(operator, f"algorithm {kind.value}", kind.value, "ALGO", terms)
        document = build_algorithm_ddo(
            made.nft, made.datatoken, 8996, ABOUT, url, operator.public_key, f"{url}/v1/algorithms/{kind.value}", section(kind)
        )
        put(opened, "operator", made.nft, document)
        algorithms[kind] = (did_of(made.nft, 8996), made.nft)
    known = {kind: algorithm_of(kind, nft, 8996) for kind, (_, nft) in algorithms.items()}
    gpt = opened.gpt
    put(
        opened,
        "alice",
        gpt.nft,
        build_ddo(gpt.nft, gpt.datatoken, 8996, ABOUT, url, operator.public_key, 3600, tuple(known.values())),
    )
    index(opened)
    opened.services = replace(opened.services, algorithms=known)
    opened.client = create_app(opened.services, opened.journal).test_client()
    return Shop(opened, algorithms)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    opened = open_shop(tmp_path / "home")
    yield opened
    opened.market.engine.dispose()


def put(market: Market, name: str, nft: Address, document: dict[str, Any]) -> None:
    sealed = seal(document, market.wallet("operator").public_key)
    digest = bytes.fromhex(Bytes32(hash_of(document))[2:])
    market.ledger.write_document(market.wallet(name), nft, 3, sealed, digest)


def refused(answer: Any, code: str, status: int = 400) -> None:
    assert (answer.status_code, answer.get_json().get("code")) == (status, code), answer.text


def test_computing_costs_its_environments_price_and_the_algorithm_nothing(shop: Shop) -> None:
    told = shop.price(seconds=25 * 3600).get_json()
    (model,) = told["datasets"]
    environment = next(each for each in shop.market.services.environments if each.id == PAID)
    if environment.max_duration_s >= 25 * 3600:  # whole days are paid too
        assert int(model["providerFee"]["providerFeeAmount"]) == environment.fee(25 * 3600)
    assert told["algorithm"]["providerFee"]["providerFeeAmount"] == "0"
    assert shop.price(FREE, 60).get_json()["datasets"][0]["providerFee"]["providerFeeAmount"] == "0"


def test_an_ordered_job_is_started_once_and_followed(shop: Shop) -> None:
    order = shop.order()
    (job,) = shop.start(order).get_json()
    assert (job["status"], job["agreementId"], job["owner"]) == (1, order, shop.market.wallet("bob").address)
    stored = shop.market.services.jobs.get(job["jobId"])
    assert (stored.kind, stored.did, stored.state, stored.paid_s) == (Kind.EVALUATE, shop.market.gpt.did, State.QUEUED, 600)
    assert shop.start(order).get_json()[0]["jobId"] == job["jobId"]  # the same request, the same job
    assert len(shop.market.services.jobs.of_payment(order)) == 1


def test_parameters_may_be_the_text_of_an_object(shop: Shop) -> None:
    assert shop.start(shop.order(), told='{"texts": ["a whale"]}').status_code == 200
    refused(shop.start(shop.order(), told="[]"), "not_json")
    refused(shop.start(shop.order(), told={"steps": 10**9}), "unknown_parameter")


def test_the_environment_may_be_the_consumer_of_what_the_owner_paid(shop: Shop) -> None:
    environment = next(each for each in shop.market.services.environments if each.id == PAID)
    order = shop.order(consumer=environment.consumer)
    refused(shop.start(order, "mallory"), "order_not_yours")
    assert shop.start(order).status_code == 200


def test_a_fee_that_still_pays_is_told_as_a_valid_order(shop: Shop) -> None:
    order = shop.order()
    assert shop.price(order=order).get_json()["datasets"] == [{"validOrder": order}]
    shop.start(order)
    again = shop.price(order=order).get_json()["datasets"][0]  # its time belongs to a job: a new fee, the same order
    assert again["validOrder"] == order
    fee = fee_of(again["providerFee"])
    reuse = shop.market.ledger.reuse_order(order, shop.market.gpt.datatoken, fee)
    (job,) = shop.start(reuse, told={"texts": ["another"]}).get_json()
    assert job["agreementId"] == reuse
    stored = shop.market.services.jobs
    assert stored.get(job["jobId"]).original_order == order  # which its receipt names
    assert [each.original_order for each in stored.of_payment(order)] == [None]
    refused(shop.start(reuse, "mallory"), "order_not_yours")


def test_a_strangers_reuse_without_a_fee_pays_for_nothing(shop: Shop) -> None:
    order = shop.order()
    assert shop.start(order).status_code == 200
    bare = shop.market.ledger.reuse_order(order, shop.market.gpt.datatoken)
    refused(shop.start(bare, told={"texts": ["another"]}), "order_without_provider_fee")


def test_only_the_markets_algorithms_run_and_only_those_that_the_model_trusts(shop: Shop) -> None:
    order = shop.order()
    other = publish(shop.market, name="Trojan")
    index(shop.market)
    refused(shop.start(order, algorithm={"documentId": other.did, "serviceId": "0"}), "not_trusted_algo")
    raw = shop.start(order, algorithm={"meta": {"rawcode": "print(1)"}})
    assert (raw.status_code, raw.get_json()) == (400, {"error": {"algorithm": "no_raw_algo_allowed"}})
    gpt, operator = shop.market.gpt, shop.market.wallet("operator")
    trusted = (shop.market.services.algorithms[Kind.INFER],)
    url = shop.market.services.settings.public_url
    put(shop.market, "alice", gpt.nft, build_ddo(gpt.nft, gpt.datatoken, 8996, ABOUT, url, operator.public_key, 3600, trusted))
    index(shop.market)
    refused(shop.start(order), "algorithm_not_trusted")
    assert shop.start(order, kind=Kind.INFER, told={"prompts": ["a whale"]}).status_code == 200


def test_signatures_nonces_and_what_is_asked_are_checked(shop: Shop) -> None:
    order, address = shop.order(), shop.market.wallet("bob").address
    foreign = signed(shop.market, "mallory", f"{address}{shop.market.gpt.did}", 9)
    assert shop.start(order, **foreign).get_json()["errors"] == {"signature": ["Invalid signature provided."]}
    told = signed(shop.market, "bob", f"{address}{shop.market.gpt.did}")
    assert shop.start(order, **told).status_code == 200
    refused(shop.start(order, **told), "nonce_used")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"environment": "moon"}, "environment_unknown"),
        ({"dataset": {"documentId": UNKNOWN_DID, "serviceId": "1"}}, "did_not_found"),
        ({"dataset": {"documentId": UNKNOWN_DID}}, None),
        ({"dataset": []}, None),
        ({"algorithm": {"documentId": UNKNOWN_DID, "serviceId": "0"}}, "not_trusted_algo"),
        ({"additionalDatasets": {}}, None),
        ({"additionalDatasets": [{"documentId": UNKNOWN_DID, "serviceId": "0"}] * 2}, "too_many_datasets"),
    ],
)
def test_what_is_not_as_it_should_be_starts_nothing(shop: Shop, changes: Any, code: str | None) -> None:
    order = shop.order()
    if changes.get("dataset"):
        address, did = shop.market.wallet("bob").address, changes["dataset"]["documentId"]
        changes = {**changes, **signed(shop.market, "bob", f"{address}{did}")}
    answer = shop.start(order, **changes)
    if changes != {"additionalDatasets": {}}:
        assert answer.status_code == 400, answer.text
    if code is not None:
        assert answer.get_json()["code"] == code, answer.text


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"compute": {"env": "moon", "validUntil": 1}}, "environment_unknown"),
        ({"compute": {"env": PAID, "validUntil": 1}}, "bad_input"),
        ({"compute": {"env": PAID, "validUntil": 2**53}}, "bad_input"),
        ({"compute": []}, None),
        ({"datasets": [{"documentId": UNKNOWN_DID, "serviceId": "1"}]}, "did_not_found"),
        ({"algorithm": {"documentId": UNKNOWN_DID, "serviceId": "0"}}, "did_not_found"),
        ({"algorithm": {"container": {}}}, None),
    ],
)
def test_what_is_not_offered_is_not_priced(shop: Shop, changes: Any, code: str | None) -> None:
    answer = shop.price(**changes)
    assert answer.status_code == 400
    assert code is None or answer.get_json()["code"] == code, answer.text


def test_a_model_that_is_revoked_or_sells_no_jobs_is_not_priced(shop: Shop) -> None:
    other = [{"documentId": shop.market.other_gpt.did, "serviceId": "1"}]
    assert shop.price(datasets=other).status_code == 503  # its document was not read from the chain
    assert shop.price(datasets=[{"documentId": shop.market.gpt.did, "serviceId": "0"}]).get_json()["code"] == "main_service_compute"
    order = shop.order()
    shop.market.ledger.set_state(shop.market.gpt.nft, 3)
    refused(shop.price(), "asset_not_consumable")
    refused(shop.start(order), "asset_not_consumable")


def test_a_dataset_s_order_goes_with_the_parameters(shop: Shop) -> None:
    words, market = publish(shop.market, name="Words"), shop.market
    index(market)
    told = {"steps": 20, "dataset": words.did}
    refused(shop.start(shop.order(), kind=Kind.TRAIN, told=told), "dataset_not_ordered")
    operator, ends_at = market.wallet("operator"), UnixSeconds(int(market.clock.now) + 600)
    fee = sign_fee(operator, words.datatoken, "0", market.ledger.network.ocean, TokenWei(0), ends_at, market.clock)
    paid = ordered(market, words, fee=fee)
    job = shop.start(shop.order(), kind=Kind.TRAIN, told={**told, "dataset_order": paid})
    assert job.status_code == 200, job.text
