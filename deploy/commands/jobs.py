"""`train`, `jobs`, `job`: what a buyer does with jobs.

In: a DID or a job's id, and a wallet. Out: a job, followed to its end where that is asked. This module must never need more of the
market than its URL and a chain node.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from control_plane.chain.ocean import OceanLedger, open_ledger
from control_plane.did import parse_did, parse_transaction_hash
from control_plane.errors import BadInput
from control_plane.flows.offer import Offer
from control_plane.flows.order import cost_of, most_for_one
from control_plane.jobs.environments import PAID
from control_plane.settings import Settings, read_settings
from deploy import exits
from deploy.buyer import BuyerFiles
from deploy.commands.trade import token_wei, tokens, url_option
from deploy.job_trading import Wanted, follow, order_job, with_any_session
from deploy.market import Market
from deploy.progress import Steps
from deploy.wallets import chosen_wallet, wallet_options

_USUAL_S = 3600
Result = TypeVar("Result")
_GOOD_ENDS = frozenset({"finished"})


@click.command(cls=exits.Command)
@click.argument("did")
@wallet_options
@url_option
@click.option("--steps", type=int, default=500, show_default=True)
@click.option("--dataset", default="wikitext-2", show_default=True, help="wikitext-2, or the DID of a text dataset.")
@click.option("--dataset-order", help="The transaction that ordered the dataset, where it is a DID.")
@click.option("--batch-size", type=int)
@click.option("--learning-rate", type=float)
@click.option("--schedule", type=click.Choice(["linear", "constant", "cosine"]))
@click.option("--warmup-steps", type=int)
@click.option("--sequence-length", type=int)
@click.option("--seed", type=int)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]))
@click.option("--method", type=click.Choice(["full", "lora"]))
@click.option("--lora-rank", type=int)
@click.option("--environment", default=PAID, show_default=True, help="Where it runs, see GET /v1/environments.")
@click.option("--minutes", type=click.IntRange(1), help="Of computing to pay for; default: 60, or the environment's most.")
@click.option("--order", help="An order that has been paid and has no job now; default: pay for a new one.")
@click.option("--max-price", help="OCEAN that all of it may cost; default: twice the price plus 1.")
@click.option("--follow", "is_followed", is_flag=True, help="Wait for its end, and show how far it is.")
def train(
    did: str,
    account: str | None,
    keystore: Path | None,
    url: str | None,
    steps: int,
    dataset: str,
    dataset_order: str | None,
    environment: str,
    minutes: int | None,
    order: str | None,
    max_price: str | None,
    is_followed: bool,
    is_json: bool,
    **parameters: Any,
) -> None:
    """Train DID further and own what comes of it.

    Shows the whole price, pays it, and puts the job into the queue. Interrupted, or ended with code 4 or 5: run it again, it goes
    on with the same payment.

    \b
    Example:
      posthuman train did:op:... --steps 500 --dataset wikitext-2 --as bob
    """
    most = None if max_price is None else token_wei(max_price, "--max-price")
    buyer = _Buyer(account, keystore, url)
    told = Steps(is_quiet=is_json)
    wanted = Wanted(
        kind="train",
        did=parse_did(did),
        parameters={"steps": steps, "dataset": dataset, **{name: value for name, value in parameters.items() if value is not None}},
        environment=environment,
        duration_s=duration(buyer.market.environments(), environment, minutes),
        order=None if order is None else parse_transaction_hash(order, "--order"),
        dataset_order=None if dataset_order is None else parse_transaction_hash(dataset_order, "--dataset-order"),
    )

    def tell(offer: Offer) -> None:
        for line in price_lines(offer, wanted):
            told.say(line)

    with told.step("paying and putting the job into the queue"):
        job = order_job(buyer.market, buyer.ledger, buyer.wallet, buyer.files, wanted, tell, most)
    if is_followed:
        buyer.follow(job["job_id"], is_json)
        return
    exits.show(job, [*job_lines(job), f"follow it: posthuman job {job['job_id']}"], is_json)


@click.command(cls=exits.Command)
@wallet_options
@url_option
@click.option("--did", help="Only of this asset.")
def jobs(account: str | None, keystore: Path | None, url: str | None, did: str | None, is_json: bool) -> None:
    """List this wallet's jobs, newest first.

    \b
    Example:
      posthuman jobs --as bob
    """
    buyer = _Buyer(account, keystore, url)
    chosen = None if did is None else parse_did(did, "--did")
    found = buyer.ask(lambda token: buyer.market.jobs(token, chosen))
    lines = [
        f"{_time(job['created_at'])}  {job['job_id']}  {job['kind']:<8} {_progress(job) or job['status_text']}" for job in found
    ]
    exits.show({"jobs": found}, lines or ["no jobs yet"], is_json)


@click.command(cls=exits.Command)
@click.argument("job_id")
@wallet_options
@url_option
@click.option("--stop", "is_stopped", is_flag=True, help="Stop it instead.")
@click.option("--once", is_flag=True, help="Show it as it is now, and do not wait for its end.")
def job(
    job_id: str, account: str | None, keystore: Path | None, url: str | None, is_stopped: bool, once: bool, is_json: bool
) -> None:
    """Follow JOB_ID to its end: step, loss, steps per second. With --json one line for each thing that changes.

    Ends with code 1 when the job failed or was stopped.

    \b
    Example:
      posthuman job 5c0f... --as bob
    """
    buyer = _Buyer(account, keystore, url)
    if is_stopped or once:
        act = buyer.market.stop_job if is_stopped else buyer.market.job
        found = buyer.ask(lambda token: act(token, job_id))
        exits.show(found, job_lines(found), is_json)
        return
    buyer.follow(job_id, is_json)


class _Buyer:
    """Whose command this is, and where."""

    def __init__(self, account: str | None, keystore: Path | None, url: str | None) -> None:
        self.settings: Settings = read_settings()
        self.wallet = chosen_wallet(self.settings, account, keystore)
        self.files = BuyerFiles(self.settings.home, self.wallet.address)
        self.market = Market(url or self.settings.public_url)

    @property
    def ledger(self) -> OceanLedger:
        settings = self.settings
        return open_ledger(settings.rpc_url, settings.chain_id, self.files.folder / "outbox", settings.confirmations)

    def ask(self, ask: Callable[[str], Result]) -> Result:
        return with_any_session(self.market, self.wallet, self.files, self.settings.chain_id, ask)

    def follow(self, job_id: str, is_json: bool) -> None:
        shown = follow(lambda: self.ask(lambda token: self.market.job(token, job_id)))
        last = print_changes(shown) if is_json else show_bar(shown)
        if not is_json:
            for line in job_lines(last):
                click.echo(line)
        if last["state"] not in _GOOD_ENDS:
            raise SystemExit(exits.FAILED)


def print_changes(shown: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """One line of JSON for each state, place in the queue or step that is new; the last one is the whole job."""
    seen: object = None
    last: dict[str, Any] = {}
    for last in shown:
        now = (last["state"], last["queue_position"], last["progress"])
        if now != seen:
            seen = now
            click.echo(json.dumps(last, sort_keys=True))
    return last


def show_bar(shown: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A bar as long as the program runs; without a terminal, click writes its label alone."""
    last = next(shown)
    while last["progress"] is None or last["progress"]["steps"] < 1:
        click.echo(
            f"\r\033[K{last['status_text']}" if sys.stderr.isatty() else last["status_text"], err=True, nl=not sys.stderr.isatty()
        )
        following = _changed(last, shown)
        if following is None:
            return last
        last = following
    steps = int(last["progress"]["steps"])
    with click.progressbar(length=steps, label=last["kind"], file=sys.stderr, item_show_func=lambda each: each or "") as bar:
        while True:
            progress = last["progress"] or {"step": bar.pos}
            bar.update(max(int(progress["step"]) - bar.pos, 0), _progress(last))
            following = next(shown, None)
            if following is None:
                return last
            last = following


