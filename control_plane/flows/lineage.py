"""Where an asset came from: from what was trained last to what somebody published, each link checked against the chain.

In: a ledger reader, an asset's NFT, and what a market says of assets. Out: the links, each with its checks. This module must never
take the market's word for a link: what it says is compared with the chain, and where it says nothing the chain is followed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from control_plane.chain.histories import recorded
from control_plane.chain.ledger import MODEL_LABEL, OPERATOR_LABEL, PARENT_LABEL, AssetFacts, LedgerReader, Rights
from control_plane.did import Address, Bytes32, Did, did_of, parse_address
from control_plane.errors import BadInput, NotFound
from control_plane.flows.derivation import Derivation
from control_plane.flows.derive import MINTED
from control_plane.receipts.verification import Check, Verdict, failed, not_checked, ok

MOST_LINKS = 256


@dataclass(frozen=True)
class Said:
    """What a market says of an asset: its name, its digest, and the statement of its derivation, None for a published one."""

    name: str
    model_digest: Bytes32
    derivation: Mapping[str, Any] | None


@dataclass(frozen=True)
class Link:
    """One asset. said: None where the market does not have it. derivation: the statement, when its hash is the one on chain."""

    did: Did
    facts: AssetFacts
    said: Said | None
    derivation: Derivation | None
    checks: tuple[Check, ...]

    @property
    def is_verified(self) -> bool:
        """Every check was made, and held."""
        return all(check.verdict is Verdict.OK for check in self.checks)


def trace(reader: LedgerReader, say: Callable[[Did], Said | None], did: Did, nft: Address) -> tuple[Link, ...]:
    """The links from `did` to the asset that was not derived, in that order.

    Raises BadInput when `nft` is not the NFT of `did`, NotFound when the chain has no such NFT, Unavailable when no node answers.
    """
    facts = reader.find_asset(did, nft)
    links: list[Link] = []
    seen = set()
    while True:
        seen.add(facts.nft)
        links.append(_link(reader, say, facts))
        if facts.parent is None:
            return tuple(links)
        parent = facts.parent.nft
        if parent in seen or len(links) >= MOST_LINKS:
            raise BadInput("did", f"a line of at most {MOST_LINKS} parents that ends", f"{facts.did}, again {parent}")
        try:
            facts = reader.asset(parent)
        except NotFound:
            return tuple(links)  # told in the check `parent`


def _link(reader: LedgerReader, say: Callable[[Did], Said | None], facts: AssetFacts) -> Link:
    said = say(facts.did)
    checks = [_check_asset(facts), _check_digest(reader, facts, said)]
    derivation = None
    if facts.parent is not None:
        derivation, stated = _check_statement(facts, said)
        checks += [stated, _check_parent(reader, facts), *_check_custody(reader, facts, derivation)]
    elif said is not None and said.derivation is not None:
        checks.append(failed("statement", f"the market says that it was derived, its NFT {facts.nft} names no parent"))
    return Link(facts.did, facts, said, derivation, tuple(checks))


def _check_asset(facts: AssetFacts) -> Check:
    if not facts.is_from_factory:
        return failed("asset", f"{facts.nft} is not of Ocean's factory")
    return ok("asset", f"NFT {facts.nft} and datatoken {facts.datatoken} of Ocean's factory, owned by {facts.owner}")


def _check_digest(reader: LedgerReader, facts: AssetFacts, said: Said | None) -> Check:
    if facts.model_digest is None:
        return failed("model", f"{facts.nft} names no model digest")
    written = len(recorded(reader, facts.nft, facts.datatoken, MODEL_LABEL))
    if said is None:
        return not_checked("model", f"{facts.model_digest} on chain; the market does not have this asset")
    if said.model_digest != facts.model_digest:
        return failed("model", f"the chain names {facts.model_digest}, the market serves {said.model_digest}")
    times = "once" if written == 1 else f"{written} times"
    return ok("model", f"{facts.model_digest}, recorded {times}, is what the market serves")


def _check_statement(facts: AssetFacts, said: Said | None) -> tuple[Derivation | None, Check]:
    """The market's statement is the one whose hash stands on chain, and is about this parent."""
    parent = facts.parent
    assert parent is not None  # noqa: S101  # asked only of derived assets
    if said is None or said.derivation is None:
        return None, not_checked("statement", f"nobody shows the statement with hash {parent.statement}")
    try:
        derivation = Derivation.from_json(said.derivation)
    except BadInput as error:
        return None, failed("statement", error.message)
    if derivation.digest() != parent.statement:
        return None, failed("statement", f"its hash is {derivation.digest()}, the chain names {parent.statement}")
    if (derivation.parent_nft, derivation.parent_digest) != (parent.nft, parent.model_digest):
        return None, failed(
            "statement", f"it is about {derivation.parent_digest} of {derivation.parent_nft}, the chain names others"
        )
    if did_of(facts.nft, derivation.chain_id) != facts.did:
        return None, failed("statement", f"it is about chain {derivation.chain_id}")
    return derivation, ok("statement", f"hash {parent.statement} on chain is that of the statement shown")


def _check_parent(reader: LedgerReader, facts: AssetFacts) -> Check:
    """The parent had that digest on chain before the child was recorded."""
    parent = facts.parent
    assert parent is not None  # noqa: S101  # asked only of derived assets
    try:
        theirs = reader.asset(parent.nft)
    except NotFound:
        return failed("parent", f"{parent.nft}: no asset of this chain")
    child = recorded(reader, facts.nft, facts.datatoken, PARENT_LABEL)
    wanted = bytes.fromhex(parent.model_digest[2:])
    named = [each for each in recorded(reader, parent.nft, theirs.datatoken, MODEL_LABEL) if each.value == wanted]
    if not named:
        return failed("parent", f"{theirs.did} never named {parent.model_digest} on chain")
    if named[0].block > child[0].block:
        return failed("parent", f"{theirs.did} named {parent.model_digest} only after this asset was derived from it")
    return ok("parent", f"{theirs.did} named {parent.model_digest} in block {named[0].block}, before block {child[0].block}")


def _check_custody(reader: LedgerReader, facts: AssetFacts, derivation: Derivation | None) -> tuple[Check, ...]:
    """It was made for the trainer: the operator, who owns the log that it was made with, minted 200 datatokens to him once and kept
    no right. What the trainer mints himself, or records later, changes neither.
    """
    if derivation is None:
        return (not_checked("owner", "who trained it stands in the statement"),)
    trainer = derivation.trainer
    logs = [each.value for each in recorded(reader, facts.nft, facts.datatoken, OPERATOR_LABEL) if len(each.value) == 20]
    if not logs:
        return not_checked("owner", f"trained by {trainer}"), failed("operator", f"{facts.nft} names no log")
    operator = reader.asset(parse_address("0x" + logs[0].hex())).owner
    times = reader.minted(facts.datatoken, trainer, operator).count(MINTED)
    evidence = f"{operator} minted {MINTED // 10**18} datatokens to {trainer} {'once' if times == 1 else f'{times} times'}"
    sold_on = "" if facts.owner == trainer else f"; owned by {facts.owner} now"
    minted = (ok if times == 1 else failed)("owner", f"trained by {trainer}; {evidence}{sold_on}")
    held = reader.rights(facts.nft, facts.datatoken, operator)
    if operator in (trainer, facts.owner):
        return minted, ok("operator", f"{operator} made it for himself")
    if held != Rights():
        return minted, failed("operator", f"{operator} still has rights over it: {held}")
    return minted, ok("operator", f"{operator}, who made it, has no right over it")
