"""A line of assets, walked and checked: an honest one, and each lie that a market or an owner could tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.chain.custody import mint_action
from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL, data_key
from control_plane.chain.lineage import Parent
from control_plane.chain.ocean import OceanLedger
from control_plane.did import Bytes32, Did, TokenWei
from control_plane.errors import BadInput, NotFound
from control_plane.flows.derive import MINTED, derive
from control_plane.flows.lineage import Link, Said, trace
from control_plane.receipts.verification import Verdict
from control_plane.serving.listing import Listing
from tests.fixtures_chain import BOTH, anvil, either_chain
from tests.fixtures_derive import published, trained
from tests.fixtures_publish import Stand, open_stand
from tests.simulators.ledger import SimulatedLedger

__all__ = ["anvil"]


@dataclass
class Line:
    """M1 is Alice's; Bob trained M2 from it, and Carol M3 from that."""

    stand: Stand
    first: Listing
    second: Listing
    third: Listing

    def said(self, did: Did) -> Said | None:
        try:
            listing = self.stand.catalogue.find(did)
        except NotFound:
            return None
        return Said(listing.name, listing.model_digest, None if listing.statement is None else json.loads(listing.statement))

    def trace(self, say: Callable[[Did], Said | None] | None = None) -> tuple[Link, ...]:
        return trace(self.stand.chain.ledger, say or self.said, self.third.did, self.third.nft)

    def record(self, who: str, listing: Listing, label: str, value: bytes) -> None:
        key = f"{who} {listing.did} {label} {value.hex()}"
        self.stand.chain.ledger.record_data(self.stand.chain.wallets[who], key, listing.nft, data_key(label), value)


@pytest.fixture(params=BOTH)
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Line:
    stand = open_stand(either_chain(request.param, request, tmp_path), tmp_path)
    operator, bob, carol = (stand.chain.wallets[name] for name in ("operator", "bob", "carol"))
    first = published(stand)
    second = derive(stand.market, operator, trained(stand, first, bob.address)).listing
    third = derive(stand.market, operator, trained(stand, second, carol.address, "two")).listing
    return Line(stand, first, second, third)


def verdicts(link: Link) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in link.checks}


def failures(links: tuple[Link, ...]) -> list[tuple[int, str, str]]:
    return [
        (place, check.name, check.evidence)
        for place, link in enumerate(links)
        for check in link.checks
        if check.verdict is Verdict.FAILED
    ]


def test_a_line_is_walked_to_what_somebody_published_and_every_link_holds(line: Line) -> None:
    links = line.trace()
    assert [link.did for link in links] == [line.third.did, line.second.did, line.first.did]
    assert [link.is_verified for link in links] == [True, True, True], failures(links)
    names = [list(verdicts(link)) for link in links]
    assert names == [["asset", "model", "statement", "parent", "owner", "operator"]] * 2 + [["asset", "model"]]
    derivations = [link.derivation for link in links]
    assert derivations[0] is not None and derivations[0].trainer == line.third.publisher
    assert derivations[0].parent == line.second.did
    assert derivations[2] is None


def test_a_market_that_shows_nothing_leaves_the_chain_to_be_followed_alone(line: Line) -> None:
    links = line.trace(lambda _did: None)
    assert [link.did for link in links] == [line.third.did, line.second.did, line.first.did]
    assert failures(links) == []
    assert [link.is_verified for link in links] == [False, False, False]
    assert verdicts(links[0])["statement"] is Verdict.NOT_CHECKED
    assert verdicts(links[0])["parent"] is Verdict.OK


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dataset": "another text"}, "the chain names"),
        ({"parameters": {"steps": 5}}, "the chain names"),
        ({"job": "no job"}, "derivation.job"),
        ({"more": 1}, "exactly the fields"),
    ],
    ids=["dataset", "parameters", "malformed", "more"],
)
def test_another_story_than_the_one_on_chain_is_found(line: Line, change: dict[str, Any], reason: str) -> None:
    def say(did: Did) -> Said | None:
        said = line.said(did)
        if did != line.third.did or said is None or said.derivation is None:
            return said
        return replace(said, derivation={**said.derivation, **change})

    ((place, name, evidence),) = failures(line.trace(say))
    assert (place, name) == (0, "statement")
    assert reason in evidence


def test_a_market_that_serves_another_digest_is_found(line: Line) -> None:
    other = Said("GPT", Bytes32("0x" + "66" * 32), None)
    ((place, name, evidence),) = failures(line.trace(lambda did: other if did == line.first.did else line.said(did)))
    assert (place, name) == (2, "model")
    assert "0x6666" in evidence


def test_a_published_asset_that_the_market_calls_derived_is_found(line: Line) -> None:
    third = line.said(line.third.did)
    first = line.said(line.first.did)
    assert third is not None and first is not None
    lie = replace(first, derivation=third.derivation)
    found = failures(line.trace(lambda did: lie if did == line.first.did else line.said(did)))
    assert [(place, name) for place, name, _ in found] == [(2, "statement")]


