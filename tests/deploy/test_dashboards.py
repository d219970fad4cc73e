"""Rules and dashboard can be read, and name what the documentation names; `tests/stories/test_metrics.py` holds that to a stack."""

from __future__ import annotations

import re

import pytest
import yaml

from deploy.local.environment import WANTED
from tests.dashboards import DASHBOARDS, documented, expressions, named, panels, rules


def test_each_rule_says_what_is_broken_how_bad_and_where_to_look() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found) > 5
    for rule in found:
        assert rule["labels"]["severity"] in ("page", "warn"), rule
        assert set(rule["annotations"]) == {"summary", "look"}, rule
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule


def test_each_panel_asks_something_and_has_its_own_place() -> None:
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found]
    assert len(set(places)) == len(places)
    for panel in found:
        assert panel["type"] == "row" or panel["targets"], panel["title"]


@pytest.mark.parametrize("expression", list(expressions()))
def test_an_expression_is_balanced_and_names_what_is_documented(expression: str) -> None:
    assert named(expression) | ({"up"} if "up{" in expression else set()), "it names no metric"
    assert named(expression) <= documented(), named(expression) - documented()
    plain = re.sub(r'"[^"]*"', '""', expression)
    for opening, closing in ("()", "{}", "[]"):
        assert plain.count(opening) == plain.count(closing), expression


def test_the_scrape_targets_are_the_ports_that_a_stack_wants() -> None:
    scraped = yaml.safe_load((DASHBOARDS / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped["scrape_configs"]}
    web, triton = WANTED["WEB_PORT"], WANTED["TRITON_METRICS_PORT"]
    assert targets == {"posthuman": [f"127.0.0.1:{web}"], "triton": [f"127.0.0.1:{triton}"]}
    assert scraped["rule_files"] == ["alerts.yml"]


def test_every_alert_is_explained() -> None:
    page = (DASHBOARDS.parent.parent / "docs" / "operating.md").read_text()
    assert {rule["alert"] for rule in rules()} == set(re.findall(r"`(Posthuman[A-Za-z]+)`", page))
