"""From the stock `ocean.py` 3.1.2 to an asset that answers: a paid training on the real stack, on another one's paid text dataset.

Alice sells a model with the command. Carol sells a text dataset with `ocean.py`, and lets the market's training near it. Bob pays
for both and for the algorithm with `ocean.py`, starts, follows, fetches the result; Ray trains, and Bob owns what came of it, which
Derek calls. Elena trains on it with the command. Then Carol changes her mind.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests
from eth_account import Account

import control_plane.chain.ocean_fix  # noqa: F401  # before ocean_lib
from control_plane.chain.networks import LOCAL
from control_plane.chain.revenue import Earned, revenue
from control_plane.chain.rpc import Rpc
from control_plane.did import Address
from control_plane.jobs.environments import PAID
from control_plane.jobs.states import Kind
from control_plane.wiring import open_ledger
from deploy.local.chain import local_accounts
from deploy.local.ports import HOST
from tests.converters.tiny_models import tiny_model
from tests.fixtures_market import ONE
from tests.fixtures_ocean import address_file
from tests.fixtures_stack import CORPUS, LiveStack, running_stack
from tests.listening import listening

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.long]

STEPS = 30
SMALL = {"batch_size": 4, "sequence_length": 32, "learning_rate": 3e-3, "warmup_steps": 0}
BOB_S, ELENA_S = 1200, 3600
"""Seconds of computing that each pays for."""
WITHIN_S = 300.0
PARTS = ("first.txt", "second.txt")


class Shelf(BaseHTTPRequestHandler):
    """Carol's own server: two texts, and who fetched them."""

    fetched: list[str] = []  # noqa: RUF012  # of this class alone, one server a test

    def do_GET(self) -> None:  # the library's name
        text = CORPUS.read_text(encoding="utf-8")
        half = len(text) // 2
        body = (text[:half] if self.path.endswith(PARTS[0]) else text[half:]).encode()
        self.fetched.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        return None


@dataclass
class Town:
    """The stack, Carol's shelf, and `ocean.py` for each of them."""

    stack: LiveStack
    shelf: str
    folder: Path
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        level = logging.getLogger().level
        from ocean_lib.example_config import get_web3  # configures the root logger when it is imported

        logging.getLogger().setLevel(level)
        url = self.stack.settings.public_url
        self.config = {
            "METADATA_CACHE_URI": url,
            "PROVIDER_URL": url,
            "DOWNLOADS_PATH": str(self.folder / "downloads"),
            "web3_instance": get_web3(self.stack.settings.rpc_url),
            "NETWORK_NAME": "development",
            "CHAIN_ID": LOCAL.chain_id,
            "ADDRESS_FILE": str(address_file(self.folder, LOCAL)),
        }
        from ocean_lib.ocean.ocean import Ocean

        self.ocean = Ocean(self.config)
        self.rpc = Rpc(self.stack.settings.rpc_url, LOCAL.chain_id)

    def account(self, name: str) -> Any:
        return Account.from_key(local_accounts()[name]._key.secret)

    def datatoken(self, address: str) -> Any:
        from ocean_lib.models.datatoken_base import DatatokenBase

        return DatatokenBase.get_typed(self.config, address)

    def algorithm(self) -> Any:
        found = requests.get(f"{self.stack.settings.public_url}/v1/algorithms", timeout=10).json()["algorithms"]
        return self.resolved(next(each["did"] for each in found if each["kind"] == Kind.TRAIN.value))

    def resolved(self, did: str, is_so: Any = lambda _ddo: True) -> Any:
        """The document as the market tells it, once it has read it from the chain."""
        until = time.monotonic() + 60
        while True:
            found = self.ocean.assets.resolve(did)
            if found is not None and is_so(found):
                return found
            assert time.monotonic() < until, f"{did} was not read within a minute"
            time.sleep(0.3)

    def buy(self, name: str, datatoken: str) -> None:
        """One datatoken from its exchange, and leave for the fees that its order pays."""
        buyer, token = {"from": self.account(name)}, self.datatoken(datatoken)
        (exchange,) = token.get_exchanges()
        self.datatoken(LOCAL.ocean).approve(exchange.address, 10 * ONE, buyer)
        exchange.buy_DT(ONE, buyer, max_basetoken_amt=5 * ONE)
        self.datatoken(LOCAL.ocean).approve(datatoken, 10 * ONE, buyer)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    (folder / "home").mkdir()
    with listening(Shelf) as shelf:
        place = f"{HOST}:{shelf.server_port}"
        with running_stack(folder / "home", POSTHUMAN_INTERNAL_FILES=place) as stack:
            yield Town(stack, place, folder)