def test_a_parent_that_never_had_that_digest_is_found(line: Line) -> None:
    parent = Parent(line.first.nft, Bytes32("0x" + "05" * 32), Bytes32("0x" + "06" * 32))
    line.record("carol", line.third, PARENT_LABEL, parent.value())
    found = failures(line.trace())
    assert (found[1][1], found[0][1]) == ("parent", "statement")
    assert "never named" in found[1][2]


def test_a_digest_that_the_parent_took_only_afterwards_is_found(line: Line) -> None:
    digest = Bytes32("0x" + "0a" * 32)
    line.record("carol", line.third, PARENT_LABEL, Parent(line.second.nft, digest, Bytes32("0x" + "06" * 32)).value())
    line.record("bob", line.second, MODEL_LABEL, bytes.fromhex(digest[2:]))
    found = {name: evidence for place, name, evidence in failures(line.trace()) if place == 0}
    assert "only after" in found["parent"]


def test_a_digest_that_the_parent_had_before_it_was_changed_still_holds(line: Line) -> None:
    line.record("alice", line.first, MODEL_LABEL, bytes(32))
    links = line.trace()
    assert [(place, name) for place, name, _ in failures(links)] == [(2, "model")]  # what is served is not what the chain names now
    assert verdicts(links[1])["parent"] is Verdict.OK


def test_datatokens_that_were_minted_to_the_trainer_twice_are_found(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = line.stand.chain.ledger
    monkeypatch.setattr(ledger, "minted", lambda _datatoken, _to, _by: (MINTED, TokenWei(1), MINTED), raising=True)
    found = failures(line.trace())
    assert [(place, name) for place, name, _ in found] == [(0, "owner"), (1, "owner")]
    assert "2 times" in found[0][2]


def test_what_the_owner_mints_and_records_himself_later_breaks_no_link(line: Line) -> None:
    """Carol mints 200 herself, and sells on another market from now on; who made her asset and minted once stays who he was."""
    carol, ledger = line.stand.chain.wallets["carol"], line.stand.chain.ledger
    if isinstance(ledger, SimulatedLedger):
        ledger._datatokens[line.third.datatoken].mints.append((carol.address, MINTED, carol.address))
    elif isinstance(ledger, OceanLedger):
        ledger._outbox.send(carol, f"{line.third.did} own", mint_action(line.third.datatoken, carol.address, MINTED))
    assert ledger.minted(line.third.datatoken, carol.address) == (MINTED, MINTED)
    line.record("carol", line.third, OPERATOR_LABEL, bytes.fromhex(line.first.nft[2:]))
    links = line.trace()
    assert [link.is_verified for link in links] == [True, True, True], failures(links)


def test_an_operator_who_kept_a_right_is_found(line: Line) -> None:
    stand = line.stand
    operator, real = stand.chain.wallets["operator"], stand.ledger
    real.break_call("give_up", "before")
    job = trained(stand, line.third, stand.chain.wallets["bob"].address, "three")
    with pytest.raises(Exception, match="broken before"):
        derive(stand.market, operator, job)
    nft = [each for each in _nfts_of(stand) if each not in {line.first.nft, line.second.nft, line.third.nft}]
    assert len(nft) == 1
    facts = stand.chain.ledger.asset(nft[0])
    said = Said("M4", facts.model_digest or Bytes32(""), job.derivation.to_json())
    links = trace(stand.chain.ledger, lambda did: said if did == facts.did else line.said(did), facts.did, facts.nft)
    ((place, name, evidence),) = failures(links)
    assert (place, name) == (0, "operator")
    assert "still has rights" in evidence


def _nfts_of(stand: Stand) -> list[Any]:
    """Every NFT that this market's journals name."""
    return [json.loads(path.read_text())["nft"] for path in stand.market.publications.glob("*.json")]


def test_a_did_and_an_nft_that_do_not_belong_together_are_refused(line: Line) -> None:
    with pytest.raises(BadInput):
        trace(line.stand.chain.ledger, line.said, line.third.did, line.second.nft)


def test_a_line_that_goes_in_circles_ends_with_a_refusal(line: Line) -> None:
    digest = line.third.model_digest
    line.record("alice", line.first, PARENT_LABEL, Parent(line.third.nft, digest, Bytes32("0x" + "06" * 32)).value())
    with pytest.raises(BadInput, match="a line of at most"):
        line.trace()


def test_a_parent_that_is_on_no_chain_ends_the_line(line: Line) -> None:
    nobody = line.stand.chain.wallets["mallory"].address
    line.record("bob", line.second, PARENT_LABEL, Parent(nobody, Bytes32("0x" + "05" * 32), Bytes32("0x" + "06" * 32)).value())
    links = line.trace()
    assert [link.did for link in links] == [line.third.did, line.second.did]
    assert ("parent", f"{nobody}: no asset of this chain") in [(name, evidence) for _, name, evidence in failures(links)]
