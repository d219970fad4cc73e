"""`train`, `jobs`, `job`: what a buyer does with jobs.

In: a DID or a job's id, and a wallet. Out: a job, followed to its end where that is asked. This module must never need more of the
market than its URL and a chain node.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from control_plane.did import parse_did, parse_transaction_hash
from deploy import exits
from deploy.commands.job_buyer import Buyer, duration, kept_lines, payment_options
from deploy.commands.trade import url_option
from deploy.job_results import published_statement
from deploy.job_showing import job_lines, progress_text
from deploy.job_trading import Wanted
from deploy.progress import Steps
from deploy.wallets import wallet_options


@click.command(cls=exits.Command)
@click.argument("did")
@wallet_options
@url_option
@click.option("--steps", type=int, default=500, show_default=True)
@click.option("--dataset", default="wikitext-2", show_default=True, help="wikitext-2, or the DID of a text dataset.")
@click.option(
    "--dataset-order",
    help="The transaction that ordered the dataset, where it is a DID; default: the one that was paid for here while it is good, "
    "otherwise the dataset is paid for too.",
)
@click.option("--batch-size", type=int)
@click.option("--learning-rate", type=float)
@click.option("--schedule", type=click.Choice(["linear", "constant", "cosine"]))
@click.option("--warmup-steps", type=int)
@click.option("--sequence-length", type=int)
@click.option("--seed", type=int)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]))
@click.option("--method", type=click.Choice(["full", "lora"]))
@click.option("--lora-rank", type=int)
@payment_options(usual_minutes=60)
@click.option("--order", help="An order that has been paid and has no job now; default: pay for a new one.")
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
    buyer = Buyer(account, keystore, url)
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
    job = buyer.order(wanted, max_price, told)
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
    buyer = Buyer(account, keystore, url)
    chosen = None if did is None else parse_did(did, "--did")
    found = buyer.ask(lambda token: buyer.market.jobs(token, chosen))
    lines = [
        f"{_time(job['created_at'])}  {job['job_id']}  {job['kind']:<8} {progress_text(job) or job['status_text']}" for job in found
    ]
    exits.show({"jobs": found}, lines or ["no jobs yet"], is_json)


@click.command(cls=exits.Command)
@click.argument("job_id")
@wallet_options
@url_option
@click.option("--stop", "is_stopped", is_flag=True, help="Stop it instead.")
@click.option("--once", is_flag=True, help="Show it as it is now, and do not wait for its end.")
@click.option("--publish", "is_published", is_flag=True, help="Let everybody see what an evaluation has found.")
def job(
    job_id: str,
    account: str | None,
    keystore: Path | None,
    url: str | None,
    is_stopped: bool,
    once: bool,
    is_published: bool,
    is_json: bool,
) -> None:
    """Follow JOB_ID to its end: step, loss, steps per second. With --json one line for each thing that changes.

    A batch of prompts that was answered has a receipt, which is kept beside those of calls (`posthuman receipts`).
    Ends with code 1 when the job failed or was stopped.

    \b
    Example:
      posthuman job 5c0f... --as bob
    """
    buyer = Buyer(account, keystore, url)
    if is_published:
        published = buyer.ask(lambda token: buyer.market.publish_job(token, job_id))
        said = published_statement(published).evaluation
        line = f"published as {published['id']}: posthuman evaluations {said.did} --evaluator {said.evaluator}"
        exits.show(published, [line], is_json)
        return
    if is_stopped or once:
        act = buyer.market.stop_job if is_stopped else buyer.market.job
        found = buyer.ask(lambda token: act(token, job_id))
        exits.show(found, [*job_lines(found), *kept_lines(found, buyer.keep(found))], is_json)
        return
    buyer.follow(job_id, is_json)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
