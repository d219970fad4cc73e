"""Anchoring, with the write broken before and after it is done: one anchor a state, whatever was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.chain.ocean import open_reader
from control_plane.errors import IntegrityBroken, OutcomeUnknown, Refused, Unavailable
from control_plane.flows.anchor import is_anchor_due
from control_plane.receipts.anchors import LOG_KEY, Anchor, anchor_value, parse_anchor_value, read_anchors
from control_plane.receipts.tiles import TileFolder
from tests.check_market import Seen, check_market
from tests.fixtures_chain import anvil, real_chain
from tests.fixtures_log import LogMarket, market
from tests.simulators.rpc_proxy import running_proxy

__all__ = ["anvil", "market"]


def anchors_of(market: LogMarket) -> list[int]:
    """Sizes on chain; a stranger finds each one to be a state of the public log, and the public list says the same."""
    found = read_anchors(market.ledger, market.log_nft)
    public = market.public()
    for anchor in found:
        assert public.root(anchor.size) == anchor.root
    assert market.log.anchors() == tuple(Anchor.from_json(anchor.to_json()) for anchor in found)
    return [anchor.size for anchor in found]


def log_some(market: LogMarket, count: int = 2) -> None:
    market.issue(count)
    market.log.integrate()


def pending(market: LogMarket) -> Path:
    return market.folder / "run" / "pending.json"


def test_what_is_new_is_anchored_once(market: LogMarket) -> None:
    assert market.anchor() is None
    log_some(market)
    found = market.anchor()
    assert found is not None and (found.size, found.root) == (2, market.log.root(2))
    assert market.anchor() is None
    log_some(market)
    market.anchor()
    assert anchors_of(market) == [2, 4]
    assert not pending(market).exists()


def test_an_anchor_that_was_not_sent_is_sent_later(market: LogMarket) -> None:
    log_some(market)
    market.ledger.fail_next("record_data", "before")
    with pytest.raises(Unavailable):
        market.anchor()
    assert pending(market).exists()
    log_some(market)  # meanwhile the log grows: first what was begun, then the rest
    first, second = market.anchor(), market.anchor()
    assert first is not None and second is not None
    assert anchors_of(market) == [2, 4]


def test_an_anchor_whose_answer_was_lost_is_found_and_not_sent_twice(market: LogMarket) -> None:
    log_some(market)
    market.ledger.fail_next("record_data", "after")
    with pytest.raises(OutcomeUnknown):
        market.anchor()
    log_some(market)
    found = market.anchor()
    assert found is not None and found.size == 4  # the history shows the first one: nothing is sent for it again
    assert anchors_of(market) == [2, 4]


def test_an_outcome_that_stays_unknown_sends_nothing_else(market: LogMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction is in nobody's block yet: the history is silent, and the ledger says unknown each time it is asked."""
    log_some(market)
    asked: list[str] = []

    def unknown(_wallet: object, key: str, *_: object) -> None:
        asked.append(key)
        raise OutcomeUnknown("sent, not seen")

    with monkeypatch.context() as patch:
        patch.setattr(market.ledger, "record_data", unknown)
        for _ in range(3):
            with pytest.raises(OutcomeUnknown):
                market.anchor()
            log_some(market)
    assert len(set(asked)) == 1  # always the same key: `Ledger` looks, and does not send
    market.anchor()
    market.anchor()
    assert anchors_of(market) == [2, 8]


def test_a_keeper_killed_before_or_after_sending_goes_on_with_the_same_anchor(market: LogMarket) -> None:
    log_some(market)
    for when in ("before", "after"):
        market.ledger.fail_next("record_data", when)
        with pytest.raises((Unavailable, OutcomeUnknown)):
            market.anchor()
        market.log = market.open_log()  # all that is remembered is on disk
    log_some(market)
    market.anchor()
    assert anchors_of(market) == [2, 4]


