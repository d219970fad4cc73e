"""A job as its owner's terminal shows it, and as a program reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from control_plane.chain.revenue import Earned
from control_plane.did import Address, TokenWei, TransactionHash
from deploy.commands.money import revenue_lines, sums_of
from deploy.job_showing import job_lines, print_changes, show_bar

QUEUED: dict[str, Any] = {
    "job_id": "1" * 32,
    "kind": "train",
    "did": "did:op:" + "a" * 64,
    "state": "queued",
    "status_text": "Warming up: number 1 in the queue",
    "queue_position": 1,
    "progress": None,
    "result": None,
    "derived_did": None,
    "is_payment_given_back": False,
    "payment": "0x" + "2" * 64,
}


def at(step: int, state: str = "running") -> dict[str, Any]:
    progress = {"step": step, "steps": 20, "loss": 3.25, "steps_per_second": 4.0}
    return {**QUEUED, "state": state, "status_text": state, "queue_position": None, "progress": progress}


def story() -> Iterator[dict[str, Any]]:
    yield from (QUEUED, QUEUED, at(1), at(1), at(20), {**at(20, "finished"), "derived_did": "did:op:" + "b" * 64})


def test_each_change_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    last = print_changes(story())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["state"], (line["progress"] or {}).get("step")) for line in lines] == [
        ("queued", None),
        ("running", 1),
        ("running", 20),
        ("finished", 20),
    ]
    assert last == lines[-1]


def test_the_bar_ends_with_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_bar(story())["state"] == "finished"
    assert "Warming up: number 1 in the queue" in capsys.readouterr().err


def test_a_job_that_ends_in_the_queue_shows_no_bar() -> None:
    stopped = {**QUEUED, "state": "stopped", "status_text": "Job stopped"}
    assert show_bar(iter((QUEUED, stopped))) == stopped


def test_a_finished_training_names_what_is_owned_and_a_failed_one_its_payment() -> None:
    lines = job_lines({**at(20, "finished"), "derived_did": "did:op:" + "b" * 64, "result": {"loss": 3.0, "texts": []}})
    assert "step 20 of 20, loss 3.2500, 4.00 steps/s" in lines
    assert "yours: did:op:" + "b" * 64 in lines and "loss: 3.0" in lines
    failed = job_lines({**QUEUED, "state": "failed", "status_text": "Algorithm failed", "is_payment_given_back": True})
    assert failed[-1].endswith(f"posthuman train {QUEUED['did']} --order {QUEUED['payment']}")


def test_revenue_is_added_up_by_receiver_kind_and_token() -> None:
    alice, ocean, datatoken = (Address("0x" + digit * 40) for digit in "123")
    sent = TransactionHash("0x" + "4" * 64)
    sums = sums_of(
        (
            Earned("sale", alice, ocean, TokenWei(10**18), datatoken, sent),
            Earned("sale", alice, ocean, TokenWei(5 * 10**17), datatoken, sent),
            Earned("order", alice, datatoken, TokenWei(97 * 10**16), datatoken, sent),
        )
    )
    assert revenue_lines(sums, {ocean: "OCEAN", datatoken: "Tiny"}, {alice: ["owner of Tiny"]}) == [
        f"{alice}: owner of Tiny",
        "  datatokens of orders   0.97 Tiny",
        "  datatokens sold        1.5 OCEAN",
    ]
