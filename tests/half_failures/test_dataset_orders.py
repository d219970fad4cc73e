"""An order of a dataset is judged before a model is paid for, and a job that has both its payments is asked for before an offer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from control_plane.did import TokenWei, UnixSeconds
from control_plane.errors import PosthumanError, Refused, Unavailable
from control_plane.flows import dataset_offer
from control_plane.jobs.environments import FREE, PAID
from deploy.commands.job_buyer import price_lines
from deploy.market import MarketRefused
from tests.fixtures_stand import Stand, stand
from tests.half_failures.test_job_orders import Words, words

__all__ = ["stand", "words"]


@pytest.mark.parametrize("environment", [FREE, PAID])
def test_a_job_with_a_dataset_whose_answer_was_lost_is_found_and_not_refused_for_itself(
    stand: Stand, words: Words, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A free environment takes one job of an owner: the one that is asked for again."""
    add = stand.market.services.jobs.add

    def lost(*arguments: Any) -> Any:
        add(*arguments)
        raise Unavailable("the database does not answer")

    with monkeypatch.context() as broken:
        broken.setattr(stand.market.services.jobs, "add", lost)
        with pytest.raises(PosthumanError):
            stand.order(environment=environment, **words.wanted)
    (queued,) = stand.jobs()
    assert stand.order(environment=environment, **words.wanted)["job_id"] == queued["job_id"]
    assert (len(stand.jobs()), stand.orders()) == (1, 2)


def silent(*_arguments: Any) -> None:
    raise Unavailable("no answer")


def test_a_dataset_order_that_ended_before_its_job_was_queued_is_replaced_and_the_model_is_not_paid_again(
    stand: Stand, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(stand.buyers, "order_job", silent)
        with pytest.raises(Unavailable):
            stand.order(environment=PAID, **words.wanted)
    order_facts, dataset = stand.market.ledger.order_facts, words.asset.datatoken

    def ended(transaction: Any, datatoken: Any) -> Any:
        facts = order_facts(transaction, datatoken)
        is_first = transaction == first and datatoken == dataset
        return replace(facts, ordered_at=UnixSeconds(facts.ordered_at - 3601)) if is_first else facts

    _, first = stand.files.dataset_payment(words.asset.did)
    monkeypatch.setattr(stand.market.ledger, "order_facts", ended)
    job = stand.order(**words.wanted)
    assert stand.orders() == 3 and job["dataset_order"] != first


def test_an_order_of_a_dataset_that_is_named_is_judged_before_the_model_is_paid(
    stand: Stand, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = stand.order(**words.wanted)["dataset_order"]
    before = stand.orders()

    def unsold(*_: Any) -> Any:
        raise Refused("its owner may give it", code="not_for_sale")

    with monkeypatch.context() as only:  # its owner hands it out himself: an order of his is as good as any
        only.setattr(dataset_offer, "_offer", unsold)
        price = words.cost + 10**17
        second = stand.order(most=TokenWei(price + price // 100), dataset_order=named, **words.wanted)
    assert (second["dataset_order"], stand.orders()) == (named, before + 1)
    assert stand.told[-1].dataset is None
    stand.market.clock.now += 3601
    stand.market.ledger.advance_time(3601)
    spent = stand.paid()
    with pytest.raises(Refused, match="that ended at") as over:
        stand.order(dataset_order=named, **words.wanted)
    assert over.value.code == "dataset_order_not_good"
    with pytest.raises((Refused, MarketRefused)):  # of another asset
        stand.order(dataset_order=second["payment"], **words.wanted)
    with pytest.raises(MarketRefused):  # and beside a job that reads no dataset
        stand.order(dataset_order=named)
    assert stand.paid() == spent
    assert stand.order(**words.wanted)["dataset_order"] != named
    lines = price_lines(stand.told[-1], stand.wanted)
    assert any(line.startswith("the dataset was paid for before, but not for this job: order: expected") for line in lines)