def test_a_mined_anchor_that_a_node_does_not_show_yet_is_looked_for_again(
    market: LogMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_some(market)
    with monkeypatch.context() as patch:
        patch.setattr(market.ledger, "data_history", lambda *_: ())
        with pytest.raises(OutcomeUnknown, match="does not show it"):
            market.anchor()
    assert pending(market).exists()
    assert market.anchor() is None
    assert anchors_of(market) == [2] and not pending(market).exists()


def test_a_reverted_anchor_is_refused_and_forgotten(market: LogMarket) -> None:
    log_some(market)
    market.operator, owner = market.alice, market.operator  # alice has no store permission on the log's NFT
    with pytest.raises(Refused, match="NOT STORE UPDATER"):
        market.anchor()
    assert not pending(market).exists()
    market.operator = owner
    assert market.anchor() is not None


def test_a_node_that_is_down_sends_nothing_and_the_next_anchor_covers_all(market: LogMarket) -> None:
    log_some(market)
    market.ledger.is_down = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            market.anchor()
        log_some(market)
    market.ledger.is_down = False
    market.anchor()
    assert anchors_of(market) == [6]


def test_a_log_that_the_chain_contradicts_is_not_anchored(market: LogMarket) -> None:
    log_some(market)
    value = anchor_value(2, b"\x00" * 32)
    market.ledger.record_data(market.operator, "somebody else's", market.log_nft, LOG_KEY, value)
    log_some(market)
    before = len(market.ledger.writes)
    with pytest.raises(IntegrityBroken, match="has root"):
        market.anchor()
    assert len(market.ledger.writes) == before and not pending(market).exists()


def test_a_log_smaller_than_its_last_anchor_is_not_anchored(market: LogMarket) -> None:
    log_some(market)
    value = anchor_value(50, b"\x00" * 32)
    market.ledger.record_data(market.operator, "a larger one", market.log_nft, LOG_KEY, value)
    with pytest.raises(IntegrityBroken, match="only 2"):
        market.anchor()


def test_anchors_that_a_reorganisation_dropped_are_forgotten_and_written_again(market: LogMarket) -> None:
    log_some(market)
    market.anchor()
    log_some(market)
    market.anchor()
    dropped = market.ledger._nfts[market.log_nft].data[LOG_KEY].pop()
    market.ledger._done = {key: done for key, done in market.ledger._done.items() if done[1].__dict__.get("block") != dropped.block}
    found = market.anchor()
    assert found is not None and found.size == 4
    assert anchors_of(market) == [2, 4]


def test_a_damaged_note_of_a_pending_anchor_is_not_guessed_at(market: LogMarket) -> None:
    log_some(market)
    pending(market).parent.mkdir(exist_ok=True)
    for content in ("", "{}", '{"size": "2"}', '{"size": -1}'):
        pending(market).write_text(content)
        with pytest.raises(IntegrityBroken):
            market.anchor()


@pytest.mark.live
@pytest.mark.parametrize("is_killed", [False, True], ids=["the same keeper", "a new keeper"])
@pytest.mark.parametrize("what", ["request", "answer"])
def test_an_anchor_that_a_real_node_loses_is_on_chain_once(anvil: str, tmp_path: Path, what: str, is_killed: bool) -> None:
    with running_proxy(anvil) as proxy:
        market = LogMarket(tmp_path, real_chain(proxy.url, tmp_path / "outbox"))
        given = market.issue(3)
        market.log.integrate()
        before = len(proxy.sent)
        proxy.lose("eth_sendRawTransaction", what)
        with pytest.raises(OutcomeUnknown):
            market.anchor()
        assert pending(market).exists()
        if is_killed:
            market.log = market.open_log()
        given += market.issue(2)  # meanwhile the log grows
        market.log.integrate()
        first = [anchor for anchor in (market.anchor(), market.anchor()) if anchor is not None]
        assert first[-1].size == 5
        assert market.anchor() is None
        assert len(set(proxy.sent[before:])) == 2, "one transaction an anchor, however often it was sent"
        assert not pending(market).exists()
    reader = open_reader(anvil, market.ledger.network.chain_id)  # past the proxy and past all our own books
    sizes = [parse_anchor_value(record.value)[0] for record in reader.data_history(market.log_nft, LOG_KEY)]
    assert sizes == [3, 5]
    seen = Seen((), market.log_nft, orders=[(market.order, market.did)], log=TileFolder(market.folder / "log"), receipts=given)
    check_market(reader, seen)


def test_an_anchor_s_value_is_forty_bytes() -> None:
    value = anchor_value(258, b"\x07" * 32)
    assert len(value) == 40 and value[:8] == b"\0\0\0\0\0\0\x01\x02"
    assert parse_anchor_value(value) == (258, b"\x07" * 32)


@pytest.mark.parametrize(
    ("unanchored", "elapsed", "is_requested", "is_due"),
    [
        (0, 1e9, True, False),
        (1, 599, False, False),
        (1, 600, False, True),
        (100, 0, False, True),
        (99, 0, False, False),
        (1, 0, True, True),
    ],
)
def test_anchors_are_due_by_time_by_number_or_on_request(unanchored: int, elapsed: float, is_requested: bool, is_due: bool) -> None:
    assert is_anchor_due(1000 + elapsed, 1000, unanchored, 600, 100, is_requested) is is_due
