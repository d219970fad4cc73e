"""`infer`: a batch of prompts as a job that is paid for once.

In: a DID, prompts, a wallet. Out: the answers, in the order of the prompts, and their receipt. This module must never need more of
the market than its URL and a chain node.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from control_plane.did import parse_did, parse_transaction_hash
from control_plane.errors import BadInput
from deploy import exits
from deploy.commands.job_buyer import USUAL_ASKING_S, Buyer, duration, kept_lines, payment_options
from deploy.commands.trade import url_option
from deploy.evaluating import read_text
from deploy.job_results import answers_of
from deploy.job_trading import Wanted
from deploy.progress import Steps
from deploy.wallets import wallet_options


@click.command(cls=exits.Command)
@click.argument("did")
@wallet_options
@url_option
@click.option("--prompt", "said", multiple=True, help="A prompt; can be given several times.")
@click.option(
    "--prompts",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of prompts: one a line; or, if its name ends with .json, a list of texts.",
)
@click.option("--max-tokens", type=int, help="Of each answer.  [default: the market's, 16]")
@click.option("--temperature", type=float, help="0 is greedy.  [default: 1]")
@click.option("--top-p", type=float, help="Only the likeliest that reach this probability together.")
@click.option("--top-k", type=int, help="Only so many of the likeliest.")
@click.option("--seed", type=int, help="Prompt i, counted from 0, is answered with the seed plus i.  [default: 0]")
@payment_options(usual_minutes=USUAL_ASKING_S // 60)
@click.option("--order", help="An order that has been paid and has no job now; default: pay for a new one.")
def infer(
    did: str,
    account: str | None,
    keystore: Path | None,
    url: str | None,
    said: tuple[str, ...],
    file: Path | None,
    environment: str,
    minutes: int | None,
    max_price: str | None,
    order: str | None,
    is_json: bool,
    **drawing: Any,
) -> None:
    """Have DID answer a batch of prompts as one job: one payment, however many they are.

    Shows the whole price, pays it, waits for the job's end, prints the answers and keeps their receipt. Interrupted, or ended with
    code 4 or 5: run it again, it goes on with the same payment; a job that is in the queue goes on by itself (`posthuman jobs`).

    \b
    Example:
      posthuman infer did:op:... --prompts prompts.txt --max-tokens 32 --temperature 0 --as bob
    """
    prompts = [*said, *([] if file is None else read_prompts(file))]
    if not prompts:
        raise click.UsageError("give --prompt or --prompts")
    buyer = Buyer(account, keystore, url)
    wanted = Wanted(
        kind="infer",
        did=parse_did(did),
        parameters={"prompts": prompts, **{name: value for name, value in drawing.items() if value is not None}},
        environment=environment,
        duration_s=duration(buyer.market.environments(), environment, minutes, USUAL_ASKING_S),
        order=None if order is None else parse_transaction_hash(order, "--order"),
    )
    queued = buyer.order(wanted, max_price, Steps(is_quiet=is_json))
    job = buyer.finished(queued["job_id"], is_json)
    answers = answers_of(job, len(prompts))
    kept = buyer.keep(job, wanted.parameters)
    record = {
        "did": did,
        "job_id": job["job_id"],
        "answers": [vars(each) for each in answers],
        "receipt": None if kept is None else job["receipt"]["id"],
        "file": None if kept is None else str(kept),
        "job": job,
    }
    lines = [f"[{number}] {each.text}" for number, each in enumerate(answers, 1)]
    total = f"job {job['job_id']}: {sum(each.tokens for each in answers)} tokens"
    exits.show(record, [*lines, "", total, *kept_lines(job, kept)], is_json)


def read_prompts(file: Path) -> list[str]:
    """Raises BadInput for a file without a prompt, and for a `.json` file that is no list of texts."""
    text = read_text(file)
    if file.suffix != ".json":
        return [line for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(str(file), "a list of texts as JSON", type(error).__name__) from error
    if not isinstance(found, list) or not found or not all(isinstance(each, str) and each for each in found):
        raise BadInput(str(file), "a list of texts as JSON, none of them empty", type(found).__name__)
    return found
