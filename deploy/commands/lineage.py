"""`lineage`: where an asset came from, checked against the chain.

In: a DID, the market's URL, a node's URL. Out: each asset of the line with its checks. This module must never read the state
folder's database or keys: a stranger gets the same answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from control_plane.chain.ocean import open_reader
from control_plane.did import Did, parse_address, parse_bytes32, parse_did
from control_plane.flows.lineage import Link, Said, trace
from control_plane.receipts.verification import Verdict
from control_plane.settings import read_settings
from deploy import exits
from deploy.commands.trade import url_option
from deploy.line_svg import Box, draw
from deploy.market import Market, MarketRefused
from deploy.progress import Steps

_WORDS = {Verdict.OK: "ok", Verdict.FAILED: "FAILED", Verdict.NOT_CHECKED: "not checked"}


@click.command(cls=exits.Command)
@click.argument("did")
@url_option
@click.option("--rpc", help="URL of a node of the chain; choose one you trust. Default: the market's settings.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Also draw the line into this file.")
def lineage(did: str, url: str | None, rpc: str | None, svg: Path | None, is_json: bool) -> None:
    """Walk from DID to what it was trained from, and so on to the asset that was published; check each link against the chain.

    Exit code 1 unless every check was made and held.

    \b
    Example:
      posthuman lineage did:op:... --svg line.svg
    """
    settings, asked = read_settings(), parse_did(did)
    market = Market(url or settings.public_url)
    first = market.model(asked)
    nft = parse_address(first["nft"], "nft")
    reader = open_reader(rpc or settings.rpc_url, settings.chain_id, settings.confirmations)
    with Steps(is_quiet=is_json).step("asking market and chain"):
        links = trace(reader, lambda each: said_by(market, each), asked, nft)
    if svg is not None:
        svg.write_text(draw([_box(link) for link in links], [_arrow(link) for link in links[:-1]]), encoding="utf-8")
    is_verified = all(link.is_verified for link in links)
    exits.show({"verified": is_verified, "assets": [_record(link) for link in links]}, _lines(links), is_json)
    raise SystemExit(exits.DONE if is_verified else exits.FAILED)


def said_by(market: Market, did: Did) -> Said | None:
    """None only when the market says that it has no such asset; anything else that goes wrong is told."""
    try:
        record = market.model(did)
    except MarketRefused as refused:
        if refused.code == "model_unknown":
            return None
        raise
    return Said(str(record["name"]), parse_bytes32(record["model_digest"], "model_digest"), record.get("derivation"))


def _record(link: Link) -> dict[str, Any]:
    facts, derivation = link.facts, link.derivation
    return {
        "did": link.did,
        "name": None if link.said is None else link.said.name,
        "nft": facts.nft,
        "datatoken": facts.datatoken,
        "owner": facts.owner,
        "model_digest": facts.model_digest,
        "parent": None
        if facts.parent is None
        else {"nft": facts.parent.nft, "model_digest": facts.parent.model_digest, "statement": facts.parent.statement},
        "derivation": None if derivation is None else derivation.to_json(),
        "verified": link.is_verified,
        "checks": [{"name": each.name, "verdict": each.verdict.value, "evidence": each.evidence} for each in link.checks],
    }


def _lines(links: tuple[Link, ...]) -> list[str]:
    lines = []
    for place, link in enumerate(links):
        if place:
            lines.append(f"  trained from  ({_arrow(links[place - 1])})")
        lines.append(f"{_title(link)}")
        lines += [f"    {_WORDS[each.verdict]:<12}{each.name:<11}{each.evidence}" for each in link.checks]
    checks = [each.verdict for link in links for each in link.checks]
    counts = [f"{checks.count(verdict)} {_WORDS[verdict]}" for verdict in Verdict if verdict in checks]
    return [*lines, f"{len(links)} {'asset' if len(links) == 1 else 'assets'}, checks: {', '.join(counts)}"]


def _title(link: Link) -> str:
    name = "(not in this market)" if link.said is None else link.said.name
    return f"{name}  {link.did}"


def _arrow(link: Link) -> str:
    """How the link's asset was trained, in a few words."""
    if link.derivation is None:
        return "nobody shows how"
    steps = link.derivation.parameters.get("steps")
    return f"{'' if steps is None else f'{steps} steps '}on {link.derivation.dataset[:40]}, job {link.derivation.job[:8]}"


def _box(link: Link) -> Box:
    facts = link.facts
    checks = [f"{_WORDS[each.verdict]}: {each.name}" for each in link.checks if each.verdict is not Verdict.OK]
    rows = [link.did, f"owner {facts.owner}", f"model {facts.model_digest}", *(checks or ["every check holds"])]
    return Box("(not in this market)" if link.said is None else link.said.name, rows, link.is_verified)
