"""The story of `make demo-train`: Alice's model is trained by Bob, and his by Charlie; Derek calls it, Elena evaluates all three.

In: a state folder of a market of its own, texts, perhaps a model. Out: a told story and whether every check held. This module must
never check with the part that made the claim: owners, datatokens, fees and lineage are read from the chain.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from c2d_adapter.algorithms.evaluate import passages as passages_of
from control_plane.chain.ledger import Rights
from control_plane.chain.ocean import open_ledger
from control_plane.chain.revenue import revenue
from control_plane.chain.rpc import Rpc
from control_plane.did import Address, Did, parse_address, parse_did
from control_plane.errors import Refused
from control_plane.flows.derive import MINTED
from control_plane.flows.lineage import Said, trace
from control_plane.jobs.environments import PAID
from deploy.buyer import BuyerFiles
from deploy.commands.lineage import said_by
from deploy.commands.money import revenue_lines, sums_of
from deploy.commands.trade import tokens
from deploy.demo import auditor
from deploy.demo.held_out import held_out_text
from deploy.demo.models import choose_model
from deploy.demo.narration import Narrator
from deploy.demo.story import BREAKS, PROMPTS, Stage, publish, start
from deploy.evaluating import draw, evaluate, read_text
from deploy.job_trading import Wanted, follow, order_job, with_any_session
from deploy.local.chain import local_account
from deploy.local.control import stop_stack
from deploy.trading import answer_of, buy, call

STEPS = 500
SAMPLES, SEED, TOKENS = 100, 0, 96
"""Of ten passages the mean moves more by which ones were drawn than by a short training (measured, DECISIONS 2026-11-28)."""
SEQUENCE = 128
"""Tokens of each sequence that is trained on: a model that reads more would take twice the time, for passages of TOKENS."""
_PAID_S = 3600


@dataclass(frozen=True)
class Model:
    """One of the line. job: None for the first. owner: whose it should be."""

    name: str
    did: Did
    owner: Address
    job: Mapping[str, Any] | None = None


def tell(home: Path, narrator: Narrator, named: str | None, texts: Path, steps: int, licence: str | None, is_ending: bool) -> bool:
    """Tell all chapters; True when every check held. Again: another two trainings of the same model."""
    try:
        _tell(home, narrator, named, texts, steps, licence)
    except BREAKS as error:
        narrator.check("this chapter can be told to its end", False, f"{type(error).__name__}: {error}")
    holds = narrator.verdict()
    if is_ending:
        stop_stack(home)
    else:
        narrator.say(f"\nThe stack goes on running; POSTHUMAN_HOME={home} posthuman down stops it.")
    return holds


def _tell(home: Path, narrator: Narrator, named: str | None, texts: Path, steps: int, licence: str | None) -> None:
    held_out = held_out_text(texts)
    with narrator.chapter("The stack"):
        stage = start(home, narrator)
        narrator.fact("texts", texts)
    with narrator.chapter("Alice publishes a model"):
        model = choose_model(named, home, narrator.steps, licence)
        listing = publish(stage, narrator, model, None).listing
        line = [Model("M1", listing.did, local_account("alice").address)]
    for name, trainer in (("M2", "bob"), ("M3", "charlie")):
        with narrator.chapter(f"{trainer.capitalize()} trains {line[-1].name} {steps} steps further, and owns what comes of it"):
            line.append(_train(stage, narrator, line[-1], name, trainer, steps))
    kept: list[Path] = []
    with narrator.chapter("Derek buys inference on M3"):
        kept += _infer(stage, narrator, line[-1])
    with narrator.chapter("Elena evaluates all three on passages that no training has read"):
        kept += _evaluate(stage, narrator, line, held_out)
    with narrator.chapter("The line, and who earned what, read from the chain"):
        _lineage(stage, narrator, line)
        _money(stage, narrator, line)
    with narrator.chapter("A stranger verifies every receipt"):
        _verify(stage, narrator, kept)


def _train(stage: Stage, narrator: Narrator, parent: Model, name: str, trainer: str, steps: int) -> Model:
    wallet, settings = local_account(trainer), stage.settings
    files = BuyerFiles(stage.home, wallet.address)
    ledger = open_ledger(settings.rpc_url, settings.chain_id, files.folder / "outbox", settings.confirmations)
    parameters = {
        "steps": steps,
        "dataset": "wikitext-2",
        "sequence_length": SEQUENCE,
        "seed": int(name[1:]),  # each trainer reads other passages first
    }
    narrator.fact(trainer.capitalize(), wallet.address)
    wanted = Wanted("train", parent.did, parameters, PAID, _PAID_S)
    with narrator.steps.step("paying, and putting the job into the queue"):
        job = order_job(stage.market, ledger, wallet, files, wanted)
    narrator.fact("job", job["job_id"])
    with narrator.steps.step("waiting for its end") as under_way:

        def look() -> dict[str, Any]:
            return with_any_session(
                stage.market, wallet, files, settings.chain_id, lambda token: stage.market.job(token, str(job["job_id"]))
            )

        for job in follow(look):
            at = job["progress"]
            under_way(job["status_text"] if at is None else f"{job['status_text']}, step {at['step']} of {at['steps']}")
    narrator.check("the job is finished", job["state"] == "finished", job["reason"] or "")
    if job["state"] != "finished":
        raise Refused(f"job {job['job_id']}: expected it finished, found {job['state']}")
    result, did = job["result"], parse_did(job["derived_did"])
    # no check: a model that knows the texts has little to gain on them, and ten steps' mean is mostly chance
    narrator.fact("training loss", f"{result['first_loss']} in the first ten steps, {result['last_loss']} in the last ten")
    narrator.fact(name, did)
    _own(stage, narrator, did, wallet.address)
    return Model(name, did, wallet.address, job)


def _own(stage: Stage, narrator: Narrator, did: Did, owner: Address) -> None:
    """The chain's word on whose the asset is."""
    record = stage.market.model(did)
    nft, datatoken = (parse_address(record[name], name) for name in ("nft", "datatoken"))
    operator = local_account("operator").address
    narrator.check("its NFT is the trainer's", stage.reader.asset(nft).owner == owner, nft)
    minted = stage.reader.minted(datatoken, owner)
    narrator.check("200 datatokens were minted to the trainer, once", minted == (MINTED,), [tokens(each) for each in minted])
    narrator.check("the operator has no right over it", stage.reader.rights(nft, datatoken, operator) == Rights(), operator)
    narrator.fact("balance", f"{tokens(stage.reader.balance(datatoken, owner))} datatokens")


