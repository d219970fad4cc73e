"""What computing costs, and how Ocean's clients read it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.did import Address, TokenWei
from control_plane.errors import BadInput, NotFound
from control_plane.jobs.environments import FREE, PAID, Environment, find, offered
from control_plane.settings import read_settings

OCEAN, OPERATOR = Address("0x" + "a" * 40), Address("0x" + "b" * 40)
DAY_S = 24 * 3600
KEYS = {
    "id", "consumerAddress", "priceMin", "feeToken", "cpuNumber", "cpuType", "gpuNumber", "gpuType", "ramGB", "diskGB", "desc",
    "currentJobs", "maxJobs", "storageExpiry", "maxJobDuration", "lastSeen", "allowedChainId",
}  # fmt: skip


def environments(home: Path, **given_: str) -> tuple[Environment, ...]:
    settings = read_settings({"POSTHUMAN_HOME": str(home), **{f"POSTHUMAN_JOB_{name}": value for name, value in given_.items()}})
    return offered(settings.jobs, OCEAN, OPERATOR)


ONE = Environment(PAID, "", TokenWei(7), OCEAN, OPERATOR, 2, "x86_64", 0, "", 8, 10, 3000 * DAY_S, 9, 9, 60)


def test_a_minute_costs_the_price_and_25_hours_cost_25() -> None:
    hourly = replace(ONE, price=TokenWei(10**16))
    assert hourly.fee(60) == 10**16
    assert hourly.fee(25 * 3600) == 25 * 60 * 10**16
    assert hourly.fee(1) == -(-(10**16) // 60)


@given(st.integers(0, 2**100), st.integers(1, 3000 * DAY_S), st.integers(0, 3000 * DAY_S))
def test_a_fee_is_the_exact_price_rounded_up_and_more_time_never_costs_less(price: int, duration_s: int, more_s: int) -> None:
    environment = replace(ONE, price=TokenWei(price))
    fee = environment.fee(duration_s)
    assert Fraction(0) <= fee - Fraction(price * duration_s, 60) < 1
    assert environment.fee(min(duration_s + more_s, environment.max_duration_s)) >= fee
    assert (fee == 0) == environment.is_free


@pytest.mark.parametrize("duration_s", [0, -1, 3000 * DAY_S + 1])
def test_a_time_that_is_not_offered_has_no_fee(duration_s: int) -> None:
    with pytest.raises(BadInput, match="duration_s"):
        ONE.fee(duration_s)


def test_a_market_offers_a_paid_environment_and_a_free_one_with_caps(tmp_path: Path) -> None:
    paid, free = environments(tmp_path)
    assert (paid.id, paid.is_free, paid.fee_token, paid.consumer) == (PAID, False, OCEAN, OPERATOR)
    assert (free.id, free.is_free, free.fee(free.max_duration_s)) == (FREE, True, 0)
    assert free.max_duration_s < paid.max_duration_s
    assert free.max_jobs < paid.max_jobs
    assert free.max_jobs_of_an_owner == 1
    assert find((paid, free), FREE) is free
    with pytest.raises(NotFound) as caught:
        find((paid, free), "gpu")
    assert caught.value.code == "environment_unknown"


def test_settings_reach_the_environments(tmp_path: Path) -> None:
    (only,) = environments(
        tmp_path, FREE_S="0", PRICE_WEI="5", CPUS="3", GPUS="1", GPU_TYPE="a100", RAM_GB="4", MAX_S="90", QUEUE="2"
    )
    assert (only.price, only.cpus, only.gpus, only.gpu_type, only.ram_gb) == (5, 3, 1, "a100", 4)
    assert (only.max_duration_s, only.max_jobs) == (90, 2)


@pytest.mark.parametrize(("name", "value"), [("CPUS", "0"), ("PRICE_WEI", "-1"), ("MAX_S", "0"), ("FREE_S", "x"), ("QUEUE", "0")])
def test_a_setting_that_makes_no_sense_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"POSTHUMAN_JOB_{name}"):
        environments(tmp_path, **{name: value})


def test_oceans_clients_read_every_field_and_find_the_free_one(tmp_path: Path) -> None:
    listed = [each.to_ocean(under_way=1, chain_id=8996, now=1_700_000_000.9) for each in environments(tmp_path)]
    assert all(set(each) == KEYS for each in listed)
    assert next(each for each in listed if float(each["priceMin"]) == float(0))["id"] == FREE  # as ocean_compute.py does
    assert (listed[0]["priceMin"], listed[0]["currentJobs"], listed[0]["lastSeen"]) == (0.01, 1, 1_700_000_000)
    assert listed[0]["allowedChainId"] == [8996]