@pytest.fixture(scope="module")
def model(town: Town, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Alice's, sold by the command; its document as `ocean.py` sees it."""
    folder = tiny_model(tmp_path_factory.mktemp("models") / "tiny-gpt2", "gpt2", "LMHeadModel")
    terms = ("--as", "alice", "--price", "1", "--name", "Tiny", "--licence", "apache-2.0")
    ran = town.stack.run("publish", str(folder), *terms, "--json", timeout_s=600)
    assert ran.code == 0, ran.out + ran.err
    return town.resolved(ran.json["did"])


@pytest.fixture(scope="module")
def words(town: Town) -> Any:
    """Carol's, sold by `ocean.py` for half an OCEAN; jobs on it by the market's training alone."""
    from ocean_lib.models.fixed_rate_exchange import ExchangeArguments
    from ocean_lib.ocean.ocean_assets import AssetArguments
    from ocean_lib.structures.file_objects import UrlFile

    carol = {"from": town.account("carol")}
    trusted = {
        "allowRawAlgorithm": False,
        "allowNetworkAccess": False,
        "publisherTrustedAlgorithms": [town.algorithm().generate_trusted_algorithms()],
        "publisherTrustedAlgorithmPublishers": [],
    }
    asked = AssetArguments(
        metadata=town.ocean.assets.default_metadata("Carol's words", carol),
        pricing_schema_args=ExchangeArguments(rate=ONE // 2, base_token_addr=LOCAL.ocean, dt_decimals=18),
        compute_values=trusted,
    )
    _, _, ddo = town.ocean.assets.create_bundled([UrlFile(f"http://{town.shelf}/{part}") for part in PARTS], carol, asked)
    assert ddo is not None, "the document did not come back within a minute"
    return ddo


class Buying:
    """Bob, and what he has paid for."""

    def __init__(self, town: Town, model: Any, words: Any) -> None:
        self.town, self.model, self.words, self.bob = town, model, words, town.account("bob")
        self.algorithm = town.algorithm()
        offered = town.ocean.compute.get_c2d_environments(town.config["PROVIDER_URL"], LOCAL.chain_id)
        self.environment = next(each for each in offered if each["id"] == PAID)

    def pay(self, *further: Any) -> tuple[list[Any], Any]:
        """Orders of the model, of `further` datasets, and of the algorithm."""
        from ocean_lib.models.compute_input import ComputeInput

        for ddo in (self.model, *further):
            self.town.buy("bob", ddo.services[-1].datatoken)
        free = self.town.datatoken(self.algorithm.services[0].datatoken)
        if free.balanceOf(self.bob.address) < ONE:
            free.dispense(ONE, {"from": self.bob})
        inputs = [ComputeInput(ddo, ddo.services[-1]) for ddo in (self.model, *further)]
        paid: tuple[list[Any], Any] = self.town.ocean.assets.pay_for_compute_service(
            datasets=inputs,
            algorithm_data=ComputeInput(self.algorithm, self.algorithm.services[0]),
            compute_environment=self.environment["id"],
            valid_until=int(time.time()) + BOB_S,
            consume_market_order_fee_address=self.bob.address,
            tx_dict={"from": self.bob},
            consumer_address=self.environment["consumerAddress"],
        )
        return paid

    def start(self, model: Any, algorithm: Any, dataset_order: str) -> str:
        told = {"dataset": self.words.did, "dataset_order": dataset_order, "steps": STEPS, **SMALL}
        return str(self.town.ocean.compute.start(self.bob, model, self.environment["id"], algorithm, None, told))

    def ended(self, job_id: str) -> dict[str, Any]:
        ask, until = (self.model, self.model.services[-1], job_id, self.bob), time.monotonic() + WITHIN_S
        while True:
            told: dict[str, Any] = self.town.ocean.compute.status(*ask)
            if told["status"] in (31, 32, 41, 70):
                return told
            assert time.monotonic() < until, told
            time.sleep(0.5)


def test_a_client_of_ocean_s_trains_on_a_paid_dataset_and_owns_what_answers(town: Town, model: Any, words: Any) -> None:
    from ocean_lib.exceptions import DataProviderException

    buying = Buying(town, model, words)
    (ordered, dataset), algorithm = buying.pay(words)
    job_id = buying.start(ordered, algorithm, dataset.transfer_tx_id)
    ended = buying.ended(job_id)
    assert (ended["status"], ended["statusText"]) == (70, "Job finished")
    assert {path.rsplit("/", 1)[-1] for path in Shelf.fetched} == set(PARTS)
    ask = (model, model.services[-1], job_id)
    result = json.loads(town.ocean.compute.result(*ask, 0, buying.bob))
    assert result["steps"] == STEPS and result["last_loss"] < result["first_loss"]
    with pytest.raises(DataProviderException):
        town.ocean.compute.result(*ask, 0, town.account("mallory"))

    derived = town.stack.run("models", "--json").json["models"]
    (ours,) = [each for each in derived if (each.get("derivation") or {}).get("job") == job_id]
    ledger = open_ledger(town.stack.settings)
    assert ledger.asset(ours["nft"]).owner == buying.bob.address
    assert ledger.minted(ours["datatoken"], Address(buying.bob.address)) == (200 * ONE,)
    assert ours["derivation"]["dataset"] == words.did
    traced = town.stack.run("lineage", ours["id"], "--json")
    assert traced.code == 0, traced.out + traced.err
    assert [each["did"] for each in traced.json["assets"]] == [ours["id"], model.did]
    assert town.stack.run("buy", ours["id"], "--as", "derek").code == 0
    called = town.stack.run("call", ours["id"], "The market", "--as", "derek", "--max-tokens", "4", "--json")
    assert called.code == 0, called.out + called.err

    carol, bob = town.account("carol").address, buying.bob.address
    earned = revenue(town.rpc, LOCAL, [Address(words.services[0].datatoken)])
    assert told(earned, carol) == {("sale", LOCAL.ocean): ONE // 2, ("order", words.services[0].datatoken): 97 * ONE // 100}
    assert told(earned, bob) == {}

    trained = town.stack.run(
        *("train", model.did, "--dataset", words.did, "--steps", "5", "--batch-size", "4", "--sequence-length", "32"),
        *("--as", "elena", "--follow", "--json"),
        timeout_s=WITHIN_S,
    )
    assert trained.code == 0, trained.out + trained.err
    assert json.loads(trained.out.splitlines()[-1])["dataset_did"] == words.did
    shown = town.stack.run("revenue", "--did", words.did, "--json")
    assert shown.code == 0, shown.out + shown.err
    sold = [each for each in shown.json["earned"] if (each["to"], each["kind"]) == (carol, "sale")]
    assert [each["amount"] for each in sold] == [str(ONE)], "the command has paid for the dataset as well"
    assert shown.json["roles"][carol] == ["owner of Carol's words"]
    check_market_s_share(town, model.did)

    again, paid_algorithm = buying.pay()
    changed = town.ocean.assets.resolve(words.did)
    changed.services[-1].remove_publisher_trusted_algorithm(buying.algorithm.did)
    for left in ("nft", "datatokens", "event", "stats"):
        setattr(changed, left, None)
    town.ocean.assets.update(changed, {"from": town.account("carol")})
    town.resolved(words.did, lambda ddo: not ddo.services[-1].get_trusted_algorithms())
    with pytest.raises(DataProviderException, match="does not let"):
        buying.start(again[0], paid_algorithm, dataset.transfer_tx_id)


def check_market_s_share(town: Town, did: str) -> None:
    """What the operator earned with the model: time by the minute, and the publish fee of both orders; the community its share."""
    shown = town.stack.run("revenue", "--did", did, "--json")
    assert shown.code == 0, shown.out + shown.err
    roles, settings = shown.json["roles"], town.stack.settings
    sums = {(roles[each["to"]][0], each["kind"]): int(each["amount"]) for each in shown.json["earned"]}
    operator, seconds = "this market's operator", BOB_S + ELENA_S
    assert settings.jobs.price * (seconds - 30) // 60 <= sums[operator, "provider"] <= settings.jobs.price * seconds // 60
    assert sums[operator, "publish"] == 2 * settings.publish_fee
    assert sums["owner of Tiny", "sale"] == 2 * ONE and sums["owner of Tiny", "order"] == 2 * 97 * ONE // 100
    assert sums["Ocean's community", "community"] > 0


def told(earned: tuple[Earned, ...], to: str) -> dict[tuple[str, str], int]:
    sums: dict[tuple[str, str], int] = {}
    for each in earned:
        if each.to == to:
            sums[each.kind, each.token] = sums.get((each.kind, each.token), 0) + each.amount
    return sums
