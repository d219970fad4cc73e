"""The keeper's loop, its lease, and its steps on a simulated chain."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from control_plane.errors import IntegrityBroken, Unavailable
from control_plane.flows.keep import keeper_steps, request_anchor
from control_plane.receipts.anchors import LOG_KEY
from control_plane.receipts.keeper import Keeper, Step, lease
from control_plane.receipts.receipt import CallStatus
from tests.fixtures_log import WORKER, LogMarket


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_steps_run_when_they_are_due_and_in_their_order() -> None:
    clock, ran = Clock(), []
    keeper = Keeper([Step("a", 1, lambda: ran.append("a")), Step("b", 3, lambda: ran.append("b"))], lambda _: None, clock)
    assert keeper.tick() == 1
    for _ in range(3):
        clock.now += 1
        keeper.tick()
    assert ran == ["a", "b", "a", "a", "a", "b"]


def test_a_failing_step_stops_no_other_and_is_reported_once_until_it_recovers() -> None:
    clock, reports, ran = Clock(), [], []
    errors: list[Exception | None] = [Unavailable("the node does not answer")] * 3 + [ValueError("secret 0xabc"), None]

    def failing() -> Mapping[str, object] | None:
        error = errors.pop(0)
        if error is not None:
            raise error
        return {"done": True}

    keeper = Keeper([Step("bad", 1, failing), Step("good", 1, lambda: ran.append(1))], reports.append, clock)
    for _ in range(5):
        keeper.tick()
        clock.now += 10
    assert len(ran) == 5
    assert [report.get("error", "") for report in reports] == ["unavailable", "internal_error", "", ""]
    assert "secret" not in str(reports) and "ValueError at test_keeper.py" in str(reports)
    assert reports[-2:] == [{"step": "bad", "recovered": True}, {"step": "bad", "done": True}]


def test_a_step_that_cannot_yet_is_not_asked_again_at_once() -> None:
    clock, asked = Clock(), []

    def failing() -> None:
        asked.append(clock.now)
        raise Unavailable("later", retry_after_s=30)

    keeper = Keeper([Step("slow", 1, failing)], lambda _: None, clock)
    assert keeper.tick() == 30
    clock.now += 29
    keeper.tick()
    assert len(asked) == 1


def test_the_loop_ends_when_told() -> None:
    stop = threading.Event()
    Keeper([Step("end", 0.01, lambda: stop.set())], lambda _: None).run_until(stop)


def test_only_one_keeper_runs_on_a_state_folder(tmp_path: Path) -> None:
    path = tmp_path / "run" / "keeper.lock"
    with lease(path):
        with pytest.raises(Unavailable, match="another"), lease(path):
            pass
        with pytest.raises(Unavailable), lease(path, wait_s=0.15):
            pass
    with lease(path):
        pass


class Kept:
    """A keeper on a market, whose time is the market's."""

    def __init__(self, market: LogMarket, interval_s: float = 600, receipts: int = 100) -> None:
        self.reports: list[Mapping[str, object]] = []
        self.run, self.clock = market.folder / "run", Clock()
        steps = keeper_steps(
            store=market.store,
            is_alive=lambda name: name != WORKER,
            log=market.log,
            ledger=market.ledger,
            wallet=market.operator,
            log_nft=market.log_nft,
            run_folder=self.run,
            checkpoint_interval_s=1,
            anchor_interval_s=interval_s,
            anchor_receipts=receipts,
            watch=lambda: None,
            watch_chain=lambda: None,
            watch_listings=lambda: None,
            index=lambda: None,
            clock=self.clock,
        )
        self.keeper = Keeper(steps, self.reports.append, self.clock)

    def tick(self, seconds: float = 2) -> list[str]:
        self.reports.clear()
        self.clock.now += seconds
        self.keeper.tick()
        return [f"{report['step']} {report.get('error', '')}".strip() for report in self.reports]


def test_the_keeper_checkpoints_what_is_new_and_is_silent_when_nothing_is(market: LogMarket) -> None:
    kept = Kept(market)
    assert kept.tick() == []
    market.issue(2)
    assert kept.tick() == ["integrate"]
    assert kept.tick() == []
    assert market.public().size == 2
    assert market.log.anchors() == ()


def test_the_keeper_anchors_by_time_and_by_number(market: LogMarket) -> None:
    kept = Kept(market, interval_s=600, receipts=5)
    market.issue(1)
    assert kept.tick() == ["integrate"]
    assert kept.tick(601) == ["anchor"]
    market.issue(5)
    assert kept.tick() == ["integrate", "anchor"]
    assert [anchor.size for anchor in market.log.anchors()] == [1, 6]


def test_a_request_anchors_what_is_stored_now_and_is_then_gone(market: LogMarket) -> None:
    kept = Kept(market)
    (made,) = market.issue(1)
    path = request_anchor(kept.run)
    kept.tick()
    assert not path.exists()
    assert market.verify(made).is_verified
    request_anchor(kept.run)
    kept.tick()
    assert not path.exists()
    assert len(market.log.anchors()) == 1  # nothing new: nothing written


def test_a_request_survives_a_node_that_is_down(market: LogMarket) -> None:
    kept = Kept(market)
    market.issue(1)
    path = request_anchor(kept.run)
    market.ledger.is_down = True
    assert kept.tick() == ["integrate", "anchor unavailable"]
    assert path.exists()
    market.ledger.is_down = False
    assert kept.tick(10) == ["anchor", "anchor"]  # recovered, and done
    assert not path.exists()


def test_the_keeper_closes_the_calls_of_a_dead_worker_and_logs_the_cut_stream(market: LogMarket) -> None:
    kept = Kept(market)
    market.reserve()
    market.reserve(is_streaming=True)
    assert kept.tick() == ["reap", "integrate"]
    assert kept.reports[0] == {"step": "reap", "cut": 1, "released": 1}
    (issued,) = market.store.receipts_of(order=market.order)
    assert issued.signed.receipt.status is CallStatus.CUT


def test_a_broken_log_is_reported_and_never_anchored(market: LogMarket) -> None:
    kept = Kept(market, receipts=1)
    market.issue(2)
    market.log.integrate()
    (market.folder / "guard" / "checkpoint").unlink()
    market.log._tree = None
    assert kept.tick() == ["integrate integrity_broken", "anchor integrity_broken"]
    with pytest.raises(IntegrityBroken):
        market.log.integrate()
    assert market.ledger.data_history(market.log_nft, LOG_KEY) == ()
