"""The stock `ocean.py` 3.1.2 orders, starts, follows and stops jobs, on the real contracts; the worker is played by the test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from control_plane.chain.networks import LOCAL
from control_plane.did import parse_address
from control_plane.jobs.states import Kind, State
from control_plane.serving.listing import Listing
from deploy.local.chain import local_accounts
from tests.fixtures_market import ONE
from tests.fixtures_ocean import Stock, model, node, stock

pytestmark = [pytest.mark.live, pytest.mark.slow]
__all__ = ["model", "node", "stock"]


class Computing:
    """Bob orders computing as the documentation of `ocean.py` shows it."""

    def __init__(self, stock: Stock, model: Listing) -> None:
        from ocean_lib.models.datatoken_base import DatatokenBase

        self.stock, self.bob, compute = stock, stock.account("bob"), stock.ocean.compute
        self.environment = next(each for each in compute.get_c2d_environments(stock.url, LOCAL.chain_id) if each["priceMin"] > 0)
        self.ddo = stock.ocean.assets.resolve(model.did)
        self.service = self.ddo.services[1]
        self.algorithm = stock.ocean.assets.resolve(stock.services.algorithms[Kind.EVALUATE].did)
        datatoken = DatatokenBase.get_typed(stock.config, model.datatoken)
        datatoken.mint(self.bob.address, 5 * ONE, {"from": stock.account("alice")})
        token = DatatokenBase.get_typed(stock.config, LOCAL.ocean)
        token.approve(model.datatoken, 100 * ONE, {"from": self.bob})

    def pay(self, order: str | None = None, **told: Any) -> tuple[Any, Any]:
        """told: parameters that the client sends before it pays."""
        from ocean_lib.models.compute_input import ComputeInput
        from ocean_lib.models.datatoken_base import DatatokenBase

        free = DatatokenBase.get_typed(self.stock.config, self.algorithm.services[0].datatoken)
        if free.balanceOf(self.bob.address) < ONE:
            free.dispense(ONE, {"from": self.bob})
        dataset = ComputeInput(self.ddo, self.service, order)
        algorithm = ComputeInput(self.algorithm, self.algorithm.services[0], userdata=told or None)
        datasets, paid = self.stock.ocean.assets.pay_for_compute_service(
            datasets=[dataset],
            algorithm_data=algorithm,
            compute_environment=self.environment["id"],
            valid_until=int(self.stock.services.clock()) + 600,
            consume_market_order_fee_address=self.bob.address,
            tx_dict={"from": self.bob},
            consumer_address=self.environment["consumerAddress"],
        )
        return datasets[0], paid

    def start(self, dataset: Any, algorithm: Any, **told: Any) -> str:
        return str(self.stock.ocean.compute.start(self.bob, dataset, self.environment["id"], algorithm, None, told))

    def status(self, job_id: str, name: str = "bob") -> dict[str, Any]:
        found: dict[str, Any] = self.stock.ocean.compute.status(self.ddo, self.service, job_id, self.stock.account(name))
        return found

    def finish(self, job_id: str) -> None:
        """What a worker does."""
        jobs, worker = self.stock.services.jobs, "e" * 32
        claimed = jobs.claim(worker)
        assert claimed is not None and claimed.job_id == job_id
        jobs.advance(job_id, State.PROVISIONING, State.RUNNING, worker=worker)
        jobs.advance(job_id, State.RUNNING, State.STORING, worker=worker, result={"loss": 3.25})
        jobs.advance(job_id, State.STORING, State.FINISHED, worker=worker, result={"loss": 3.25})


def test_a_job_is_ordered_started_followed_and_read(stock: Stock, model: Listing) -> None:
    from ocean_lib.exceptions import DataProviderException

    computing = Computing(stock, model)
    before = stock.services.ledger.balance(LOCAL.ocean, local_accounts()["operator"].address)
    dataset, algorithm = computing.pay()
    job_id = computing.start(dataset, algorithm, texts=["a whale at sea"])
    earned = stock.services.ledger.balance(LOCAL.ocean, local_accounts()["operator"].address) - before
    place = next(each for each in stock.services.environments if each.id == computing.environment["id"])
    assert place.fee(590) <= earned <= place.fee(600)
    told = computing.status(job_id)
    assert (told["ok"], told["status"], told["owner"]) == (True, 1, computing.bob.address)
    computing.finish(job_id)
    assert computing.status(job_id)["status"] == 70
    ask = (computing.ddo, computing.service, job_id)
    assert json.loads(stock.ocean.compute.result(*ask, 0, computing.bob)) == {"loss": 3.25}
    assert [json.loads(each) for each in stock.ocean.compute.compute_job_result_logs(*ask, computing.bob)] == [{"loss": 3.25}]
    with pytest.raises(DataProviderException, match="the id of a job"):
        computing.status(job_id, "mallory")
    with pytest.raises(DataProviderException, match="the id of a job"):
        stock.ocean.compute.result(*ask, 0, stock.account("mallory"))


def test_an_order_is_used_again_for_another_job_which_is_stopped(stock: Stock, model: Listing) -> None:
    from ocean_lib.exceptions import DataProviderException

    computing = Computing(stock, model)
    dataset, algorithm = computing.pay()
    first = computing.start(dataset, algorithm, texts=["one"])
    with pytest.raises(DataProviderException, match="it has paid for job"):
        computing.start(dataset, algorithm, texts=["another"])
    again, algorithm = computing.pay(dataset.transfer_tx_id)
    assert again.transfer_tx_id != dataset.transfer_tx_id
    second = computing.start(again, algorithm, texts=["another"])
    assert second != first
    stopped = stock.ocean.compute.stop(computing.ddo, computing.service, second, computing.bob)
    assert (stopped["status"], stopped["statusText"]) == (70, "Job stopped")


def test_code_of_ones_own_and_parameters_that_are_not_known_start_nothing(stock: Stock, model: Listing) -> None:
    from ocean_lib.exceptions import DataProviderException

    computing = Computing(stock, model)
    dataset, algorithm = computing.pay()
    with pytest.raises(DataProviderException, match="no such parameter"):
        computing.start(dataset, algorithm, steps=10**9)
    _, _, other = stock.publish("own.py", name="Own code")
    from ocean_lib.models.compute_input import ComputeInput

    own = ComputeInput(other, other.services[0], dataset.transfer_tx_id)
    with pytest.raises(DataProviderException, match="one of this market's algorithms"):
        computing.start(dataset, own, texts=["one"])
    assert computing.start(dataset, algorithm, texts=["one"])


def test_parameters_that_are_told_with_the_price_are_refused_with_it_and_kept(stock: Stock, model: Listing) -> None:
    from ocean_lib.exceptions import DataProviderException

    computing = Computing(stock, model)
    held = stock.services.ledger.balance(model.datatoken, parse_address(computing.bob.address))
    with pytest.raises(DataProviderException, match="no such parameter"):
        computing.pay(steps=10**9)
    assert stock.services.ledger.balance(model.datatoken, parse_address(computing.bob.address)) == held > 0
    dataset, algorithm = computing.pay(texts=["one whale"])
    job = computing.start(dataset, algorithm)
    assert json.loads(stock.services.jobs.get(job).parameters)["texts"] == ["one whale"]