def _infer(stage: Stage, narrator: Narrator, model: Model) -> list[Path]:
    derek = local_account("derek")
    files = BuyerFiles(stage.home, derek.address)
    _order(stage, narrator, "derek", model)
    kept = []
    for prompt in PROMPTS:
        asked = {"model": model.did, "prompt": prompt, "max_tokens": 24, "temperature": 0}
        answered, file = call(stage.market, derek, files, model.did, stage.settings.chain_id, asked)
        narrator.say(f"{prompt!r} {answer_of(answered)!r}")
        kept.append(file)
    narrator.check("every call left a receipt", len(kept) == len(PROMPTS), f"{len(kept)} kept")
    return kept


def _order(stage: Stage, narrator: Narrator, buyer: str, model: Model) -> None:
    wallet, settings = local_account(buyer), stage.settings
    files = BuyerFiles(stage.home, wallet.address)
    ledger = open_ledger(settings.rpc_url, settings.chain_id, files.folder / "outbox", settings.confirmations)
    bought = buy(stage.market, ledger, wallet, files, model.did)
    narrator.fact(f"{buyer.capitalize()} ordered", f"{model.name} for {tokens(bought.total)} OCEAN, {bought.sent.transaction}")


def _evaluate(stage: Stage, narrator: Narrator, line: list[Model], held_out: Path) -> list[Path]:
    elena = local_account("elena")
    files = BuyerFiles(stage.home, elena.address)
    text = [read_text(held_out)]
    passages = draw(text, min(SAMPLES, len(passages_of(text))), SEED)
    losses, kept = [], []
    for model in line:
        _order(stage, narrator, "elena", model)
        with narrator.steps.step(f"scoring {len(passages)} passages with {model.name}"):
            done = evaluate(stage.market, elena, files, model.did, stage.settings.chain_id, passages, TOKENS)
        losses.append(done.found.loss)
        kept += [paid.file for paid in done.calls]
        narrator.fact(model.name, f"{done.found.loss:.4f} nats a token, perplexity {done.found.perplexity:.1f}")
    for (parent, child), (before, after) in zip(pairwise(line), pairwise(losses), strict=True):
        narrator.check(f"{child.name} reads them better than {parent.name}", after < before, f"{after:.4f} after {before:.4f}")
    return kept