def _changed(before: dict[str, Any], shown: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
    """The next that says something else, or has begun; None at the end."""
    for each in shown:
        if each["status_text"] != before["status_text"] or each["progress"] is not None:
            return each
    return None


def duration(environments: list[dict[str, Any]], environment: str, minutes: int | None) -> int:
    """Seconds to pay for. Raises BadInput for an environment that is not offered."""
    if minutes is not None:
        return minutes * 60
    for each in environments:
        if each["id"] == environment:
            return min(_USUAL_S, int(each["max_duration_s"]))
    raise BadInput("--environment", " or ".join(str(each["id"]) for each in environments) or "one that is offered", environment)


def price_lines(offer: Offer, wanted: Wanted) -> list[str]:
    return [
        f"one datatoken of the model: at most {tokens(most_for_one(offer))} OCEAN, the exchange's fees inside",
        f"to the marketplace owner: {tokens(offer.publish_fee)} OCEAN",
        f"{wanted.duration_s} s of computing in {wanted.environment}: {tokens(offer.provider_fee.amount)} OCEAN",
        f"in all at most {tokens(cost_of(offer))} OCEAN",
    ]


def job_lines(job: dict[str, Any]) -> list[str]:
    lines = [f"job {job['job_id']}: {job['kind']} of {job['did']}", job["status_text"]]
    if progress := _progress(job):
        lines.append(progress)
    if job["result"] is not None:
        lines += [f"{name}: {value}" for name, value in job["result"].items() if not isinstance(value, list | dict)]
    if job["derived_did"] is not None:
        lines.append(f"yours: {job['derived_did']}")
    if job["is_payment_given_back"]:
        lines.append(f"its payment is good for another job: posthuman train {job['did']} --order {job['payment']}")
    return lines


def _progress(job: dict[str, Any]) -> str:
    progress = job["progress"]
    if progress is None:
        return ""
    parts = [f"step {progress['step']} of {progress['steps']}"]
    if progress["loss"] is not None:
        parts.append(f"loss {progress['loss']:.4f}")
    if progress["steps_per_second"] is not None:
        parts.append(f"{progress['steps_per_second']:.2f} steps/s")
    return ", ".join(parts)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
