"""What `/metrics` says of jobs."""

from __future__ import annotations

from unittest.mock import patch

from prometheus_client.parser import text_string_to_metric_families

from control_plane.errors import Unavailable
from control_plane.jobs.states import Kind, State
from tests.control_plane.jobs.asking import ask, bring
from tests.fixtures_market import Market, market

__all__ = ["market"]


def jobs_in(market: Market) -> dict[str, float]:
    families = text_string_to_metric_families(market.client.get("/metrics").text)
    return {one.labels["state"]: one.value for family in families for one in family.samples if one.name == "posthuman_jobs"}


def test_jobs_are_told_by_the_state_they_are_in(market: Market) -> None:
    assert set(jobs_in(market)) == {state.value for state in State} and not any(jobs_in(market).values())
    bring(market.services.jobs, Kind.INFER, State.FINISHED), ask(market.services.jobs)
    found = jobs_in(market)
    assert (found["queued"], found["finished"], found["running"]) == (1, 1, 0)


def test_a_silent_database_leaves_them_out_and_fails_no_scrape(market: Market) -> None:
    with patch.object(market.services.jobs, "by_state", side_effect=Unavailable("locked")):
        assert jobs_in(market) == {} and market.client.get("/metrics").status_code == 200