def _lineage(stage: Stage, narrator: Narrator, line: list[Model]) -> None:
    last = line[-1].did
    nft = parse_address(stage.market.model(last)["nft"], "nft")

    def say(did: Did) -> Said | None:
        return said_by(stage.market, did)

    links = trace(stage.reader, say, last, nft)
    expected = [model.did for model in reversed(line)]
    narrator.check("M3 was trained from M2, and M2 from M1", [link.did for link in links] == expected, f"{len(links)} assets")
    owners = [link.facts.owner for link in links]
    narrator.check("each is its maker's", owners == [model.owner for model in reversed(line)], ", ".join(owners))
    for link in links:
        broken = [check.name for check in link.checks if check.verdict.value != "ok"]
        narrator.check(
            f"every check of {link.did[:24]}... holds", link.is_verified, ", ".join(broken) or f"{len(link.checks)} checks"
        )


def _money(stage: Stage, narrator: Narrator, line: list[Model]) -> None:
    settings, network = stage.settings, stage.reader.network
    datatokens = {parse_address(stage.market.model(model.did)["datatoken"], "datatoken"): model.name for model in line}
    earned = revenue(Rpc(settings.rpc_url, settings.chain_id), network, tuple(datatokens))
    names = {str(address): name for address, name in datatokens.items()} | {str(network.ocean): "OCEAN"}
    for text in revenue_lines(sums_of(earned), names, {}):
        narrator.say(text)
    operator = local_account("operator").address
    orders = {each.transaction for each in earned if each.kind == "order"}
    fees = [each for each in earned if each.kind == "publish" and each.to == operator]
    narrator.check(
        "the marketplace owner got the publish fee of every order",
        len(fees) == len(orders) > 0 and all(fee.amount == settings.publish_fee for fee in fees),
        f"{len(orders)} orders, {tokens(sum(fee.amount for fee in fees))} OCEAN",
    )
    for model in line:
        got = sum(each.amount for each in earned if each.to == model.owner and each.kind == "sale")
        narrator.check(f"{model.name}'s owner earned from its sales", got > 0, f"{tokens(got)} OCEAN")


def _verify(stage: Stage, narrator: Narrator, kept: list[Path]) -> None:
    from control_plane.receipts.receipt import Issued

    newest = Issued.from_json(json.loads(kept[-1].read_text(encoding="utf-8"))["receipt"]).signed
    with narrator.steps.step("asking the log keeper for an anchor, and waiting for it"):
        auditor.anchor_now(stage.home, stage.settings, stage.reader, newest)
    with tempfile.TemporaryDirectory(dir=stage.home / "cache" / "tmp") as folder, narrator.steps.step(f"verifying {len(kept)}"):
        code, record = auditor.verify_apart(Path(folder), kept, stage.settings)
    found = {Path(one["file"]): one["is_verified"] for one in record.get("files", [])}
    refused = [file.name for file in kept if found.get(file) is not True]
    narrator.check(
        "every receipt verifies, against the chain and the public log",
        code == 0 and not refused,
        str(record.get("error") or f"not verified: {', '.join(refused)}") if code or refused else f"{len(kept)} receipts",
    )
