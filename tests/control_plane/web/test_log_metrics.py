"""What `/metrics` says of receipts and the log, and that a scrape never fails for it."""

from __future__ import annotations

from unittest.mock import patch

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from control_plane.receipts.keeper import Step
from control_plane.receipts.keeper_metrics import KeeperMetrics, keeper_metrics_file
from tests.fixtures_market import Market


def scraped(market: Market) -> dict[str, float]:
    """Every sample without labels; what Prometheus could not read raises."""
    answer = market.client.get("/metrics")
    assert answer.status_code == 200
    families = list(text_string_to_metric_families(answer.text))
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "a family is told twice"
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_a_receipt_is_counted_and_its_lag_grows_until_it_is_anchored(market: Market) -> None:
    token = market.sign_in("bob", market.gpt)
    assert scraped(market)["posthuman_anchor_lag_seconds"] == 0
    market.complete(token)
    market.clock.now += 90
    found = scraped(market)
    assert (found["posthuman_receipts_total"], found["posthuman_receipts_waiting"], found["posthuman_log_leaves"]) == (1, 1, 0)
    assert 90 <= found["posthuman_anchor_lag_seconds"] < 91
    assert found["posthuman_merge_delay_seconds"] == market.services.settings.merge_delay_s
    market.log.integrate()
    market.clock.now += 10
    found = scraped(market)
    assert (found["posthuman_receipts_total"], found["posthuman_receipts_waiting"], found["posthuman_log_leaves"]) == (1, 0, 1)
    assert (found["posthuman_log_checkpoint_leaves"], found["posthuman_log_anchored_leaves"]) == (1, 0)
    assert 100 <= found["posthuman_anchor_lag_seconds"] < 101, "a checkpoint is no anchor"


def test_a_silent_database_costs_the_logs_figures_and_no_others(market: Market) -> None:
    market.complete(market.sign_in("bob", market.gpt))

    def silent(*_arguments: object, **_named: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("database is locked"))

    with patch("sqlalchemy.engine.base.Connection.execute", silent):
        found, text = scraped(market), market.client.get("/metrics").text
    assert found["posthuman_log_readable"] == 0
    assert "posthuman_log_leaves" not in found
    assert "posthuman_calls_total{" in text
    assert "secret" not in text
    assert scraped(market)["posthuman_log_readable"] == 1


def test_what_the_keeper_told_last_is_shown_also_when_it_is_gone(market: Market) -> None:
    assert "posthuman_keeper_last_sign_timestamp_seconds" not in scraped(market)
    file = keeper_metrics_file(market.services.settings.home)
    (step,) = KeeperMetrics(file, lambda: 1_700_000_000.0).watched([Step("anchor", 1, lambda: None)])
    step.run()
    assert scraped(market)["posthuman_keeper_last_sign_timestamp_seconds"] == 1_700_000_000
